"""Notebook 12 runs headlessly on a small test world, and puts on record what it promises."""

from __future__ import annotations

import pytest

from lagkit.studies.placement import grid
from tests.helpers import cells
from tests.helpers.executed import execute

TOLD = ("kv/last_round/conversation/front", "kv/last_round/conversation/prefix")


def test_every_cell_is_measured_and_the_conversation_is_what_harms(tmp_path):
    shape = {"hops": [2], "log_hops": [3], "overlap": {"all": 1.0}}
    world = {"entities": 200, "log_questions": 8, "unseen_questions": 4, **shape}
    tier = cells.small_tier(tmp_path, world=world, max_rounds=2)
    sizes = {"unseen_questions": 3, "asked": 3, "hidden": 3}
    executed = execute("12_placement", tmp_path / "out", tier=tier, run=str(tmp_path / "run"), **sizes)
    found = executed.metrics
    for name in (*grid().index, *TOLD):
        assert found[f"em_diff.{name}"] == pytest.approx(found[f"em.{name}"] - found["em.no_logs"])
        assert found[f"rounds_diff.{name}"] == pytest.approx(found[f"rounds.{name}"] - found["rounds.no_logs"])
    # Close to dense prefill, against having no log; behind a conversation hardly closer than that.
    assert max(found[f"kl_share.{name}"] for name in grid().index) < 0.1
    assert min(found[f"kl_share.{name}"] for name in TOLD) > 0.1
    # It is what sets the question off from the passages that does it, not the head.
    hiding = {part: found[f"kl_log10_diff.{part}_hidden"] for part in ("head", "words_before_the_questions")}
    assert hiding["words_before_the_questions"] < min(-1, hiding["head"])
    [harm] = [said for said in executed.findings if said.startswith("Behind the conversation, words before the")]
    assert "inconclusive" in harm  # so few questions cannot show it, however far below one the mean is
