"""KV blocks into a cache and out of it: the only module that touches the cache classes of transformers."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from lagkit.model.kv import KVBlock, Part
from lagkit.util.errors import ContextTooLong, StoreMismatch

if TYPE_CHECKING:
    from lagkit.model.rope import Realigner


class _RoomyLayer(DynamicLayer):
    """A cache layer that writes new tokens into spare slots, instead of copying the whole cache for each token.

    Sliding layers too keep every token here; transformers' sliding mask hides those outside the window.
    """

    def __init__(self, room: int, keys: Tensor | None = None, values: Tensor | None = None, used: int = 0) -> None:
        """`keys`, `values`: slots `[batch, kv_heads, used + room, head_dim]`; by default made at the first update."""
        super().__init__()  # type: ignore[no-untyped-call]  # of transformers
        self._room, self._slots = room, [t for t in (keys, values) if t is not None]
        self._shown: Tensor | None = None
        if keys is not None:
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
            self._show(used)

    def _show(self, used: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = shown = self._slots[0][:, :, :used], self._slots[1][:, :, :used]
        self._shown = self.keys
        return shown

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append `[batch, kv_heads, new, head_dim]`; return views of all tokens so far. Grows when full."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used, news = self.get_seq_length(), (key_states, value_states)
        end = used + key_states.shape[-2]
        # Others are shown after `crop`, `reorder_cache` and their like.
        if self.keys is not self._shown or end > self._slots[0].shape[2]:
            self._slots = [new.new_empty(*new.shape[:2], end + self._room, new.shape[-1]) for new in news]
            for slots, old in zip(self._slots, (self.keys, self.values), strict=True):
                if used and old is not None:
                    slots[:, :, :used] = old
        for slots, new in zip(self._slots, news, strict=True):
            slots[:, :, used:end] = new
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Show these rows only, in rising order; they change places with the others, as copies would need room."""
        if (rows := indices.tolist()) != sorted({*rows}):
            raise ValueError(f"rows {rows} do not rise, and cannot change places one by one")
        for row, kept in enumerate(rows):
            for slots in self._slots if row < kept else ():
                used = slots[:, :, : self.get_seq_length()]
                left = used[row].clone()
                used[row], used[kept] = used[kept], left
        self._slots = [slots[: len(indices)] for slots in self._slots]
        self._show(self.get_seq_length())


class _RoomyCache(DynamicCache):
    def __init__(self, layers: list[_RoomyLayer]) -> None:
        Cache.__init__(self, layers=[*layers])


def spare_room(slots: Sequence[tuple[Tensor, Tensor]], used: int) -> Cache:
    """A cache over the keys and values of each layer, slots `[batch, kv_heads, n, head_dim]`, `used` of them taken."""
    return _RoomyCache([_RoomyLayer(keys.shape[2] - used, keys, values, used) for keys, values in slots])


def new_slots(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Slots for KV, all zero: padding stays so, as its masked values are multiplied by zero weights, not left out.

    On a CPU they take memory as they are filled, and give it back when they are freed, which malloc may not do. Raises
    RuntimeError where there is none left, as torch does.
    """
    if device.type != "cpu" or not prod(shape):  # nothing cannot be mapped
        return torch.zeros(shape, dtype=dtype, device=device)
    size = prod(shape) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise RuntimeError(f"no memory for {size:,} bytes of KV: {error}") from error
    if sys.platform == "linux":
        with suppress(OSError):  # from a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)  # which would take padding in
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def has_recurrent_state(model: PreTrainedModel) -> bool:
    """Whether some layer of the model carries a state (Mamba, linear attention) that is not in keys and values."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=model.config).layers)


@torch.no_grad()
def prefill(model: PreTrainedModel, ids: Tensor, positions: Tensor | None = None) -> Cache:
    """The cache of unpadded `ids` `[batch, tokens]` at `positions` (`[batch, tokens]`, default 0..n-1), by slot."""
    # Without a config every layer keeps all tokens; with it, sliding layers forget those outside their window.
    cache, mask = DynamicCache(), torch.ones_like(ids)
    model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    return cache


def stack_layers(cache: Cache, start: int, stop: int, row: int = 0) -> tuple[Tensor, Tensor]:
    """Keys (as cached, with RoPE) and values of tokens `[start, stop)`: two of `[layers, kv_heads, tokens, head_dim]`.

    Raises ValueError if some layer holds no KV, another shape than the rest, or not all of these tokens.
    """
    layers = [layer_states(cache, number) for number in range(len(cache.layers))]
    for number, states in enumerate(layers):
        shapes = {tuple(t.shape) for t in (layers[0][0], *states)}
        if len(shapes) > 1:
            raise ValueError(f"layer {number} holds keys and values of another shape: {sorted(shapes)}")
    held = layers[0][0].shape[2]
    if not 0 <= start <= stop <= held:
        raise ValueError(f"tokens {start} to {stop} were asked for, but the cache holds {held}")
    keys, values = (torch.stack([t[row, :, start:stop].detach() for t in of]) for of in zip(*layers, strict=True))
    return keys, values


def layer_states(cache: Cache, number: int) -> tuple[Tensor, Tensor]:
    """A layer's keys, with RoPE, and values `[batch, kv_heads, tokens, head_dim]`; raises ValueError if it has none."""
    keys, values = (getattr(cache.layers[number], name, None) for name in ("keys", "values"))
    if keys is None or values is None:
        raise ValueError(f"layer {number} holds no keys and values of its own")
    return keys, values


def read_cache(cache: Cache, realigner: Realigner, ids: Tensor, start: int, stop: int) -> KVBlock:
    """Cut tokens `[start, stop)`, of these `ids`, out of an unpadded cache whose slot i is position i, without RoPE."""
    keys, values = stack_layers(cache, start, stop)
    keys = realigner.unrotate(keys, torch.arange(start, stop, device=keys.device))
    return KVBlock(keys, values, ids.to(keys.device, torch.long))


def build_cache(
    rows: Sequence[Sequence[Part]], model: PreTrainedModel, realigner: Realigner, capacity: int
) -> tuple[Cache, Tensor]:
    """Write each row's parts side by side, at positions 0..n-1, into a cache for `model.generate`.

    Shorter rows are padded on the left with zeros up to P, the longest. Returns the cache, with preallocated slots for
    `capacity` tokens more, and the prefix mask, int64 `[batch, P]`: the attention mask to pass is
    `cat([prefix_mask, prompt_mask], 1)`. Use a cache once. Where layers slide, windows are counted in slots, so prompts
    of one batch should be equally long once the text outgrows the window.
    Raises ContextTooLong beyond the realigner's limit, StoreMismatch if a part is not of this model's shape.
    """
    lengths = [sum(map(len, parts)) for parts in rows]
    longest = max(lengths, default=0)
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=model.device)
    if not longest:
        return _RoomyCache([_RoomyLayer(capacity) for _ in range(depth)]), mask
    if realigner.limit is not None and longest > realigner.limit:
        raise ContextTooLong(
            f"{longest} injected tokens exceed the {realigner.limit} positions of {realigner.kind} RoPE: inject fewer."
        )
    layers, kv_heads, head_dim = _common_shape([part for parts in rows for part in parts], depth)
    size = (layers, len(rows), kv_heads, longest + capacity, head_dim)
    keys, values = (new_slots(size, model.dtype, model.device) for _ in range(2))
    for row, (parts, tokens) in enumerate(zip(rows, lengths, strict=True)):
        pad = longest - tokens
        mask[row, pad:] = 1
        start = 0
        for part in parts:
            slots = slice(pad + start, pad + start + len(part))
            part.write_into(realigner, start, keys[:, row, :, slots], values[:, row, :, slots])
            start += len(part)
    return spare_room(list(zip(keys, values, strict=True)), longest), mask


@dataclass(frozen=True, eq=False)
class CachedRow(Part):
    """Tokens `[start, stop)` of one row of a cache, keys rotated to 0.. : stands at the start of a context again.

    ids: int64 `[stop - start]`, where it stands in a context.
    """

    cache: Cache
    row: int
    start: int
    stop: int
    ids: Tensor | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def shape(self) -> tuple[int, int, int]:
        _, kv_heads, _, head_dim = layer_states(self.cache, 0)[0].shape
        return len(self.cache.layers), kv_heads, head_dim

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        layers = range(len(self.cache.layers) if len(self) else 0)  # an empty cache has no tensors yet
        return sum(t.nbytes for number in layers for t in self._states(number))

    def write_into(self, realigner: Realigner, start: int, keys: Tensor, values: Tensor) -> None:
        """Copied as they are: `start` is 0."""
        for number, slots in enumerate(zip(keys, values, strict=True)):
            for slot, cached in zip(slots, self._states(number), strict=True):
                slot.copy_(cached)

    def _states(self, number: int) -> list[Tensor]:
        return [states[self.row, :, self.start : self.stop] for states in layer_states(self.cache, number)]


def _common_shape(parts: Sequence[Part], depth: int) -> tuple[int, int, int]:
    """(layers, kv_heads, head_dim) of all parts; raises StoreMismatch if they differ or are not `depth` layers."""
    shapes = {part.shape for part in parts}
    if len(shapes) > 1 or next(iter(shapes))[0] != depth:
        found = ", ".join(str(shape) for shape in sorted(shapes))
        raise StoreMismatch(
            f"The model has {depth} layers, but the KV blocks are of (layers, kv_heads, head_dim) {found}: "
            "encode the logs with this model."
        )
    return shapes.pop()
