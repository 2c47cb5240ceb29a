"""Attention weights are those of eager attention, and looking at them changes nothing."""

from __future__ import annotations

import pytest
import torch

from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.studies.attention import mass, uniform_mass, watching, weights
from lagkit.util.errors import UnsupportedModel
from tests.helpers.lms import VOCAB, new_lm, tiny_lm

IDS = tuple(torch.randint(6, VOCAB, (40,), generator=torch.Generator().manual_seed(3)).tolist())
# Grouped heads, other head sizes, sliding windows narrower than the text, partial rotary, layers without RoPE.
FAMILIES = ("llama", "qwen3", "mistral", "gemma3", "gpt_neox", "smollm3")


def injected(lm: LM, tokens: int) -> Context:
    """The same 40 tokens, the first of them injected as KV."""
    return Context(IDS[tokens:], (lm.encode(Context(IDS), 0, tokens),) if tokens else ())


@pytest.mark.parametrize("tokens", [0, 15])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_eager_attention(family, tokens):
    lm = new_lm(LM, family)
    found = weights(lm, injected(lm, tokens), range(tokens, 40))
    lm.model.set_attn_implementation("eager")
    ids = torch.tensor([IDS])
    with torch.inference_mode():
        expected = torch.stack(lm.model(ids, output_attentions=True, use_cache=False).attentions)[:, 0, :, tokens:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]), atol=1e-5, rtol=0)
    assert found.std() > 0.01  # the tiny models' attention is far from even: equal weights say something


def test_queries_are_looked_at_in_their_order():
    lm = tiny_lm("gemma3")
    whole = weights(lm, injected(lm, 15), range(15, 40))
    assert torch.equal(weights(lm, injected(lm, 15), [39, 16]), whole[:, :, [24, 1]])


def test_mass_sums_over_slots_and_averages_over_queries():
    lm, queries = tiny_lm(), [20, 31, 39]
    spans = {"log": range(15), "prompt": range(15, 40), "odd": [1, 3, 38]}
    found = mass(lm, injected(lm, 15), queries, spans)
    by_hand = weights(lm, injected(lm, 15), queries).mean(dim=2)
    expected = torch.stack([by_hand[..., list(slots)].sum(-1) for slots in spans.values()], dim=-1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found[..., 0] + found[..., 1], torch.ones(found.shape[:2]))


def test_uniform_mass_counts_what_a_query_sees():
    found = uniform_mass([3, 9], {"first": [0, 1], "later": [4, 5, 6], "both": range(10)})
    torch.testing.assert_close(found, torch.tensor([(2 / 4 + 2 / 10) / 2, 3 / 10 / 2, 1.0]))


def test_a_cut_takes_a_token_out_of_sight():
    lm = tiny_lm()
    cut = torch.zeros(40, 40, dtype=torch.bool)
    cut[30:, 5] = True
    with watching(lm.model, lambda found: found, cut) as seen:
        lm.encode(injected(lm, 15), 0, 0)
    seen = torch.stack([seen[layer] for layer in range(2)])
    assert (seen[:, :, 15:, 5] == 0).all()  # rows are prefilled tokens: 15 is slot 30
    assert (seen[:, :, :15, 5] > 0).all()
    torch.testing.assert_close(seen.sum(-1), torch.ones(seen.shape[:-1]))


def test_looking_changes_neither_the_model_nor_one_that_shares_its_configuration():
    lm = new_lm(LM)
    twin = type(lm.model)(lm.model.config)
    before, configuration = lm.logits(injected(lm, 15)), lm.model.config
    with watching(lm.model):
        assert twin.config._attn_implementation == "sdpa"
        torch.testing.assert_close(lm.logits(injected(lm, 15)), before, atol=1e-4, rtol=1e-4)
    assert all(module.config is configuration for module in lm.model.modules() if hasattr(module, "config"))
    assert torch.equal(lm.logits(injected(lm, 15)), before)


def test_a_model_without_sdpa_is_refused():
    lm = new_lm(LM)
    lm.model.set_attn_implementation("eager")
    with pytest.raises(UnsupportedModel, match="llama model cannot be looked at: it runs under eager, not sdpa"):
        weights(lm, Context(IDS), [39])


@pytest.mark.parametrize("slot", [14, 40])
def test_injected_tokens_ask_nothing(slot):
    lm = tiny_lm()
    with pytest.raises(ValueError, match=r"queries must be prefilled tokens, slots 15 to 39"):
        weights(lm, injected(lm, 15), [slot])
