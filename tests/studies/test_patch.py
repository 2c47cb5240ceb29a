"""Patches of a log's KV: what they add, and how large they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lagkit.model.kv import KVBlock
from lagkit.studies.patch import Patch
from lagkit.util.errors import DataError

LAYERS, HEADS, TOKENS, DIM = 4, 2, 5, 8


def block(seed: int) -> KVBlock:
    torch.manual_seed(seed)
    keys, values = torch.randn(2, LAYERS, HEADS, TOKENS, DIM)
    return KVBlock(keys, values, torch.arange(TOKENS))


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
