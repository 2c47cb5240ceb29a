"""Notebooks 05 and 06 run headlessly in miniature, and put on record what they promise."""

from __future__ import annotations

import pytest

from tests.helpers import cells
from tests.helpers.executed import execute

WORLD = {"entities": 90, "log_questions": 10, "unseen_questions": 4, "hops": [2, 3]}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small world, and a folder that both notebooks share: the second finds the logs of the first."""
    folder = tmp_path_factory.mktemp("shared")
    return {"tier": cells.small_tier(folder, world=WORLD), "run": str(folder / "run")}


def test_attention_to_early_reasoning(small, tmp_path):
    found = execute("05_attention_to_early_reasoning", tmp_path, logs=4, **small).metrics
    assert found["right.intact"] + found["right_diff.no_log"] < found["right.intact"]
    assert found["gold_diff.no_log"] < found["gold_diff.all_earlier"]
    assert 0 < found["kv_change.1_back"] < found["kv_change.all_earlier"]
    assert found["attention_diff.log"] > 0
    assert {"reach.attention", "reach.gold", "reach.right", "gold_diff.kv_block"} <= set(found)


def test_position_realignment(small, tmp_path):
    found = execute("06_position_realignment", tmp_path, asked=1, steps=1, **small).metrics
    assert found["kl.float32.re_aligned"] < 1e-6 < 1e-2 < found["kl.float32.not_re_aligned"]
    assert found["kl.bfloat16.re_aligned"] < 1e-2 < found["kl.bfloat16.un_rotated_only"]
    assert found["agreement.float32.re_aligned"] == 1
