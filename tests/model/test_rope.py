"""Re-aligned keys are the keys that a prefill at the other position makes: every family, fp32; the rest is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from lagkit.model import rope
from lagkit.model.cache import prefill, stack_layers
from lagkit.model.families import FAMILIES, SUPPORTED, VOCAB, tiny
from lagkit.model.rope import Realigner, probe
from lagkit.util.errors import ContextTooLong, UnsupportedModel

EXACT = 1e-5
KINDS = {
    "llama_linear": "linear",
    "llama_llama3": "llama3",
    "llama_yarn": "yarn",
    "llama_dynamic": "dynamic",
    "llama_longrope": "longrope",
    "gemma3": "default+linear",
    "phi3": "longrope",
    "ministral3": "yarn",
    "gpt_oss": "yarn",
    "apertus": "llama3",
}
INTERLEAVED = ("cohere", "cohere2", "glm", "glm4", "ernie4_5", "helium", "llama4")
NO_ROPE, RECURRENT = (
    "it has 0 rotary embeddings where one is needed",
    "it keeps a recurrent state outside keys and values",
)
OTHER_SHAPE = "layer 0 holds keys and values of another shape"
REASONS = {
    **dict.fromkeys(("gpt2", "opt", "gpt_bigcode", "gpt_neo", "bloom", "mpt", "gptj", "rwkv"), NO_ROPE),
    **dict.fromkeys(("mamba", "mamba2", "recurrent_gemma", "jamba", "falcon_h1", "bamba", "lfm2"), RECURRENT),
    **dict.fromkeys(("qwen3_next", "minimax"), RECURRENT),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "minicpm3"), OTHER_SHAPE),
    "falcon_alibi": "its keys do not depend on position_ids",
    "gemma4": "its layer types rotate different numbers of dimensions",
    "nanochat": "re-aligned keys differ from prefilled ones by",
}


def random_ids(tokens: int, seed: int = 5) -> Tensor:
    return torch.randint(3, VOCAB, (tokens,), generator=torch.Generator().manual_seed(seed))


def keys_at(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    """Keys `[layers, kv_heads, tokens, head_dim]` of `ids` prefilled at `positions`."""
    return stack_layers(prefill(model, ids[None], positions[None]), 0, len(ids))[0]


def error(expected: Tensor, found: Tensor) -> float:
    """The worst layer's relative error."""
    gap = (expected.float() - found.float()).flatten(1).norm(dim=1)
    return float((gap / expected.float().flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("family", SUPPORTED)
def test_moved_keys_are_the_keys_prefilled_there(family: str) -> None:
    model, ids = tiny(family), random_ids(20)
    realigner = probe(model)
    here, there = torch.arange(20), torch.arange(20) + 83
    prefilled_here, prefilled_there = (keys_at(model, ids, positions) for positions in (here, there))
    forward = realigner.rotate(realigner.unrotate(prefilled_here, here), there)
    back = realigner.rotate(realigner.unrotate(prefilled_there, there), here)
    assert error(prefilled_there, forward) <= EXACT
    assert error(prefilled_here, back) <= EXACT
    assert error(prefilled_there, prefilled_here) > 0.1, "these positions would not tell right from wrong"


@pytest.mark.parametrize("family", SUPPORTED)
def test_kind_layout_and_limit_are_the_model_s(family: str) -> None:
    realigner = probe(tiny(family))
    assert realigner.kind == KINDS.get(family, "default")
    assert realigner.layout == ("interleaved" if family in INTERLEAVED else "half")
    assert realigner.limit == (128 if realigner.kind in ("dynamic", "longrope") else None)


@pytest.mark.parametrize(("family", "bare"), [("smollm3", [2]), ("cohere2", [3]), ("exaone4", [3]), ("llama4", [3])])
def test_layers_without_rope_are_left_alone(family: str, bare: list[int]) -> None:
    realigner = probe(tiny(family))
    keys = torch.randn(4, 2, 9, 8)
    turned = realigner.rotate(keys, torch.arange(9) + 5)
    assert [i for i in range(4) if torch.equal(turned[i], keys[i])] == bare


def test_gemma3_layers_have_the_frequencies_of_their_type() -> None:
    model = tiny("gemma3")
    inv_freq = probe(model).inv_freq
    rotary = model.model.rotary_emb
    expected = [rotary.sliding_attention_inv_freq, rotary.full_attention_inv_freq] * 2
    assert torch.equal(inv_freq, torch.stack(expected))


@pytest.mark.parametrize(("family", "rotary_dims"), [("gpt_neox", 4), ("phi", 4), ("stablelm", 2)])
def test_partial_rotary_leaves_the_other_dimensions(family: str, rotary_dims: int) -> None:
    keys = torch.randn(2, 4, 9, 8)
    turned = probe(tiny(family)).rotate(keys, torch.arange(9) + 5)
    assert torch.equal(turned[..., rotary_dims:], keys[..., rotary_dims:])
    assert not torch.isclose(turned[..., :rotary_dims], keys[..., :rotary_dims]).all(dim=2).any()


def test_unrotate_divides_out_the_attention_scaling() -> None:
    model = tiny("llama_yarn")
    realigner = probe(model)
    scaling = model.model.rotary_emb.attention_scaling
    assert scaling == pytest.approx(1.1386, abs=1e-4)
    keys = torch.randn(2, 2, 5, 8)
    at = torch.arange(5)
    assert realigner.rotate(keys, at).norm() / keys.norm() == pytest.approx(scaling, rel=1e-5)
    assert realigner.unrotate(keys, at).norm() / keys.norm() == pytest.approx(1 / scaling, rel=1e-5)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.refused])
def test_other_architectures_are_refused_by_name_and_reason(family: str) -> None:
    model = tiny(family)
    with pytest.raises(UnsupportedModel) as refusal:
        probe(model)
    assert str(refusal.value).startswith(f"KV of a {model.config.model_type} model cannot be reused")
    assert REASONS[family] in str(refusal.value)


def test_experts_that_rounding_chooses_otherwise_are_no_reason_to_refuse() -> None:
    model = tiny("phimoe").bfloat16()
    near, far = torch.arange(16), torch.arange(16) + 37
    (_, values), (_, moved) = (rope._read_at(model, at) for at in (near, far))
    off, whole = (t[1].transpose(0, 1).flatten(1).norm(dim=1) for t in (values - moved, values))
    assert (off / whole > 0.1).sum() == 1, "no token of the probe is sent to another expert: this tests nothing"
    assert probe(model).kind == "default"


@pytest.mark.parametrize("tokens", [8, 16])
def test_a_fault_that_half_of_the_tokens_share_is_seen(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def some_off(self: Realigner, keys: Tensor, positions: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        late = (positions >= 37) & (positions < 37 + tokens + 1)
        return cos_sin(self, keys, positions + late, factor)

    monkeypatch.setattr(Realigner, "_cos_sin", some_off)
    with pytest.raises(UnsupportedModel, match="re-aligned keys differ from prefilled ones by"):
        probe(tiny("llama"))


def test_model_that_adds_absolute_positions_to_its_values_is_refused() -> None:
    model = tiny("llama")

    def add_positions(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (args[0] + 0.05 * kwargs["position_ids"][..., None], *args[1:]), kwargs

    model.model.layers[0].register_forward_pre_hook(add_positions, with_kwargs=True)
    with pytest.raises(UnsupportedModel, match="its values depend on the absolute position"):
        probe(model)


def test_model_that_ignores_position_ids_is_refused() -> None:
    model = tiny("llama")

    def start_at_zero(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {"position_ids": kwargs["position_ids"] - kwargs["position_ids"].min()}

    model.model.rotary_emb.register_forward_pre_hook(start_at_zero, with_kwargs=True)
    with pytest.raises(UnsupportedModel, match="its keys do not depend on position_ids"):
        probe(model)


def _not_turned(self: Realigner, keys: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None) -> Tensor:
    return keys.clone()


def _turned_backwards(self: Realigner, keys: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None) -> Tensor:
    return turn(self, keys, cos, -sin, out)


def _scaling_kept(self: Realigner, keys: Tensor, positions: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return cos_sin(self, keys, positions, torch.maximum(factor, 1 / factor))


def _one_position_off(self: Realigner, keys: Tensor, positions: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return cos_sin(self, keys, positions + (positions > 30), factor)


turn, cos_sin = Realigner._turn, Realigner._cos_sin


@pytest.mark.parametrize(
    ("method", "broken"),
    [
        ("_turn", _not_turned),
        ("_turn", _turned_backwards),
        ("_cos_sin", _scaling_kept),
        ("_cos_sin", _one_position_off),
    ],
)
def test_probe_catches_a_broken_realigner(method: str, broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama_yarn")
    assert probe(model).kind == "yarn"
    monkeypatch.setattr(Realigner, method, broken)
    with pytest.raises(UnsupportedModel, match=r"llama model .* re-aligned keys differ from prefilled ones by"):
        probe(model)


def test_probe_catches_frequencies_that_are_not_the_model_s() -> None:
    model = tiny("llama")
    model.model.rotary_emb.register_forward_pre_hook(
        lambda _, args, kw: (args, {"position_ids": kw["position_ids"] * 2}), with_kwargs=True
    )
    with pytest.raises(UnsupportedModel, match="re-aligned keys differ from prefilled ones by"):
        probe(model)


@pytest.mark.parametrize("family", ["llama_dynamic", "llama_longrope", "phi3"])
def test_positions_beyond_the_frequency_regime_are_refused(family: str) -> None:
    model = tiny(family)
    realigner = probe(model)
    keys = keys_at(model, random_ids(3), torch.arange(3))
    last = torch.tensor([0, 1, 127])
    assert (
        error(
            keys_at(model, random_ids(3), last)[:1],
            realigner.rotate(realigner.unrotate(keys, torch.arange(3)), last)[:1],
        )
        <= EXACT
    )
    with pytest.raises(ContextTooLong, match=f"Position 128 lies beyond the 128 that {realigner.kind} RoPE serves"):
        realigner.rotate(keys, torch.tensor([0, 1, 128]))


@pytest.mark.parametrize("family", ["llama_dynamic", "llama_longrope"])
def test_probe_reads_the_original_frequencies_after_a_long_text(family: str) -> None:
    model = tiny(family)
    before = probe(model)
    prefill(model, random_ids(150)[None])
    assert not torch.equal(model.model.rotary_emb.inv_freq, before.inv_freq[0])
    assert torch.equal(probe(model).inv_freq, before.inv_freq)


def test_probe_leaves_the_model_as_it_was() -> None:
    model = tiny("llama_dynamic")
    ids = random_ids(30)[None]
    with torch.no_grad():
        before = model(ids).logits
        probe(model)
        assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("family", ["llama", "gemma3", "cohere", "gpt_neox"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_low_precision_is_kept_and_costs_only_rounding(family: str, dtype: torch.dtype, bound: float) -> None:
    model, ids = tiny(family).to(dtype), random_ids(20)
    realigner = probe(model)
    here, there = torch.arange(20), torch.arange(20) + 83
    moved = realigner.rotate(realigner.unrotate(keys_at(model, ids, here), here), there)
    assert moved.dtype == dtype
    # Of the first layer only: deeper ones differ by what the model itself rounds.
    assert error(keys_at(model, ids, there)[:1], moved[:1]) <= bound


def realigner_of(layout: str, rotary: int, layers: int = 1, scaling: float = 1.0) -> Realigner:
    inv_freq = 100.0 ** -(torch.arange(0, rotary, 2) / rotary)
    return Realigner("default", layout, inv_freq.repeat(layers, 1), torch.full((layers,), scaling))


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(["half", "interleaved"]),
    rotary=st.sampled_from([2, 4, 8]),
    layers=st.sampled_from([1, 3]),
    scaling=st.sampled_from([1.0, 1.3]),
    first=st.lists(st.integers(0, 2000), max_size=6),
    shift=st.integers(0, 2000),
)
def test_turns_undo_and_add_up(
    layout: str, rotary: int, layers: int, scaling: float, first: list[int], shift: int
) -> None:
    realigner = realigner_of(layout, rotary, layers, scaling)
    at = torch.tensor(first, dtype=torch.long)
    keys = torch.randn(3, 2, len(first), 8, generator=torch.Generator().manual_seed(len(first)))
    there = realigner.rotate(keys, at)
    torch.testing.assert_close(realigner.unrotate(there, at), keys, rtol=0, atol=1e-5)
    torch.testing.assert_close(there[..., :rotary].norm(), scaling * keys[..., :rotary].norm(), rtol=1e-5, atol=0)
    # Angles are rounded to fp32, so two turns meet one only up to a few units in the last place of the angle.
    further = realigner.rotate(there, torch.full_like(at, shift))
    torch.testing.assert_close(
        further[..., :rotary], scaling * realigner.rotate(keys, at + shift)[..., :rotary], rtol=0, atol=5e-3
    )
    assert torch.equal(further[..., rotary:], keys[..., rotary:])


@settings(max_examples=30, deadline=None)
@given(layers=st.integers(1, 7), tokens=st.integers(0, 9), chunk=st.integers(0, 200), half=st.booleans())
def test_result_does_not_depend_on_how_many_layers_are_turned_at_once(
    layers: int, tokens: int, chunk: int, half: bool
) -> None:
    realigner = realigner_of("half" if half else "interleaved", 4)
    keys = torch.randn(layers, 2, tokens, 8)
    whole = realigner.rotate(keys, torch.arange(tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lagkit.model.rope.CACHED_ELEMENTS", chunk)
        assert torch.equal(realigner.rotate(keys, torch.arange(tokens)), whole)


def test_rows_of_a_batch_and_given_storage_get_the_same_keys() -> None:
    realigner = realigner_of("half", 8, layers=3)
    keys, at = torch.randn(3, 4, 2, 5, 8), torch.arange(5) + 7
    rows = torch.stack([realigner.rotate(keys[:, row], at) for row in range(4)], dim=1)
    storage = torch.full((3, 4, 2, 9, 8), 7.0, dtype=torch.bfloat16)
    returned = realigner.rotate(keys, at, out=storage[:, :, :, 2:7])
    assert torch.equal(realigner.rotate(keys, at), rows)
    assert torch.equal(storage[:, :, :, 2:7], rows.bfloat16())
    assert returned.data_ptr() == storage[:, :, :, 2:7].data_ptr()
    assert (storage[:, :, :, [0, 1, 7, 8]] == 7).all()


def test_limit_of_none_allows_any_position() -> None:
    realigner = realigner_of("half", 4)
    keys = torch.ones(1, 1, 1, 4)
    assert realigner.rotate(keys, torch.tensor([10**6])).isfinite().all()
    with pytest.raises(ContextTooLong):
        replace(realigner, limit=10**6).rotate(keys, torch.tensor([10**6]))
