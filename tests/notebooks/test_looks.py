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

FAST = {
    "01_build_logs": {"timed": 1},
    "04_round_budget": {"policies": ["text_last_round", "kv_last_round"], "max_rounds": 2},
    "06_position_realignment": {"asked": 4, "steps": 1, "dtypes": ["float32"]},
}


def page_of(copy: Path) -> Path:
    """The page of an executed notebook, beside it."""
    notebook = nbformat.read(copy, as_version=4)
    pages.write_script(copy.parent)
    page = copy.with_suffix(".html")
    page.write_text(pages.render(notebook, copy.stem, pages.SCRIPT, pages.Link("index.html", "Back")), encoding="utf-8")
    return page


def test_three_pages_have_no_fault_that_a_reader_would_see(tmp_path, monkeypatch):
    monkeypatch.delenv("LAGKIT_PICTURES")
    tier, shown = cells.small_tier(tmp_path), []
    for name, given in FAST.items():
        given = {**given, "tier": tier, "run": str(tmp_path / f"run{given.get('max_rounds', '')}")}
        copy = nb.execute(cells.NOTEBOOKS[name], tmp_path / name, given)
        shown += [copy, page_of(copy)]
    assert look.faults(shown) == []


@pytest.mark.slow
def test_no_page_has_a_fault_that_a_reader_would_see(tmp_path, monkeypatch):
    monkeypatch.delenv("LAGKIT_PICTURES")
    shown = []
    for task in profile.plan(cells.FOLDER.parent / "nightly.yaml", "test").tasks:
        run = {"run": str(tmp_path / (task.run or "run"))} if "run" in cells.PARAMETERS[task.name] else {}
        copy = nb.execute(cells.NOTEBOOKS[task.name], tmp_path / task.name, {**task.parameters, **run})
        shown += [copy, page_of(copy)]
    assert look.faults(shown) == []
