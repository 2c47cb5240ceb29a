"""The same numbers on a GPU: re-alignment, batches, pinned blocks and a prefix_cache that is gone on from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lagkit.model.cache import build_cache, stack_layers
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prefix_cache import PrefixCache
from tests.helpers.lms import new_lm, tiny_lm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
IDS = tuple(range(3, 40))


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3", "phi3"])
def pair(request) -> tuple[LM, LM]:
    """The same model on the CPU and on the GPU."""
    here, there = tiny_lm(request.param), new_lm(LM, request.param)
    return here, LM(there.model.to("cuda"), there.tokenizer, there.name)


def test_a_block_is_encoded_and_injected_as_on_the_cpu(pair):
    here, there = pair
    blocks = [lm.encode(Context(IDS), 5, 20) for lm in pair]
    assert torch.allclose(blocks[0].keys, blocks[1].keys.cpu(), atol=1e-4)
    asked = Context((50, 51, 52), (blocks[0],))
    assert torch.allclose(here.logits(asked), there.logits(asked).cpu(), atol=1e-4)


def test_blocks_wait_in_pinned_memory_and_are_laid_as_cold_ones(pair):
    here, there = pair
    block = here.encode(Context(IDS), 0, 12)
    part = there.block_cache.fetch("x", 12, block.nbytes, lambda: block)
    assert part.resolve().keys.is_pinned()
    for _ in range(2):  # the second time from the keys as they were re-aligned
        laid, cold = (build_cache([[b, b]], there.model, there.realigner, 1)[0] for b in (part, block))
        torch.cuda.synchronize()
        assert all(map(torch.equal, stack_layers(laid, 0, 24), stack_layers(cold, 0, 24)))


def test_a_batch_says_what_each_says_alone_and_what_the_cpu_says(pair):
    here, there = pair
    block = here.encode(Context(IDS), 0, 9)
    contexts = [Context(IDS[:n], (block,) if n % 2 else ()) for n in (3, 8, 21, 30)]
    together = [said.ids for said in there.generate(contexts, 6)]
    assert together == [there.generate([context], 6)[0].ids for context in contexts]
    assert together == [said.ids for said in here.generate(contexts, 6)]


def test_going_on_from_a_seat_is_reading_all_of_it(pair):
    _, there = pair
    prefix_cache = PrefixCache()
    there.generate([Context(IDS, (), prefix_cache)], 2)
    longer = Context((*IDS[:-2], 60, 61, 62), (), prefix_cache)
    [said], [alone] = there.generate([longer], 5), there.generate([replace(longer, prefix_cache=None)], 5)
    assert said.ids == alone.ids
    assert said.usage.reused > 0
