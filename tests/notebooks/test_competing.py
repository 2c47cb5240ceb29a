"""Notebook 14: what the repository's rows say, and a model that it measures itself."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.util.errors import LagkitError
from tests.helpers.executed import execute
from tests.helpers.lms import saved

CHOSEN = "restating.all_rounds.own.prefix.rivals"


def test_the_rows_of_the_repository_are_shown_in_seconds(tmp_path):
    found = execute("14_competing_logs", tmp_path / "out")
    rows = pd.read_parquet("docs/results/competing/qwen.parquet")
    own = rows[(rows["form"] == "restating") & (rows["reads"] == "own") & (rows["keep"] == "all_rounds")]
    own = own[(own["beside"] == "rivals") & (own["recompute"] == "") & (own["place"] == "prefix")]
    for at in ("first", "middle", "last"):
        assert found.metrics[f"right.qwen.{CHOSEN}.{at}"] == pytest.approx(own[own["at"] == at]["right"].mean())
    assert len(found.figures) == 3  # by place, of restating logs and of terse ones; and repairs
    assert any(said.startswith("qwen: of 3 competing logs") for said in found.findings)


@pytest.mark.slow
def test_another_model_is_measured_and_its_rows_are_kept(tmp_path):
    folder = saved(tmp_path / "tiny")
    given = {"model": str(folder), "groups": 1, "first": 4}
    found = execute("14_competing_logs", tmp_path / "out", **given)
    assert 0 <= found.metrics[f"right.tiny.{CHOSEN}.last"] <= 1
    kept = (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8")
    assert kept.count("\n") == 4
    again = execute("14_competing_logs", tmp_path / "out", **given)
    assert again.metrics == found.metrics
    assert (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8") == kept


def test_real_logs_without_a_model_to_read_them_are_refused(tmp_path):
    with pytest.raises(LagkitError, match="`data` makes logs for a `model` to read: give both, or neither"):
        execute("14_competing_logs", tmp_path / "out", data=str(tmp_path))
