"""Notebooks 05 and 06 run headlessly in miniature, and put on record what they promise."""

from __future__ import annotations

import pytest

from tests.helpers.executed import execute

SMALL = {"log_questions": 30}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder that both notebooks share: the second finds the logs of the first."""
    return str(tmp_path_factory.mktemp("run"))


def test_attention_to_early_reasoning(run, tmp_path):
    found = execute("05_attention_to_early_reasoning", tmp_path, run=run, logs=6, **SMALL).metrics
    assert found["right.intact"] + found["right_diff.no_log"] < found["right.intact"]
    assert found["gold_diff.no_log"] < found["gold_diff.all_earlier"]
    assert 0 < found["kv_change.1_back"] < found["kv_change.all_earlier"]
    assert found["attention_diff.log"] > 0
    assert {"reach.attention", "reach.gold", "reach.right", "gold_diff.kv_block"} <= set(found)


def test_position_realignment(run, tmp_path):
    sizes = {"asked": 2, "steps": 1, "unseen_questions": 4, **SMALL}
    found = execute("06_position_realignment", tmp_path, run=run, **sizes).metrics
    assert found["kl.float32.re_aligned"] < 1e-6 < 1e-2 < found["kl.float32.not_re_aligned"]
    assert found["kl.bfloat16.re_aligned"] < 1e-2 < found["kl.bfloat16.un_rotated_only"]
    assert found["agreement.float32.re_aligned"] == 1
