"""The batch cache: rows come out of it as they were filled in, and its KV is held once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from lagkit.model.batch import BatchCache
from lagkit.model.cache import build_cache, stack_layers
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prefix_cache import PrefixCaches
from lagkit.model.rope import probe
from tests.helpers.blocks import block_of
from tests.helpers.lms import tiny_lm

STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # writing to it forgets the peak


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_come_out_as_they_were_filled_in_whoever_left_before(data):
    model = tiny_lm().model
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    cut = data.draw(st.integers(0, len(lengths)))
    batch, sources = BatchCache(lengths, 2), []
    for first, some in ((0, lengths[:cut]), (cut, lengths[cut:])):
        if some:
            blocks = [block_of(n, seed=first + i) for i, n in enumerate(some)]
            cache, _ = build_cache([[block] for block in blocks], model, probe(model), 1)
            batch.fill(cache, [(max(some) - n, max(some)) for n in some])
            sources += [stack_layers(cache, max(some) - n, max(some), row) for row, n in enumerate(some)]
    cache, mask = batch.open()
    assert mask.sum(dim=1).tolist() == lengths
    going = [*range(len(lengths))]
    while len(going) > 1 and (places := sorted(data.draw(st.sets(st.integers(0, len(going) - 1), min_size=1)))):
        if len(places) == len(going):
            break
        batch.narrow(cache, places)
        going = [going[place] for place in places]
        assert batch.rows[: len(going)] == going
        for place, row in enumerate(going):
            held = stack_layers(cache, max(lengths) - lengths[row], max(lengths), place)
            assert all(map(torch.equal, held, sources[row]))
    del cache
    wanted = sorted(data.draw(st.sets(st.integers(0, len(lengths) - 1))))
    found = batch.cut(wanted)
    assert [*found] == wanted
    for number, row in found.items():
        assert len(row) == lengths[number]
        assert all(map(torch.equal, stack_layers(row.cache, 0, len(row)), sources[number]))


def test_memory_that_there_is_not_is_told_as_torch_does(monkeypatch):
    def none_left(*args, **named):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", none_left)
    with pytest.raises(RuntimeError, match="no memory for"):
        tiny_lm().generate([Context((3, 4, 5))], 2)


def peak() -> int:
    """The most memory that the process has held, in bytes."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) * 1024


KV = 8 * 8 * 64 * 2 * 4  # bytes of a token, of `wide_lm`


def wide_lm() -> LM:
    """A model whose keys and values outweigh all else that it holds while it reads."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)
    return LM(LlamaForCausalLM(config), tiny_lm().tokenizer, "wide")


only_linux = pytest.mark.skipif(
    not os.access(PEAK, os.W_OK), reason="only Linux tells how much memory a process has held at most"
)


@only_linux
def test_rounds_of_a_batch_hold_its_kv_about_once():
    tokens, rows = 400, 32
    lm, caches = wide_lm(), PrefixCaches()
    contexts = [[Context((*range(3, 23), *[3 + (i + n) % 60 for i in range(tokens)]), (), caches.of(str(n)))
                 for n in range(rows)] for _ in range(2)]  # fmt: skip
    lm.generate(contexts[0][:1], 2)  # what the first pass takes for itself
    PEAK.write_text("5")
    before = peak()
    for some in contexts:
        lm.generate(some, 2, batch_size=rows)
    kv = rows * (tokens + 20) * KV
    assert caches.nbytes == kv
    assert kv < peak() - before < 1.8 * kv  # it was 3.5 times while prompts and the batch were held apart


@only_linux
def test_padding_takes_no_memory():
    lm, lengths = wide_lm(), [2000, *[60] * 31]
    contexts = [Context(tuple(3 + (i + n) % 60 for i in range(length))) for n, length in enumerate(lengths)]
    lm.generate(contexts[:1], 2)  # what the longest takes while it is read
    PEAK.write_text("5")
    before = peak()
    lm.generate(contexts, 2, batch_size=len(contexts))
    assert peak() - before < 2.5 * sum(lengths) * KV  # padded, it is 16 times as much
