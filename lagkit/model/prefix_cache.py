"""Prefix cache: reuses the KV cache of a question's last prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import Cache

from lagkit.model.cache import layer_states
from lagkit.model.kv import Part

if TYPE_CHECKING:
    from lagkit.model.context import Context
    from lagkit.model.rope import Realigner

MAX_BYTES = 2**30


class PrefixCaches:
    """A prefix cache for each question under way; the least recently used are cleared beyond `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._caches: OrderedDict[str, PrefixCache] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of all caches that are kept."""
        return sum(cache.nbytes for cache in self._caches.values())

    def of(self, question: str) -> PrefixCache:
        """The prefix cache of the question with this id."""
        cache = self._caches.setdefault(question, PrefixCache())
        self._caches.move_to_end(question)
        excess = self.nbytes - self.max_bytes
        for name in list(self._caches)[:-1]:
            if excess <= 0:
                break
            excess -= self._caches.pop(name).clear()
        return cache


class PrefixCache:
    """The KV cache of one question's last prompt."""

    _parts: tuple[Part, ...] = ()
    _ids: tuple[int, ...] = ()
    _cache: Cache | None = None
    nbytes: int = 0  # of the cache; counted once, as all prefix_caches are summed up whenever one is asked for

    def keep(self, context: Context, cache: Cache) -> None:
        """Remember the cache, of one row, of a context that was read but for its last token."""
        self._parts, self._ids, self._cache = context.parts, context.ids[:-1], cache
        states = [t for i in range(len(cache.layers)) for t in layer_states(cache, i)] if cache.get_seq_length() else []
        self.nbytes = sum(t.nbytes for t in states)

    def clear(self) -> int:
        """Forget it; returns the bytes that were freed."""
        freed = self.nbytes
        self._parts, self._ids, self._cache, self.nbytes = (), (), None, 0
        return freed

    def resume(self, context: Context) -> Context:
        """The same context, continued from the cache as far as both prompts are the same.

        KV is the same where all tokens before it are, parts included: logs that were found since then and stand in
        front change everything. At least the last token is left to prefill.
        """
        alike = len(self._parts) == len(context.parts) and all(map(_same, self._parts, context.parts))
        read = _common(self._ids, context.ids[:-1]) if alike else 0
        if not read or self._cache is None:
            return context
        ids = torch.cat([*(block.ids.cpu() for block in context.blocks), torch.tensor(context.ids[:read])])
        return replace(context, ids=context.ids[read:], parts=(_Read(self._cache, ids),))


def _same(one: Part, other: Part) -> bool:
    return one is other or one.resolve() is other.resolve()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass(frozen=True, eq=False)
class _Read:
    """The first tokens of a cache, keys rotated; a `kv.Part` that stands at position 0."""

    cache: Cache
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, kv_heads, _, head_dim = layer_states(self.cache, 0)[0].shape
        return len(self.cache.layers), kv_heads, head_dim

    def resolve(self) -> _Read:
        return self

    def write_into(self, realigner: Realigner, start: int, keys: Tensor, values: Tensor) -> None:
        """Copied as they are: `start` is 0."""
        for number, (k, v) in enumerate(zip(keys, values, strict=True)):
            cached_keys, cached_values = layer_states(self.cache, number)
            k.copy_(cached_keys[0, :, : len(self)])
            v.copy_(cached_values[0, :, : len(self)])
