"""Notebook 09 on the sample, with rounds of a few tokens."""

from __future__ import annotations

import pytest

from tests.helpers import cells
from tests.helpers.executed import execute


def test_the_record_of_a_stream_of_the_sample(tmp_path, pytestconfig):
    tier = cells.small_tier(tmp_path, max_rounds=1, max_new_tokens=8, dataset="musique")
    given = {"data": str(pytestconfig.rootpath / "data" / "sample"), "run": str(tmp_path / "run")}
    sizes = {"log_questions": 4, "unseen_questions": 2, "cap": 2, "parts": 2, "orders": 1}
    found = execute("09_online_store", tmp_path / "out", tier=tier, **given, **sizes)
    numbers = found.metrics
    assert (numbers["logs.append"], numbers["logs.cap"], numbers["logs.static"]) == (6, 2, 4)
    assert numbers["logs.dedup+cap"] <= 2
    for name in ("append", "dedup", "cap", "dedup+cap"):
        gained = numbers[f"em.{name}.late"] - numbers["em.no_logs.late"]
        assert numbers[f"em_diff.{name}.late"] == pytest.approx(gained)
        behind = numbers[f"em.{name}.late"] - numbers["em.static.late"]
        assert numbers[f"against_static.em.{name}.late"] == pytest.approx(behind)
    assert 0 < numbers["bytes.cap"] < numbers["bytes.append"]
    assert len(found.figures) == 2
