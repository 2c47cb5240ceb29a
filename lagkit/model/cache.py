"""KV blocks into a cache and out of it: the only module that touches the cache classes of transformers."""

from __future__ import annotations

from collections.abc import Sequence
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
        """`keys`, `values`: slots `[batch, kv_heads, used + room, head_dim]`, made at the first update if absent."""
        super().__init__()  # type: ignore[no-untyped-call]  # of transformers
        self._room = room
        if keys is not None and values is not None:
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
            self._adopt(keys, values, used)

    def _adopt(self, keys: Tensor, values: Tensor, used: int) -> tuple[Tensor, Tensor]:
        self._slots = keys, values
        self.keys, self.values = shown = keys[:, :, :used], values[:, :, :used]
        self._view: Tensor | None = shown[0]
        return shown

    def _reserve(self, like: Sequence[Tensor], used: int, slots: int) -> None:
        """Move to fresh storage of `slots` slots: at the first token, when full, or after `crop` and its like."""
        fresh = [new.new_empty(*new.shape[:2], slots, new.shape[-1]) for new in like]
        for slot, old in zip(fresh, (self.keys, self.values), strict=True):
            if used and old is not None:
                slot[:, :, :used] = old
        self._adopt(fresh[0], fresh[1], used)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append `[batch, kv_heads, new, head_dim]`; return views of all tokens so far. Grows when full."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._view = None
        used = self.get_seq_length()
        end = used + key_states.shape[-2]
        if self.keys is not self._view or end > self._slots[0].shape[2]:
            self._reserve((key_states, value_states), used, end + self._room)
        for slot, new in zip(self._slots, (key_states, value_states), strict=True):
            slot[:, :, used:end] = new
        return self._adopt(*self._slots, end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only, and their spare slots."""
        keys, values = self._slots
        self._adopt(keys[indices], values[indices], self.get_seq_length())


class _RoomyCache(DynamicCache):
    def __init__(self, layers: list[_RoomyLayer]) -> None:
        Cache.__init__(self, layers=[*layers])


def has_recurrent_state(model: PreTrainedModel) -> bool:
    """Whether some layer of the model carries a state (Mamba, linear attention) that is not in keys and values."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=model.config).layers)


@torch.no_grad()
def prefill(model: PreTrainedModel, ids: Tensor, positions: Tensor | None = None) -> Cache:
    """Read unpadded `ids` `[batch, tokens]` at `positions` (`[batch, tokens]`, default 0..n-1); no logits are made.

    Slot i of the cache that comes back holds token i, in sliding layers too.
    """
    # Without a config every layer keeps all tokens; with it, sliding layers forget those outside their window.
    cache = DynamicCache()
    model.base_model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
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


def read_cache(cache: Cache, realigner: Realigner, ids: Tensor, start: int, stop: int, row: int = 0) -> KVBlock:
    """Cut `[start, stop)` out of a freshly prefilled, unpadded cache whose slot i is position i, and un-rotate it.

    `ids`: int `[stop - start]`, the tokens cut out. Raises ValueError as `stack_layers` does, or if `ids` do not fit.
    """
    keys, values = stack_layers(cache, start, stop, row)
    keys = realigner.unrotate(keys, torch.arange(start, stop, device=keys.device))
    return KVBlock(keys, values, ids.to(keys.device, torch.long))


def build_cache(
    rows: Sequence[Part | Sequence[Part] | None], model: PreTrainedModel, realigner: Realigner, capacity: int
) -> tuple[Cache, Tensor]:
    """Lay each row's block or blocks, all `ready`, at positions 0..n-1 in a cache for `model.generate`.

    Several blocks of a row stand one after the other; that is faster than to concatenate them first. Rows without any
    (None) and shorter ones are padded on the left with zeros up to P, the longest. Returns the cache, with
    preallocated slots for `capacity` tokens more, and the prefix mask, int64 `[batch, P]`: the attention mask to pass
    is `cat([prefix_mask, prompt_mask], 1)`. Use a cache once, for greedy decoding. Where layers slide, windows are
    counted in slots, so prompts of one batch should be equally long once the text outgrows the window.
    Raises ContextTooLong beyond the realigner's limit, StoreMismatch if a block is not of this model's shape.
    """
    parts = [list(row or ()) if row is None or isinstance(row, Sequence) else [row] for row in rows]
    lengths = [sum(map(len, blocks)) for blocks in parts]
    longest = max(lengths, default=0)
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=model.device)
    if not longest:
        return _RoomyCache([_RoomyLayer(capacity) for _ in range(depth)]), mask
    if realigner.limit is not None and longest > realigner.limit:
        raise ContextTooLong(
            f"{longest} injected tokens exceed the {realigner.limit} positions of {realigner.kind} RoPE: inject fewer."
        )
    layers, kv_heads, head_dim = _common_shape([b for blocks in parts for b in blocks], depth)
    size = (layers, len(rows), kv_heads, longest + capacity, head_dim)
    keys, values = (torch.empty(size, dtype=model.dtype, device=model.device) for _ in range(2))
    for row, (blocks, tokens) in enumerate(zip(parts, lengths, strict=True)):
        pad = longest - tokens
        mask[row, pad:] = 1
        # Masked slots are still multiplied by zero weights: left uninitialised, a NaN there would spread.
        keys[:, row, :, :pad].zero_()
        values[:, row, :, :pad].zero_()
        _lay(blocks, realigner, keys[:, row, :, pad:longest], values[:, row, :, pad:longest])
    return _RoomyCache([_RoomyLayer(capacity, k, v, longest) for k, v in zip(keys, values, strict=True)]), mask


def split_rows(cache: Cache, spans: Sequence[tuple[int, int]]) -> list[Cache]:
    """A cache of one row each, of the row's slots `[start, stop)`; views, not copies."""

    def cut(number: int, row: int, start: int, stop: int) -> _RoomyLayer:
        if stop == start:
            return _RoomyLayer(0)
        keys, values = (states[row : row + 1, :, start:stop] for states in layer_states(cache, number))
        return _RoomyLayer(0, keys, values, stop - start)

    depth = range(len(cache.layers))
    return [_RoomyCache([cut(number, row, *span) for number in depth]) for row, span in enumerate(spans)]


def merge_rows(caches: Sequence[Cache], capacity: int) -> tuple[Cache, Tensor]:
    """Put caches of one row each side by side, padded on the left to the longest, with `capacity` more slots.

    Rows end together, so no row has a hole: sliding windows see what they should whatever the lengths. Returns the
    cache and its attention mask, int64 `[batch, longest]`, on the CPU.
    """
    lengths = [cache.get_seq_length() for cache in caches]
    longest = max(lengths)
    fullest = caches[lengths.index(longest)].layers
    mask = torch.zeros(len(caches), longest, dtype=torch.long)
    for row, tokens in enumerate(lengths):
        mask[row, longest - tokens :] = 1
    if not longest:
        return _RoomyCache([_RoomyLayer(capacity) for _ in fullest]), mask
    layers = []
    for number, layer in enumerate(fullest):
        slots = []
        for name in ("keys", "values"):
            like = getattr(layer, name)
            slot = like.new_empty(len(caches), like.shape[1], longest + capacity, like.shape[3])
            for row, tokens in enumerate(lengths):
                slot[row, :, : longest - tokens] = 0  # as in `build_cache`: masked slots must be finite
                if tokens:
                    slot[row, :, longest - tokens : longest] = getattr(caches[row].layers[number], name)[0]
            slots.append(slot)
        layers.append(_RoomyLayer(capacity, slots[0], slots[1], longest))
    return _RoomyCache(layers), mask


def _lay(parts: Sequence[Part], realigner: Realigner, keys: Tensor, values: Tensor) -> None:
    """Write the parts side by side into slots `[layers, kv_heads, tokens, head_dim]`, keys rotated to 0..n-1."""
    start = 0
    for part in parts:
        slots = slice(start, start + len(part))
        part.write_into(realigner, start, keys[:, :, slots], values[:, :, slots])
        start += len(part)


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
