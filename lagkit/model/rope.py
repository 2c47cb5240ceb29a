"""Taking RoPE off cached keys and putting it on elsewhere; finding out whether a model allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lagkit.model.cache import has_recurrent_state, prefill, stack_layers
from lagkit.util.errors import ContextTooLong, UnsupportedModel

Layout = Literal["half", "interleaved"]

CACHED_ELEMENTS = 2**17
PROBE_TOKENS = 16
PROBE_SHIFT = 37
# Largest relative error of a layer (its median token) between re-aligned and prefilled: rounding, summed up over the
# layers before it.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, eq=False)
class Realigner:
    """Rotates keys with the model's own frequencies; computes in fp32 whatever the keys' dtype.

    bf16 keys lose about 0.6% at each turn: rotate from the stored keys, never from keys that were rotated before.
    `inv_freq`: radians per position, fp32 `[layers or 1, rotary_dims / 2]`; zeros in layers without RoPE.
    `scaling`: the factor on cos and sin (yarn, longrope), fp32 `[layers or 1]`.
    `layout`: dimension i is paired with i + rotary_dims / 2 (`half`) or i with i + 1 (`interleaved`).
    `limit`: the first position at which the model switches to other frequencies, None if it never does.
    """

    kind: str
    layout: Layout
    inv_freq: Tensor
    scaling: Tensor
    limit: int | None = None

    def rotate(self, keys: Tensor, positions: Tensor, out: Tensor | None = None) -> Tensor:
        """Put RoPE on `keys` `[layers, ..., kv_heads, tokens, head_dim]` at int `positions` `[tokens]`.

        Returns `out` (same shape, any dtype, apart from `keys` in memory), by default new. Raises ContextTooLong for a
        position at or beyond `limit`.
        """
        return self._turn(keys, *self._cos_sin(keys, positions, self.scaling), out)

    def unrotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Take RoPE off keys that the model cached at `positions`; the inverse of `rotate`."""
        cos, sin = self._cos_sin(keys, positions, 1 / self.scaling)
        return self._turn(keys, cos, -sin, None)

    def _cos_sin(self, keys: Tensor, positions: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Two of `[layers, tokens, rotary_dims / 2]`."""
        if self.limit is not None and len(positions) and int(positions.max()) >= self.limit:
            raise ContextTooLong(
                f"Position {int(positions.max())} lies beyond the {self.limit} that {self.kind} RoPE serves with one "
                "set of frequencies: inject fewer tokens."
            )
        inv_freq = self.inv_freq.to(keys.device)[:, None]
        angles = positions.to(keys.device, torch.float32)[:, None] * inv_freq
        factor = factor.to(keys.device)[:, None, None]
        cos, sin = ((t * factor).expand(len(keys), -1, -1) for t in (angles.cos(), angles.sin()))
        return cos, sin

    @torch.no_grad()
    def _turn(self, keys: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None) -> Tensor:
        out = torch.empty_like(keys) if out is None else out
        rotary = 2 * cos.shape[-1]
        out[..., rotary:] = keys[..., rotary:]
        between = [1] * (keys.ndim - 3)
        cos, sin = (t.reshape(len(t), *between, *t.shape[1:]) for t in (cos, sin))
        size = _layers_at_once(keys)
        scratch = torch.empty((2, size, *keys.shape[1:-1], rotary), device=keys.device)
        for k, o, c, s in zip(*(t.split(size) for t in (keys, out, cos, sin)), strict=True):
            x, y = scratch[:, : len(k)]
            x.copy_(k[..., :rotary])
            (a, b), (turned_a, turned_b) = self._pairs(x), self._pairs(y)
            torch.mul(a, c, out=turned_a).addcmul_(b, s, value=-1)
            torch.mul(b, c, out=turned_b).addcmul_(a, s)
            o[..., :rotary] = y
        return out

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the first and the second dimension of each rotated pair."""
        half = x.shape[-1] // 2
        return (x[..., :half], x[..., half:]) if self.layout == "half" else (x[..., 0::2], x[..., 1::2])


def _layers_at_once(keys: Tensor) -> int:
    """How many layers to turn together: all on a GPU, as many as its cache holds on a CPU (four times as fast)."""
    if keys.device.type != "cpu":
        return len(keys)
    return max(1, min(len(keys), CACHED_ELEMENTS // max(1, keys[0].numel())))


def probe(model: PreTrainedModel) -> Realigner:
    """Find how the model's keys are re-aligned: read 16 tokens at two offsets, and try to move one to the other.

    Each layer is given the frequencies that fit it: those of its layer type, or none. Raises UnsupportedModel, with the
    reason, if no known way fits every layer.
    """
    if has_recurrent_state(model):
        raise _unsupported(model, "it keeps a recurrent state outside keys and values")
    kind, limit, frequencies = _read_frequencies(model)
    shift = min(PROBE_SHIFT, (limit or PROBE_SHIFT + PROBE_TOKENS) - PROBE_TOKENS)
    near, far = (torch.arange(PROBE_TOKENS, device=model.device) + offset for offset in (0, shift))
    (keys, values), (moved_keys, moved_values) = (_read_at(model, positions) for positions in (near, far))
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.float32])
    if (drift := _relative_error(values, moved_values).max()) > tolerance:
        raise _unsupported(model, f"its values depend on the absolute position (they differ by {drift:.2g})")
    worst = float("inf")
    for layout in ("half", "interleaved"):
        single = [Realigner(kind, layout, freq[None], scale[None], limit) for freq, scale in frequencies]
        realigned = (r.rotate(r.unrotate(keys, near), far) for r in single)
        error, choice = torch.stack([_relative_error(moved_keys, k) for k in realigned]).min(dim=0)
        if error.max() <= tolerance:
            if not choice.any():
                raise _unsupported(model, "its keys do not depend on position_ids")
            return _assemble(single, choice.tolist())
        worst = min(worst, float(error.max()))
    raise _unsupported(model, f"re-aligned keys differ from prefilled ones by {worst:.2g}, more than {tolerance:g}")


def _assemble(single: list[Realigner], choice: list[int]) -> Realigner:
    """One realigner for all layers out of those that fit each; a single row where all layers agree."""
    chosen = [single[i] for i in (choice if len(set(choice)) > 1 else choice[:1])]
    inv_freq, scaling = (torch.cat([getattr(r, name) for r in chosen]) for name in ("inv_freq", "scaling"))
    return Realigner(single[0].kind, single[0].layout, inv_freq, scaling, single[0].limit)


def _read_at(model: PreTrainedModel, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values `[layers, kv_heads, tokens, head_dim]`, fp32, of fixed random tokens read at `positions`."""
    vocabulary: int = model.get_input_embeddings().get_parameter("weight").shape[0]
    ids = torch.randint(vocabulary, (1, len(positions)), generator=torch.Generator().manual_seed(0)).to(model.device)
    cache = prefill(model, ids, positions[None])
    try:
        keys, values = stack_layers(cache, 0, len(positions))
    except ValueError as reason:
        raise _unsupported(model, str(reason)) from reason
    return keys.float(), values.float()


def _read_frequencies(model: PreTrainedModel) -> tuple[str, int | None, list[tuple[Tensor, Tensor]]]:
    """RoPE kind, limit, and the (inv_freq, scaling) that a layer may use; the first stands for no RoPE at all."""
    found = [m for m in model.modules() if any(n.endswith("inv_freq") for n, _ in m.named_buffers(recurse=False))]
    if len(found) != 1:
        raise _unsupported(model, f"it has {len(found)} rotary embeddings where one is needed")
    rotary, parameters = found[0], getattr(model.config.get_text_config(decoder=True), "rope_parameters", None)
    if not parameters:
        raise _unsupported(model, "its configuration has no rope_parameters")
    # Gemma 3 and others have one set of parameters and buffers per layer type.
    per_type = {"": parameters} if "rope_type" in parameters else {f"{t}_": p for t, p in parameters.items() if p}
    sets, limits = [], []
    for prefix, params in per_type.items():
        limit = _limit(params, rotary)
        # Kinds with a limit overwrite `inv_freq` when a text grows beyond it; the model goes back to the original.
        inv_freq = getattr(rotary, f"{prefix}inv_freq" if limit is None else f"{prefix}original_inv_freq")
        scaling = torch.tensor(getattr(rotary, f"{prefix}attention_scaling"), dtype=torch.float32)
        sets.append((inv_freq.detach().clone().float(), scaling))
        limits += [] if limit is None else [limit]
    if len({len(inv_freq) for inv_freq, _ in sets}) > 1:
        raise _unsupported(model, "its layer types rotate different numbers of dimensions")
    none = (torch.zeros_like(sets[0][0]), torch.tensor(1.0))
    kind = "+".join(sorted({p["rope_type"] for p in per_type.values()}))
    return kind, min(limits, default=None), [none, *sets]


def _limit(parameters: dict[str, Any], rotary: nn.Module) -> int | None:
    """How many positions the original frequencies serve."""
    if parameters["rope_type"] == "dynamic":
        longest: Any = rotary.original_max_seq_len
        return int(longest)
    return parameters["original_max_position_embeddings"] if parameters["rope_type"] == "longrope" else None


def _relative_error(expected: Tensor, found: Tensor) -> Tensor:
    """`[layers]`: norm of the difference over norm of what is expected, of the median token.

    A wrong position is wrong for all tokens; one that rounding sends to another expert is off alone.
    """
    gap, whole = (t.transpose(1, 2).flatten(2).norm(dim=2) for t in (expected - found, expected))
    median: Tensor = (gap / whole).median(dim=1).values
    return median


def _unsupported(model: PreTrainedModel, reason: str) -> UnsupportedModel:
    name = model.config.model_type
    return UnsupportedModel(f"KV of a {name} model cannot be reused at another position: {reason}; use a text policy.")
