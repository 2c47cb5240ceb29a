"""Blocks in memory: read once, in the background, re-aligned once for each place, and never beyond the bound."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lagkit.model import batch
from lagkit.model.block_cache import BlockCache
from lagkit.model.cache import build_cache, stack_layers
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.util.errors import DamagedBlock
from tests.helpers.blocks import block_of, same
from tests.helpers.lms import new_lm, tiny_lm

TOKENS = 5
BYTES = block_of(TOKENS).nbytes


def fetch(hot: BlockCache, seed: int, read=None):
    return hot.fetch(str(seed), TOKENS, BYTES, read or (lambda: block_of(TOKENS, seed)))


def test_a_block_is_read_once_however_often_it_is_asked_for():
    hot, reads = BlockCache(), []
    parts = [fetch(hot, 1, lambda: reads.append(1) or block_of(TOKENS, 1)) for _ in range(3)]
    assert all(same(part.resolve(), block_of(TOKENS, 1)) for part in parts)
    assert len(reads) == 1
    assert parts[0].resolve() is parts[2].resolve()


def test_its_length_is_known_while_it_is_being_read():
    hot, go = BlockCache(), threading.Event()
    part = fetch(hot, 1, lambda: go.wait(10) and block_of(TOKENS, 1))
    assert len(part) == TOKENS
    assert not part.block.done()
    go.set()
    assert part.shape == (2, 2, 8)


def test_what_could_not_be_read_is_told_and_read_again_when_next_asked_for():
    hot = BlockCache()

    def damaged():
        raise DamagedBlock("KV block x is damaged")

    part = fetch(hot, 1, damaged)
    with pytest.raises(DamagedBlock, match="x is damaged"):
        part.resolve()
    assert same(fetch(hot, 1).resolve(), block_of(TOKENS, 1))
    assert hot.nbytes == BYTES


def test_a_block_that_goes_is_freed_without_the_garbage_collector():
    hot = BlockCache(2 * BYTES)
    gc.disable()
    try:
        blocks = [weakref.ref(fetch(hot, seed).resolve()) for seed in range(5)]
        assert [block() is not None for block in blocks] == [False, False, False, True, True]
    finally:
        gc.enable()


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 4))
def test_the_bound_holds_and_the_least_recently_used_go(asked, room):
    hot, expected = BlockCache(room * BYTES + 1), []
    for seed in asked:
        assert same(fetch(hot, seed).resolve(), block_of(TOKENS, seed))
        expected = [*(s for s in expected if s != seed), seed][-room:] if room else []
        assert list(hot._held) == [str(s) for s in expected]
        assert hot.nbytes == len(expected) * BYTES <= hot.max_bytes


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12), st.integers(1, 12))
def test_re_aligned_keys_are_those_of_a_cold_block_whatever_was_laid_before(rows, room):
    lm = tiny_lm("llama")
    layers, kv_heads, head_dim = lm.encode(lm_context(), 0, 1).shape
    shape = (layers, kv_heads, TOKENS, head_dim)
    cold = [KVBlock(torch.randn(shape), torch.randn(shape), torch.arange(TOKENS)) for _ in range(4)]
    hot = BlockCache(room * cold[0].nbytes)
    for pair in rows:
        parts = [hot.fetch(str(i), TOKENS, cold[i].nbytes, lambda i=i: cold[i]) for i in pair]
        found, expected = (
            stack_layers(build_cache([laid], lm.model, lm.realigner, 1)[0], 0, 2 * TOKENS)
            for laid in (parts, [cold[i] for i in pair])
        )
        assert all(map(torch.equal, found, expected))
        assert hot.nbytes <= hot.max_bytes


def test_keys_are_kept_as_they_were_re_aligned(monkeypatch):
    lm, hot = tiny_lm("llama"), BlockCache()
    block = lm.encode(lm_context(), 0, TOKENS)
    build_cache([[hot.fetch("a", TOKENS, block.nbytes, lambda: block)]], lm.model, lm.realigner, 1)
    assert hot.nbytes == block.nbytes + block.keys.nbytes
    monkeypatch.setattr(type(lm.realigner), "rotate", pytest.fail)
    build_cache([[hot.fetch("a", TOKENS, block.nbytes, pytest.fail)]], lm.model, lm.realigner, 1)


def test_many_threads_share_it():
    hot, failed = BlockCache(3 * BYTES), []

    def work(number: int) -> None:
        for i in range(200):
            seed = (number * 7 + i) % 6
            if not same(fetch(hot, seed).resolve(), block_of(TOKENS, seed)):
                failed.append(seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert hot.nbytes == len(hot) * BYTES <= hot.max_bytes


def test_reading_goes_on_while_earlier_prompts_are_computed(monkeypatch):
    """The second block is not there before the first prompt has been through the model: else nobody would end."""
    lm, hot, computed = new_lm(LM), BlockCache(), threading.Event()
    block = lm.encode(lm_context(), 0, TOKENS)
    lm.model.base_model.register_forward_hook(lambda *_: computed.set())
    monkeypatch.setattr(batch, "_PREFILLED", 1)  # each prompt by itself

    def late() -> KVBlock:
        assert computed.wait(20), "nothing was computed meanwhile"
        return block

    computed.clear()
    parts = [hot.fetch("there", TOKENS, block.nbytes, lambda: block), hot.fetch("late", TOKENS, block.nbytes, late)]
    said = lm.generate([Context((3, 4, 5), (part,)) for part in parts], 3)
    assert said[0].ids == said[1].ids


def lm_context() -> Context:
    return Context(tuple(range(3, 3 + TOKENS)))
