"""The pages of docs/results say what their committed rows say: each is made again and is the same to the letter."""

from __future__ import annotations

import numbers
import re

import pandas as pd
import pytest

from tests import pages


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_is_what_its_rows_make(name):
    assert (pages.RESULTS / name).read_text(encoding="utf-8") == pages.PAGES[name]()


@pytest.mark.parametrize("run", pages.RUNS, ids=lambda run: run.name)
def test_a_real_run_s_tables_are_what_its_rows_make(run, tmp_path):
    pages.report.remake(run, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == set(pages.report.TABLES)
    for name in names:
        assert (run / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8"), name


def test_every_page_has_rows():
    written = {path.name for path in pages.RESULTS.glob("*.md")} - {"README.md"}
    assert written == {name for name in pages.PAGES if "/" not in name}


@pytest.mark.parametrize(
    "path",
    [p for name in ("forms", "real/closed", "real/pilot", "sink") for p in (pages.RESULTS / name).glob("*.parquet")],
)
def test_rows_of_a_real_data_set_repeat_no_words_of_its_hops(path):
    assert all(isinstance(hop, numbers.Integral) for own in pd.read_parquet(path)["hops"] for hop in own)


def test_no_committed_page_tells_an_interval_without_width():
    for path in pages.RESULTS.rglob("*.md"):
        for low, high in re.findall(r"\[([+-][\d.]+), ([+-][\d.]+)\]", path.read_text(encoding="utf-8")):
            assert (float(low), float(high)) != (0.0, 0.0), path
