"""JupyterLab for real, driven in Chromium: the exploring notebook is run, and its widgets are used as by a person."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lagkit.views import lab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "20_explore.ipynb"
SIZES = {"log_questions": 12, "unseen_questions": 12}
SECONDS = 120  # that a step may take on a busy machine; an idle one needs a few

ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText:has-text('Traceback')"
LOCAL = re.compile(r"(?:http://127\.0\.0\.1[:/]|data:|blob:)")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the notebook beside a small run whose logs are there already."""
    top = tmp_path_factory.mktemp("lab")
    run = lab.open_run("testbed", top / "runs" / "testbed", **SIZES, policies=("no_logs", "kv_last_round"))
    run.build()
    (top / "asked.txt").write_text(run.questions("unseen")[0].text, encoding="utf-8")
    text = NOTEBOOK.read_text(encoding="utf-8")
    for name, size in SIZES.items():
        text, changed = re.subn(rf"{name}: int = 0", f"{name}: int = {size}", text)
        assert changed == 1
    text = re.sub(r"!\[([^\]]*)\]\(https://[^)]*\)", r"\1", text)  # badges, whose pictures come over the network
    (top / "notebooks").mkdir()
    (top / "notebooks" / NOTEBOOK.name).write_text(text, encoding="utf-8")
    return top


@pytest.fixture(scope="module")
def address(folder):
    """The notebook's address in a JupyterLab of its own, which ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    home = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **home, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "LAGKIT_PROGRESS": "bar"}
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(folder / "workspaces")
    # Else cells outside the window would not be on the page.
    tracker = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}', encoding="utf-8")
    news = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}', encoding="utf-8")
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, folder / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{NOTEBOOK.name}?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        assert server.poll() is None, log.read_text(errors="replace")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not answer: {log.read_text(errors='replace')}")


@pytest.fixture(scope="module")
def complaints():
    """Errors on the browser's console, and what was asked for beyond this machine."""
    return []


@pytest.fixture(scope="module")
def page(address, complaints):
    """The notebook opened, and all its cells run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1400})
        page.set_default_timeout(1000 * SECONDS)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: complaints.append(asked.url) if not LOCAL.match(asked.url) else None)
        page.goto(address)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.wait_for_timeout(2000)  # a kernel that has just connected drops what it is sent
        page.locator(".lm-MenuBar-itemLabel:text-is('Run')").click()
        page.locator(".lm-Menu-itemLabel:text-is('Run All Cells')").click()
        try:
            # The last cell's findings: everything above has run by then.
            findings = page.locator(".jp-OutputArea .jp-RenderedMarkdown:has-text('The store holds')")
            findings.or_(page.locator(ERROR)).first.wait_for()
            yield page
        except Exception:
            _keep(page, "failed")
            raise
        browser.close()


def test_all_cells_run_without_an_error(page):
    assert page.locator(ERROR).all_inner_texts() == []
    page.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")


# The explorer


def test_logs_are_searched(page):
    page.get_by_text("12 of 12 logs.").wait_for()
    before = _listed(page).all_inner_texts()
    _search(page, "mentor")
    found = _listed(page).all_inner_texts()
    assert len(found) == len(before) == 12
    assert [float(row[:4]) for row in found] == sorted((float(row[:4]) for row in found), reverse=True)
    _keep(page, "trace")
    _listed(page).nth(1).click()
    page.get_by_role("tab", name="What is kept").click()
    page.locator(".jupyter-widgets mark:visible").first.wait_for()
    _keep(page, "kept")


def test_the_map_is_drawn_and_follows_the_search(page):
    page.get_by_role("tab", name="Map of the store").click()
    figure = page.locator(".widget-output").first
    figure.locator(".points path").nth(12 + 10 - 1).wait_for()  # all logs, and rings around the ten best
    _fits(figure)
    _keep(page, "map")
    _search(page, "")
    figure.get_by_text("found by the search").wait_for(state="detached")
    figure.locator(".points path").nth(11).wait_for()
    assert figure.locator(".points path").count() == 12
    page.get_by_role("tab", name="Trace").click()
    _search(page, "employer")
    page.get_by_role("tab", name="Map of the store").click()
    figure.get_by_text("found by the search (10)").wait_for()
    _fits(figure)
    _search(page, "")


def test_logs_are_filtered_by_their_outcome(page):
    rows = _listed(page).all_inner_texts()
    choice = page.locator("select:has(option[value='right only'])")
    for kind in ("right", "wrong"):
        choice.select_option(f"{kind} only")
        fitting = [row for row in rows if row.startswith(kind)]
        # The number of logs may be the same as before: what tells is the list.
        page.wait_for_function(f"document.querySelector('select[size] option').textContent.startsWith('{kind}')")
        page.get_by_text(f"{len(fitting)} of 12 logs.").wait_for()
        assert 0 < len(fitting) < 12
        assert _listed(page).all_inner_texts() == fitting
    choice.select_option("right or wrong")
    page.get_by_text("12 of 12 logs.").wait_for()


def test_a_log_is_deleted_after_a_second_press(page):
    page.locator("button:has-text('Delete this log')").click()
    page.locator("button:has-text('No, keep it')").click()
    page.locator("button:has-text('No, keep it')").wait_for(state="hidden")
    assert _listed(page).count() == 12
    page.locator("button:has-text('Delete this log')").click()
    _keep(page, "delete")
    page.locator("button:has-text('Yes, delete it')").click()
    page.get_by_text("was deleted; 11 are left.").wait_for()
    assert _listed(page).count() == 11


# The playground


def test_a_question_that_cannot_be_asked_is_told_in_a_sentence(page):
    _ask(page, "")
    page.get_by_text("Type a question first.").wait_for()
    _keep(page, "error")


def test_a_question_is_answered(page, folder):
    _ask(page, (folder / "asked.txt").read_text(encoding="utf-8"))
    _keep(page, "asked")
    page.get_by_text("Done: 3 variants.").wait_for()
    answers = page.locator(".widget-html-content .lagkit-answer").all_inner_texts()
    assert answers
    assert all(answers)
    assert page.locator("select:has(option[value='a question of your own'])").input_value() == "a question of your own"
    _keep(page, "playground")


def test_what_an_answer_attends_to_is_drawn(page):
    look = page.locator("button:has-text('What does the answer attend to?')")
    variant = page.locator("select:has(option[value='kv_last_round'])").last
    assert variant.input_value() == "no_logs"
    figure = page.locator(".widget-output").last
    for name, title in (("no_logs", "no logs"), ("kv_last_round", "KV, last round")):
        variant.select_option(name)
        look.click()
        figure.get_by_text(f"What the last response of {title} attends to").wait_for()
        assert figure.locator(".barlayer .point").count() >= 4
        _fits(figure)
    assert figure.get_by_text(re.compile("^log 1: ")).count() == 1
    figure.scroll_into_view_if_needed()
    _keep(page, "attention")


def test_stop_ends_the_work(page, folder):
    for box in page.locator(".widget-checkbox input").all():
        box.check()
    _ask(page, (folder / "asked.txt").read_text(encoding="utf-8"))
    page.locator("button:has-text('Stop'):enabled").click()
    page.get_by_text("Stopped; what was done until then is shown.").wait_for()
    page.locator("button:has-text('Ask'):enabled").wait_for()


def test_nothing_is_loaded_from_elsewhere_and_no_error_stands_on_the_console(page, complaints):
    assert page.locator(ERROR).all_inner_texts() == []
    assert complaints == []


def _listed(page):
    return page.locator("select[size] option")


def _search(page, words: str) -> None:
    """Type, press Enter, and wait for the list: it shows scores where something is searched for."""
    box = page.get_by_placeholder("search by meaning")
    box.scroll_into_view_if_needed()
    box.fill(words)
    box.press("Enter")
    first = "document.querySelector('select[size] option').textContent"
    page.wait_for_function(f"/^0\\.\\d\\d/.test({first}) === {str(bool(words)).lower()}")


def _ask(page, words: str) -> None:
    box = page.get_by_placeholder("type a question, or choose an example")
    box.scroll_into_view_if_needed()
    box.fill(words)
    box.press("Tab")
    page.locator(".jupyter-button:has-text('Ask')").click()  # its icon is part of its accessible name


def _fits(figure) -> None:
    """The output holds one figure, which can be seen and is as wide as the room for it."""
    assert figure.locator(".js-plotly-plot").count() == 1
    room, drawn = figure.bounding_box(), figure.locator(".main-svg").first.bounding_box()
    assert room["width"] > 400
    assert drawn["width"] == pytest.approx(room["width"], abs=2)
    assert drawn["height"] > 200


def _keep(page, name: str) -> None:
    """A picture for whoever asks for one, to look at."""
    if folder := os.environ.get("LAGKIT_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"20_explore_{name}.png")
