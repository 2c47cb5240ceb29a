"""The pages of docs/results say what their committed rows say: each is made again and is the same to the letter."""

from __future__ import annotations

import json
import numbers
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests import pages


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_is_what_its_rows_make(name):
    assert (pages.RESULTS / name).read_text(encoding="utf-8") == pages.PAGES[name]()


@pytest.mark.parametrize("run", pages.RUNS, ids=lambda run: run.name)
def test_a_real_run_s_tables_are_what_its_rows_make(run, tmp_path):
    pages.report.remake(run, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in run.iterdir()} & set(pages.report.TABLES)
    assert set(pages.report.TABLES) - names <= {"strata.csv"}  # of data that name no sub-questions
    for name in names:
        assert (run / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8"), name


def made_by(settings: Path) -> Path:
    """Where the rows of a file of settings say what they were made with."""
    return settings.with_name("manifest.json") if settings.name == "run.yaml" else settings.with_suffix(".json")


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(pages.RESULTS.rglob("*.yaml")) if made_by(p).exists()],
    ids=lambda p: str(p.relative_to(pages.RESULTS)),
)
def test_settings_that_a_page_names_are_those_that_its_rows_were_made_with(path):
    made = json.loads(made_by(path).read_text(encoding="utf-8"))["settings"]
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {name: made.get(name) for name in given if name != "data"} == {n: v for n, v in given.items() if n != "data"}


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
