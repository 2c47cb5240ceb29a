"""Where carried context sits: a question notices each patch, and gains are ratios of means."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lagkit.datasets.world.carry import items
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from tests.helpers.lms import SAMPLE
from tools.testbed import carry_sites as carried
from tools.testbed.carry_sites import patches
from tools.testbed.carry_study import BEYOND, BLOCK, OWN

CONTROL = SAMPLE.parent / "testbed" / "carry" / "control"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    asked = [item for item in items(301, 3) if item.scoped.rung in BEYOND]
    return carried.measure(LM.load(str(CONTROL), dtype="float32"), asked, Prompt.load("qa_short"), ranks=(1, 7))


def test_each_patch_is_asked_of_each_question(rows):
    names = [patch.name for patch in patches(6, (1, 7))]
    assert len(set(names)) == len(names) == 2 + 6 + 5 + 5 + 2
    assert (rows.groupby("condition")["question_id"].nunique() == 6).all()
    assert set(rows["condition"]) == set(names)
    assert (rows["tokens"] == 7).all()
    assert rows.loc[rows["condition"] == "from layer 2", "share"].unique() == pytest.approx([4 / 6])


def spread(n: int) -> pd.DataFrame:
    """Questions whose gains differ widely: a patch gives half of each, with some noise, another every second one."""
    rng = np.random.default_rng(0)
    whole = rng.uniform(0.1, 8, n)
    gold = {
        BLOCK: -whole,
        OWN: 0 * whole,
        "half": -whole / 2 + rng.normal(0, 0.01, n),
        "one in two": -whole * (np.arange(n) % 2),
    }
    return pd.DataFrame(
        {"rung": "two_back", "question_id": f"q{i}", "condition": name, "gold": values[i], "hops": [f"q{i}"]}
        for name, values in gold.items()
        for i in range(n)
    )


def test_shares_of_the_gain_are_ratios_of_means_with_their_intervals(rows):
    gains = carried.gains(rows)
    for rung in BEYOND:
        assert {BLOCK, OWN}.isdisjoint(gains.loc[rung].index)
        # The last layers of keys and values alone carry nothing here, and all directions carry all.
        assert abs(gains.loc[(rung, "layer 5"), "mean"]) < 0.2
        assert gains.loc[(rung, "rank 7"), "mean"] == pytest.approx(1, abs=0.01)
    gold = rows.pivot(index=["rung", "question_id"], columns="condition", values="gold").groupby("rung").mean()
    for rung, own in gold.iterrows():
        share = (own["rank 1"] - own[BLOCK]) / (own[OWN] - own[BLOCK])
        assert gains.loc[(rung, "rank 1"), "mean"] == pytest.approx(share)
    gains = carried.gains(spread(40))
    low, mean, high = gains.loc[("two_back", "half"), ["low", "mean", "high"]]
    assert mean == pytest.approx(0.5, abs=0.005)
    assert high - low < 0.02, "half the gain of each question, however large, leaves no doubt of the share"
    low, mean, high = gains.loc[("two_back", "one in two"), ["low", "mean", "high"]]
    assert 0 < low < mean < high < 1
