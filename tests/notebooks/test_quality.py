"""Notebook 08 on a small test world: what it records, says and leaves out."""

from __future__ import annotations

import pytest

from tests.helpers import cells
from tests.helpers.executed import execute

WORLD = {"entities": 90, "log_questions": 10, "unseen_questions": 3, "hops": [1, 2, 3]}
TINY = {"variants": ["kv_last_round"], "shares": [0.0, 1.0], "unseen_questions": 3}


def run(folder, **parameters):
    """The executed notebook, on a world whose longer questions do not get an answer."""
    tier = cells.small_tier(folder, world=WORLD, max_rounds=2)
    return execute("08_log_quality", folder / "out", **{**TINY, **parameters}, tier=tier, run=str(folder / "run"))


def test_shares_and_filters_are_measured_for_logs_as_they_are_and_forced_ones(tmp_path):
    found = run(tmp_path)
    numbers = found.metrics
    for label in ("logs_as_they_are", "forced_logs"):
        value, gain = (numbers[f"{name}.kv_last_round.{label}.wrong-1.unseen"] for name in ("em", "em_diff"))
        assert 0 <= value <= 1
        assert value - gain == pytest.approx(
            numbers[f"em.kv_last_round.{label}.wrong-0.unseen"]
            - numbers[f"em_diff.kv_last_round.{label}.wrong-0.unseen"]
        )
        assert numbers[f"recall.{label}.all"] == 1
        for name in ("answered", "agreement", "supported", "confidence"):
            lift = numbers[f"precision.{label}.{name}"] - numbers[f"precision.{label}.all"]
            assert numbers[f"precision_diff.{label}.{name}"] == pytest.approx(lift)
    # Every log that is not right has no answer, and every forced one has an answer.
    assert numbers["precision.logs_as_they_are.answered"] == 1
    assert numbers["precision_diff.forced_logs.answered"] == 0
    assert numbers["em_diff.kv_last_round.forced_logs.answered.against_all_logs.unseen"] == 0
    assert "wrong answer" not in found.findings[0]
    assert len(found.figures) == 3
    assert found.printed == ""


@pytest.mark.slow
def test_a_filter_that_cannot_be_used_is_left_out_with_a_sentence(tmp_path):
    found = run(tmp_path, forced=False, filters=["answered", "agreement"], second="no_logs+passages=1")
    assert "recall.logs_as_they_are.answered" in found.metrics
    assert not any("agreement" in name or "forced" in name for name in found.metrics)
    assert found.printed.startswith("logs as they are: no_logs+passages=1 would only repeat the first run")
