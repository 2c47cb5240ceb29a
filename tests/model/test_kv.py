"""KV blocks as values and as files, and generation behind them: the same tokens as reading the whole text, in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lagkit.model.cache import (
    CachedRow,
    build_cache,
    has_recurrent_state,
    prefill,
    read_cache,
    stack_layers,
)
from lagkit.model.families import SUPPORTED, VOCAB, tiny
from lagkit.model.kv import KVBlock
from lagkit.model.rope import Realigner, probe
from lagkit.util.errors import ContextTooLong, StoreMismatch
from tests.helpers.blocks import block_of

NEW_TOKENS = 10
UNEQUAL = (9, 4, 7, 6)


def random_ids(*lengths: int, seed: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (n,), generator=generator) for n in lengths]


def block_at_zero(model: PreTrainedModel, realigner: Realigner, ids: Tensor) -> KVBlock:
    return read_cache(prefill(model, ids[None]), realigner, ids, 0, len(ids))


def left_pad(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """ids and mask, int64 `[batch, longest]`."""
    longest = max(map(len, prompts))
    ids = torch.stack([torch.cat([p.new_zeros(longest - len(p)), p]) for p in prompts])
    mask = torch.stack([torch.cat([p.new_zeros(longest - len(p)), torch.ones_like(p)]) for p in prompts])
    return ids, mask


def generate(
    model: PreTrainedModel, realigner: Realigner, rows: Sequence, prompts: Sequence[Tensor], capacity: int = 40
) -> list[list[int]]:
    ids, prompt_mask = left_pad(prompts)
    cache, prefix_mask = build_cache([[] if row is None else [row] for row in rows], model, realigner, capacity)
    mask = torch.cat([prefix_mask, prompt_mask], dim=1)
    out = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=NEW_TOKENS, do_sample=False)
    return out[:, ids.shape[1] :].tolist()


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: Tensor, said: list[int]) -> list[int]:
    """The best token behind `ids` and behind each but the last of `said`, by one plain pass over the whole text.

    Without any cache; it is what greedy reading of the whole text says if, and only if, it is `said`.
    """
    whole = torch.cat([ids, torch.tensor(said[:-1])])
    return model(whole[None], use_cache=False).logits[0, len(ids) - 1 :].argmax(-1).tolist()


@cache
def tried(family: str) -> tuple[PreTrainedModel, Realigner]:
    """The family's model and how its keys are re-aligned; the same objects every time, so never change them."""
    model = tiny(family)
    return model, probe(model)


@torch.no_grad()
def logits_behind(model: PreTrainedModel, realigner: Realigner, row: Any, prompt: Tensor) -> Tensor:
    """Logits `[tokens, vocabulary]` of `prompt` behind the injected row."""
    cache, mask = build_cache([[row]], model, realigner, len(prompt))
    positions = torch.arange(len(prompt)) + mask.shape[1]
    mask = torch.cat([mask, torch.ones(1, len(prompt), dtype=torch.long)], dim=1)
    return model(prompt[None], attention_mask=mask, position_ids=positions[None], past_key_values=cache).logits[0]


# Generation


@pytest.mark.parametrize("family", SUPPORTED)
def test_injected_block_at_zero_gives_the_logits_of_the_text_in_front(family: str) -> None:
    model, realigner = tried(family)
    text, prompt = random_ids(40, 9)
    with torch.no_grad():
        expected = model(torch.cat([text, prompt])[None], use_cache=False).logits[0, len(text) :]
    block = block_at_zero(model, realigner, text)
    found = logits_behind(model, realigner, block, prompt)
    assert (found - expected).norm() / expected.norm() <= 1e-5
    # The signature of a forgotten re-alignment: the keys go in as they are stored.
    unaligned = replace(realigner, inv_freq=torch.zeros_like(realigner.inv_freq))
    wrong = logits_behind(model, unaligned, block, prompt)
    assert (wrong - expected).norm() / expected.norm() > 1e-2


@pytest.mark.parametrize("family", SUPPORTED)
@pytest.mark.parametrize("lengths", [(7, 7, 7, 7), UNEQUAL], ids=["equal", "unequal"])
def test_batch_equals_one_by_one_equals_reading_the_whole_text(family: str, lengths: tuple[int, ...]) -> None:
    model, realigner = tried(family)
    # Where layers slide, unequal prompts share a batch only as long as the window (24) holds all of the text.
    fits_window = lengths == UNEQUAL and getattr(model.config, "sliding_window", None)
    texts = random_ids(*((5, 0, 3, 4) if fits_window else (40, 0, 13, 28)))
    prompts = random_ids(*lengths, seed=4)
    rows = [block_at_zero(model, realigner, text) if len(text) else None for text in texts]
    said = generate(model, realigner, rows, prompts)
    for text, prompt, tokens in zip(texts, prompts, said, strict=True):
        assert len(tokens) == NEW_TOKENS
        assert tokens == greedy(model, torch.cat([text, prompt]), tokens)
    if lengths == UNEQUAL:  # one behind a text, and one behind none
        assert [generate(model, realigner, [rows[i]], [prompts[i]])[0] for i in range(2)] == said[:2]


def test_no_row_has_a_prefix() -> None:
    model = tiny("llama")
    prompts = random_ids(7, 4)
    cache, mask = build_cache([[], [block_of(0)]], model, probe(model), 8)
    assert mask.shape == (2, 0)
    assert cache.get_seq_length() == 0
    said = generate(model, probe(model), [None, block_of(0)], prompts)
    assert said == [greedy(model, prompt, tokens) for prompt, tokens in zip(prompts, said, strict=True)]


def test_blocks_cut_elsewhere_are_laid_at_positions_from_zero() -> None:
    model, realigner = tried("llama")
    (text,) = random_ids(30)
    cut = read_cache(prefill(model, text[None]), realigner, text[12:20], 12, 20)
    cache, _ = build_cache([[cut]], model, realigner, 1)
    there = prefill(model, text[None], torch.arange(30)[None] - 12)
    keys, values = stack_layers(cache, 0, 8)
    expected_keys, expected_values = stack_layers(there, 12, 20)
    assert (keys - expected_keys).norm() / expected_keys.norm() <= 1e-5
    assert (values - expected_values).norm() / expected_values.norm() <= 1e-5
    assert torch.equal(cut.ids, text[12:20])


def test_several_blocks_of_a_row_stand_one_after_the_other() -> None:
    model, realigner = tried("gemma3")
    blocks = [block_of(n, seed=n, layers=4) for n in (3, 0, 5)]
    blocks = [KVBlock(b.keys.repeat(1, 1, 1, 2), b.values.repeat(1, 1, 1, 2), b.ids) for b in blocks]
    one, one_mask = build_cache([[KVBlock.concat(blocks)], []], model, realigner, 2)
    many, many_mask = build_cache([blocks, []], model, realigner, 2)
    assert torch.equal(one_mask, many_mask)
    assert one_mask.tolist() == [[1] * 8, [0] * 8]
    for row in range(2):
        for a, b in zip(stack_layers(one, 0, 8, row), stack_layers(many, 0, 8, row), strict=True):
            assert torch.equal(a, b)


def test_padding_is_zero_and_masked_and_on_the_left() -> None:
    model = tiny("llama")
    cache, mask = build_cache([[block_of(2)], [], [block_of(5, seed=1)]], model, probe(model), 3)
    assert mask.tolist() == [[0, 0, 0, 1, 1], [0] * 5, [1] * 5]
    for row, pad in enumerate((3, 5, 0)):
        for tensor in stack_layers(cache, 0, 5, row):
            assert (tensor[:, :, :pad] == 0).all()
            assert (tensor[:, :, pad:] != 0).all()


def test_rows_taken_apart_and_put_side_by_side_again_hold_the_same_tokens() -> None:
    model = tiny("llama")
    cache, mask = build_cache([[block_of(2)], [], [block_of(5, seed=1)]], model, probe(model), 3)
    rows = [CachedRow(cache, row, *span) for row, span in enumerate([(3, 5), (5, 5), (0, 5)])]
    assert [len(row) for row in rows] == [2, 0, 5]
    merged, merged_mask = build_cache([[row] for row in rows], model, probe(model), 3)
    assert torch.equal(merged_mask, mask)
    for row in range(3):
        for found, expected in zip(stack_layers(merged, 0, 5, row), stack_layers(cache, 0, 5, row), strict=True):
            assert torch.equal(found, expected)


def test_decoding_writes_in_place_and_grows_beyond_its_capacity() -> None:
    model, realigner = tried("llama")
    prompts, row = random_ids(6), block_of(5)
    roomy, mask = build_cache([[row]], model, realigner, 6 + NEW_TOKENS)
    before = [layer.keys.data_ptr() for layer in roomy.layers]
    ids, prompt_mask = left_pad(prompts)
    model.generate(
        ids, attention_mask=torch.cat([mask, prompt_mask], 1), past_key_values=roomy, max_new_tokens=NEW_TOKENS
    )
    assert [layer.keys.data_ptr() for layer in roomy.layers] == before
    assert roomy.get_seq_length() == 5 + 6 + NEW_TOKENS - 1
    expected = generate(model, realigner, [row], prompts, capacity=100)
    assert [generate(model, realigner, [row], prompts, capacity=n) for n in (0, 1, 7)] == [expected] * 3


def test_rows_that_leave_a_batch_take_no_memory_and_leave_the_others_as_they_were() -> None:
    model = tiny("llama")
    cache, _ = build_cache([[block_of(n)] for n in (5, 4, 3, 5)], model, probe(model), 2)
    before = [(layer.keys.clone(), layer.values.clone(), layer.keys.data_ptr()) for layer in cache.layers]
    cache.batch_select_indices(torch.tensor([1, 3]))
    for layer, (keys, values, place) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys[[1, 3]])
        assert torch.equal(layer.values, values[[1, 3]])
        assert layer.keys.data_ptr() == place
    with pytest.raises(ValueError, match=r"rows \[1, 0\] do not rise"):
        cache.batch_select_indices(torch.tensor([1, 0]))


def test_a_cache_whose_rows_were_put_in_another_order_goes_on_in_that_order() -> None:
    model, realigner = tried("llama")
    first, second = block_of(5), block_of(5, seed=1)
    token = random_ids(1, 1)
    found = []
    for rows, order in (([first, second], [1, 0]), ([second, first], [0, 1])):
        cache, _ = build_cache([[row] for row in rows], model, realigner, 3)
        cache.reorder_cache(torch.tensor(order))
        with torch.no_grad():
            found.append(model(torch.stack(token), position_ids=torch.tensor([[5], [5]]), past_key_values=cache).logits)
    torch.testing.assert_close(found[0], found[1])


def test_cropped_cache_goes_on_from_the_tokens_that_are_left() -> None:
    model, realigner = tried("llama")
    text, prompt = random_ids(12, 5)
    block = block_at_zero(model, realigner, text)
    expected = logits_behind(model, realigner, block.slice(0, 8), prompt)
    cache, _ = build_cache([[block]], model, realigner, 20)
    cache.crop(-4)
    with torch.no_grad():
        found = model(prompt[None], position_ids=torch.arange(8, 13)[None], past_key_values=cache).logits[0]
    assert (found - expected).norm() / expected.norm() <= 1e-5


def test_bfloat16_model_takes_blocks_of_another_dtype() -> None:
    model = tiny("llama").to(torch.bfloat16)
    realigner = probe(model)
    cache, _ = build_cache([[block_of(5, dtype=torch.float16)]], model, realigner, 3)
    keys, values = stack_layers(cache, 0, 5)
    assert keys.dtype == values.dtype == torch.bfloat16
    assert torch.equal(values, block_of(5, dtype=torch.float16).values.bfloat16())


def test_more_tokens_than_one_frequency_regime_are_refused() -> None:
    model = tiny("llama_dynamic")
    with pytest.raises(ContextTooLong, match="129 injected tokens exceed the 128 positions of dynamic RoPE"):
        build_cache([[block_of(129)]], model, probe(model), 4)


def test_blocks_of_another_model_are_refused() -> None:
    model, realigner = tried("llama")
    with pytest.raises(StoreMismatch, match=r"The model has 2 layers, but .* \(3, 2, 8\): encode the logs with this"):
        build_cache([[block_of(4, layers=3)]], model, realigner, 4)
    with pytest.raises(StoreMismatch, match=r"\(2, 2, 8\), \(3, 2, 8\)"):
        build_cache([[block_of(4)], [block_of(4, layers=3)]], model, realigner, 4)


@pytest.mark.parametrize(("family", "recurrent"), [("llama", False), ("gemma3", False), ("jamba", True)])
def test_recurrent_layers_are_recognised(family: str, recurrent: bool) -> None:
    assert has_recurrent_state(tiny(family)) is recurrent


# Reading a cache


def test_tokens_that_a_cache_does_not_hold_are_refused() -> None:
    cache = prefill(tiny("llama"), random_ids(6)[0][None])
    with pytest.raises(ValueError, match="tokens 4 to 7 were asked for, but the cache holds 6"):
        stack_layers(cache, 4, 7)


def test_sliding_layers_that_forgot_tokens_are_refused() -> None:
    model = tiny("gemma3")
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(random_ids(30)[0][None], past_key_values=cache)
    with pytest.raises(ValueError, match="layer 1 holds keys and values of another shape"):
        stack_layers(cache, 0, 10)
    keys, values = stack_layers(prefill(model, random_ids(30)[0][None]), 0, 30)
    assert keys.shape == values.shape == (4, 2, 30, 16)


def test_layer_without_kv_is_refused() -> None:
    cache = prefill(tiny("llama"), random_ids(6)[0][None])
    cache.layers[1].reset()
    with pytest.raises(ValueError, match="layer 1 holds no keys and values of its own"):
        stack_layers(cache, 0, 3)


def test_ids_that_do_not_fit_the_cut_are_refused() -> None:
    model = tiny("llama")
    (ids,) = random_ids(6)
    with pytest.raises(ValueError, match="do not fit together"):
        read_cache(prefill(model, ids[None]), probe(model), ids, 2, 5)


# Blocks
