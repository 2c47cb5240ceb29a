"""JupyterLab for real, driven in Chromium: the exploring notebook is run, and its widgets are used as by a person."""

from __future__ import annotations

import json
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
_ROUNDS = "[...document.querySelectorAll('.lagkit-logs tbody tr')].map((row) => +row.cells[3].textContent)"
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
    found = _search(page, "mentor")
    scores = [float(row.split()[0]) for row in found]
    assert 0 < len(found) <= 12
    assert scores == sorted(scores, reverse=True)
    _keep(page, "trace")
    _search(page, "banjo")
    page.get_by_text("Nothing is similar to “banjo”").first.wait_for()
    assert len(_search(page, "")) == 12


def test_a_head_sorts_and_keys_choose(page):
    page.locator(".lagkit-logs th button:has-text('rounds')").click()
    page.locator(".lagkit-logs th[aria-sort='ascending']:has-text('rounds')").wait_for()
    page.locator(".lagkit-logs th button:has-text('rounds')").click()
    page.locator(".lagkit-logs th[aria-sort='descending']:has-text('rounds')").wait_for()
    page.wait_for_function(f"{_ROUNDS}.every((one, at, all) => !at || all[at - 1] >= one)")
    _listed(page).nth(1).click()
    page.locator(".lagkit-logs tbody tr:nth-child(2)[aria-selected='true']").wait_for()
    page.keyboard.press("ArrowDown")
    third = page.locator(".lagkit-logs tbody tr:nth-child(3)[aria-selected='true']")
    third.wait_for()
    question = third.locator("td").first.inner_text()
    page.locator(f".jupyter-widgets h4:text-is({json.dumps(question)})").first.wait_for()
    page.get_by_role("tab", name="What is kept").click()
    page.locator(".jupyter-widgets mark:visible").first.wait_for()
    _keep(page, "kept")
    page.locator("button:has-text('What did these tokens attend to?'):enabled").click()
    page.locator(".lagkit-tokens:visible canvas").first.wait_for()
    _keep(page, "encoding")


def test_the_map_chooses_and_filters(page):
    page.get_by_role("tab", name="Map of the store").click()
    view = page.locator(".lagkit-map > svg")
    page.locator(".lagkit-map .point").nth(11).wait_for(state="attached")
    point = page.locator(f".lagkit-map .point[data-id='{_listed(page).last.get_attribute('data-id')}']")
    point.click(force=True)
    page.locator(".lagkit-logs tbody tr:last-child[aria-selected='true']").wait_for()
    _keep(page, "map")
    box = view.bounding_box()
    left, top, right, bottom = box["x"] + 2, box["y"] + 2, box["x"] + box["width"] - 2, box["y"] + box["height"] - 2
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((left, bottom), ((left + right) / 2, bottom), ((left + right) / 2, top), (left, top)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.get_by_text("logs inside the lasso.").wait_for()
    assert 0 < _listed(page).count() < 12
    _keep(page, "lasso")
    page.locator("button:has-text('Clear the lasso')").click()
    page.get_by_text("12 of 12 logs.").wait_for()
    page.get_by_role("tab", name="Trace").click()


def test_a_log_is_deleted_after_a_second_press(page):
    question = page.locator(".lagkit-logs tr[aria-selected='true'] td").first.inner_text()
    page.locator("button:has-text('Delete this log')").click()
    page.get_by_text(f"Delete the log of “{question}”").wait_for()
    _keep(page, "delete")
    page.locator("button:has-text('No, keep it')").click()
    page.locator("button:has-text('No, keep it')").wait_for(state="hidden")
    assert _listed(page).count() == 12
    page.locator("button:has-text('Delete this log')").click()
    page.locator("button:has-text('Yes, delete it')").click()
    page.get_by_text("was deleted; 11 are left.").wait_for()
    assert _listed(page).count() == 11


# The playground


def test_a_question_that_cannot_be_asked_is_told_in_a_sentence(page):
    _ask(page, "")
    page.get_by_text("Type a question first.").wait_for()


def test_enter_asks(page, folder):
    _ask(page, (folder / "asked.txt").read_text(encoding="utf-8"))
    page.get_by_text("Done: 2 variants.").wait_for()
    rows = page.locator(".jupyter-widgets .lagkit-summary tbody tr")
    assert rows.locator("th").all_inner_texts() == ["no logs", "KV, last round"]
    page.get_by_text("Right answer: ").first.wait_for()
    rows.first.scroll_into_view_if_needed()
    _keep(page, "playground")


def test_what_an_answer_attends_to_is_shown_token_by_token(page):
    page.locator("select:has(option[value='KV, last round'])").last.select_option("KV, last round")
    page.locator("button:has-text('What does the answer attend to?')").click()
    page.get_by_text("Done: below stands what the answer attends to.").wait_for()
    token_view = page.locator(".widget-output .lagkit-tokens").last
    token_view.locator("canvas").first.wait_for()
    assert token_view.locator(".name").filter(has_text="log 1: ").count() >= 1
    token_view.scroll_into_view_if_needed()
    _keep(page, "attention")


def test_stop_ends_the_work(page, folder):
    page.locator("button:has-text('More variants')").click()
    page.locator("button:has-text('Fewer variants')").wait_for()
    for box in page.locator(".widget-checkbox input:visible").all():
        box.check()
    _ask(page, (folder / "asked.txt").read_text(encoding="utf-8"))
    page.locator("button:has-text('Stop'):enabled").click()
    page.get_by_text("Stopped; what was done until then is shown.").wait_for()
    page.locator(".jupyter-button:has-text('Ask'):enabled").wait_for()


def test_nothing_is_loaded_from_elsewhere_and_no_error_stands_on_the_console(page, complaints):
    assert page.locator(ERROR).all_inner_texts() == []
    assert complaints == []


def _listed(page):
    return page.locator(".lagkit-logs tbody tr")


def _search(page, words: str) -> list[str]:
    """Type, press Enter, and wait for the sentence that says what was found; returns the rows of the table."""
    box = page.get_by_placeholder("search by meaning")
    box.scroll_into_view_if_needed()
    box.fill(words)
    box.press("Enter")
    page.locator("[role=status]").filter(
        has_text=f"similar to “{words}”" if words else re.compile("^12 of 12 logs.$")
    ).wait_for()
    return _listed(page).all_inner_texts()


def _ask(page, words: str) -> None:
    box = page.get_by_placeholder("type a question, or choose an example")
    box.scroll_into_view_if_needed()
    box.fill(words)
    box.press("Enter")


def _keep(page, name: str) -> None:
    """A picture for whoever asks for one, to look at."""
    if folder := os.environ.get("LAGKIT_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"20_explore_{name}.png")
