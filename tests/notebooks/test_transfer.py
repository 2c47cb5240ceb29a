"""Notebook 07 on a small test world, and on data that cannot be changed."""

from __future__ import annotations

import pytest

from tests.helpers import cells
from tests.helpers.executed import execute

WORLD = {"entities": 90, "log_questions": 6, "unseen_questions": 4, "hops": [1, 2]}
TINY = {"variants": ["kv_last_round"], "shares": [1.0], "thresholds": [0.4]}


def run(folder, settings=None, **parameters):
    """The executed notebook on a small world, or on `data`."""
    tier = cells.small_tier(folder, world=WORLD, max_rounds=2, **(settings or {}))
    return execute("07_negative_transfer", folder / "out", **TINY, **parameters, tier=tier, run=str(folder / "run"))


def test_on_a_test_world_all_three_kinds_of_logs_and_both_stores_are_measured(tmp_path):
    found = run(tmp_path, unseen_questions=4)
    assert {name.split(".")[2] for name in found.metrics if name.startswith("net.")} == {
        *("removed-0", "removed-1", "changed-0", "changed-1"),
    }
    numbers = found.metrics
    for mix in ("removed-0", "changed-1"):
        gave, took, net = (numbers[f"{side}.kv_last_round.{mix}.unseen"] for side in ("positive", "negative", "net"))
        assert net == pytest.approx(gave - took)
    assert {numbers[f"threshold.kv_last_round.{store}"] for store in ("store_as_it_is", "aged_store")} <= {-1.0, 0.4}
    assert len(found.figures) == 4
    without = (
        numbers["gated_em.kv_last_round.store_as_it_is.all_logs.unseen"] - numbers["net.kv_last_round.removed-0.unseen"]
    )
    for store in ("store_as_it_is", "aged_store"):
        em, difference = (f"{name}.kv_last_round.{store}" for name in ("gated_em", "gated_em_diff"))
        every = numbers[f"{em}.all_logs.unseen"]
        for use in ("all_logs", "similar_logs", "confident_answers", "both", "last_resort"):
            assert numbers[f"{difference}.{use}.unseen"] == pytest.approx(numbers[f"{em}.{use}.unseen"] - every)
        assert numbers[f"{em}.last_resort.unseen"] >= without


@pytest.mark.slow
def test_of_data_that_cannot_be_changed_the_contradicting_part_is_left_out(tmp_path, pytestconfig):
    sample = str(pytestconfig.rootpath / "data" / "sample")
    found = run(tmp_path, {"dataset": "musique"}, data=sample, log_questions=4, unseen_questions=3)
    assert not any("changed" in name or "aged" in name for name in found.metrics)
    assert "they cannot be changed, so contradicting logs are left out" in found.printed
