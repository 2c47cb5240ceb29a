"""Pages of executed notebooks, opened in Chromium and read by the picky reader of `tools.look`."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from lagkit.nightly import notebook as nb
from lagkit.nightly import pages, profile
from lagkit.util.errors import ConfigError
from lagkit.views import pictures
from tests.helpers import cells

pytest.importorskip("playwright.sync_api")
from tools import look

try:
    pictures.browser()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)


def page_of(copy: Path) -> Path:
    """The page of an executed notebook, beside it."""
    notebook = nbformat.read(copy, as_version=4)
    pages.write_script(copy.parent)
    page = copy.with_suffix(".html")
    page.write_text(pages.render(notebook, copy.stem, pages.SCRIPT, pages.Link("index.html", "Back")), encoding="utf-8")
    return page


def test_a_page_has_no_fault_that_a_reader_would_see(tmp_path, monkeypatch):
    monkeypatch.delenv("LAGKIT_PICTURES")
    tier = cells.small_tier(tmp_path, world={**cells.WORLD, "log_questions": 8, "unseen_questions": 4}, max_rounds=2)
    given = {"tier": tier, "run": str(tmp_path / "run"), "timed": 1}
    copy = nb.execute(cells.NOTEBOOKS["01_build_logs"], tmp_path / "out", given)
    assert look.faults([copy, page_of(copy)]) == []


@pytest.mark.slow
def test_no_page_has_a_fault_that_a_reader_would_see(tmp_path, monkeypatch):
    monkeypatch.delenv("LAGKIT_PICTURES")
    shown = []
    for task in profile.plan(cells.FOLDER.parent / "nightly.yaml", "test").tasks:
        run = {"run": str(tmp_path / (task.run or "run"))} if "run" in cells.PARAMETERS[task.name] else {}
        copy = nb.execute(cells.NOTEBOOKS[task.name], tmp_path / task.name, {**task.parameters, **run})
        shown += [copy, page_of(copy)]
    assert look.faults(shown) == []
