"""JupyterLab for real, driven in Chromium: the exploring notebook is run, a question is asked, logs are searched."""

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

from lagkit import lab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "20_explore.ipynb"
SIZES = {"log_questions": 12, "unseen_questions": 12}
SECONDS = 120  # that a step may take on a busy machine; an idle one needs a few

ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText:has-text('Traceback')"

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
def page(address):
    """The notebook opened, and all its cells run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1400})
        page.set_default_timeout(1000 * SECONDS)
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


def test_a_question_asked_in_the_playground_is_answered_on_the_page(page, folder):
    box = page.get_by_placeholder("type a question, or choose an example")
    box.scroll_into_view_if_needed()
    box.fill((folder / "asked.txt").read_text(encoding="utf-8"))
    box.press("Tab")
    page.locator(".jupyter-button:has-text('Ask')").click()  # its icon is part of its accessible name
    _keep(page, "asked")
    page.get_by_text("Done: 3 variants.").wait_for()
    answers = page.locator(".widget-html-content .lagkit-answer, .jupyter-widgets .lagkit-answer").all_inner_texts()
    assert answers
    assert all(answers)
    _keep(page, "playground")


def test_logs_are_searched_in_the_explorer(page):
    box = page.get_by_placeholder("search by meaning")
    box.scroll_into_view_if_needed()
    page.get_by_text("12 of 12 logs.").wait_for()
    listed = page.locator("select[size] option")
    before = listed.all_inner_texts()
    box.fill("mentor")
    box.press("Enter")
    page.wait_for_function("document.querySelector('select[size] option').textContent.match(/^0\\.\\d\\d/)")
    found = listed.all_inner_texts()
    assert len(found) == len(before) == 12
    assert [float(row[:4]) for row in found] == sorted((float(row[:4]) for row in found), reverse=True)
    listed.first.click()
    page.get_by_role("tab", name="What is kept").click()
    page.locator(".jupyter-widgets mark").first.wait_for()
    _keep(page, "kept")


def _keep(page, name: str) -> None:
    """A picture for whoever asks for one, to look at."""
    if folder := os.environ.get("LAGKIT_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"20_explore_{name}.png")
