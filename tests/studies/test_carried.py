"""Patches of a log's KV: what they add, how large they are, and that a question notices."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lagkit.datasets.world.carry import items
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.studies import carried
from lagkit.studies.carried import patches
from lagkit.studies.carry import BEYOND, BLOCK, OWN
from lagkit.studies.patch import Patch
from lagkit.util.errors import DataError
from tests.helpers.lms import SAMPLE

CONTROL = SAMPLE.parent / "testbed" / "carry" / "control"
LAYERS, HEADS, TOKENS, DIM = 4, 2, 5, 8


def block(seed: int) -> KVBlock:
    torch.manual_seed(seed)
    keys, values = torch.randn(2, LAYERS, HEADS, TOKENS, DIM)
    return KVBlock(keys, values, torch.arange(TOKENS))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    asked = [item for item in items(301, 3) if item.scoped.rung in BEYOND]
    return carried.measure(LM.load(str(CONTROL), dtype="float32"), asked, Prompt.load("qa_short"), ranks=(1, 7))


@given(first=st.integers(0, LAYERS), more=st.integers(0, LAYERS))
def test_a_patch_of_layers_is_own_there_and_alone_elsewhere(first, more):
    alone, own, stop = block(0), block(1), min(first + more, LAYERS)
    made = Patch("", first, stop).apply(alone, own)
    for layer in range(LAYERS):
        inside = own if first <= layer < stop else alone
        assert torch.equal(made.keys[layer], inside.keys[layer])
        assert torch.equal(made.values[layer], inside.values[layer])
    assert Patch("", first, stop).share(alone) == (stop - first) / LAYERS


@given(rank=st.integers(1, TOKENS))
def test_a_patch_of_a_rank_is_the_nearest_of_that_rank_in_each_layer(rank):
    alone, own = block(0), block(1)
    made = Patch("", 0, LAYERS, rank).apply(alone, own)
    for name in ("keys", "values"):
        wanted, found = (
            (getattr(other, name) - getattr(alone, name)).transpose(1, 2).reshape(LAYERS, TOKENS, -1)
            for other in (own, made)
        )
        assert torch.linalg.matrix_rank(found, rtol=1e-4).tolist() == [rank] * LAYERS
        left = torch.linalg.svdvals(wanted)[:, rank:].square().sum(-1)  # Eckart and Young
        assert (wanted - found).square().sum((1, 2)) == pytest.approx(left, abs=1e-3)


def test_a_patch_of_full_rank_is_the_whole_context_and_larger_than_it():
    alone, own, full = block(0), block(1), Patch("", 0, LAYERS, TOKENS)
    assert torch.allclose(full.apply(alone, own).keys, own.keys, atol=1e-5)
    assert full.share(alone) == TOKENS * (TOKENS + HEADS * DIM) / (TOKENS * HEADS * DIM) > 1


def test_blocks_of_other_tokens_are_refused():
    with pytest.raises(DataError, match="do not keep the same tokens"):
        Patch("", 0, 1).apply(block(0), block(1).slice(0, 3))


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
