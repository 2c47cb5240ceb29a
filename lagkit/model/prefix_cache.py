"""Prefix cache: reuses the KV cache of a question's last prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lagkit.model.cache import CachedRow
from lagkit.model.kv import Part

if TYPE_CHECKING:
    from lagkit.model.context import Context

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

    def drop(self, question: str) -> None:
        """Forget a question that has ended."""
        if cache := self._caches.pop(question, None):
            cache.clear()  # a context may hold it longer

    def of(self, question: str) -> PrefixCache:
        """The prefix cache of the question with this id."""
        cache = self._caches.setdefault(question, PrefixCache())
        self._caches.move_to_end(question)
        while len(self._caches) > 1 and self.nbytes > self.max_bytes:
            self._caches.popitem(last=False)[1].clear()
        return cache


class PrefixCache:
    """The KV cache of one question's last prompt."""

    _parts: tuple[Part, ...] = ()
    _ids: tuple[int, ...] = ()
    _row: CachedRow | None = None
    nbytes: int = 0  # counted once, as those of all questions are summed up whenever one is asked for

    def keep(self, context: Context, row: CachedRow) -> None:
        """Remember a context that was read."""
        self._parts, self._ids, self._row, self.nbytes = context.parts, context.ids, row, row.nbytes

    def clear(self) -> None:
        """Forget it."""
        self._parts, self._ids, self._row, self.nbytes = (), (), None, 0

    def resume(self, context: Context) -> Context:
        """The same context, continued from the cache as far as both prompts are the same; the cache is given away.

        KV is the same where all tokens before it are, parts included. At least the last token is left to prefill.
        """
        row = self._row
        alike = len(self._parts) == len(context.parts) and all(map(_same, self._parts, context.parts))
        read = _common(self._ids, context.ids[:-1]) if alike else 0
        self.clear()
        if not read or row is None:
            return context
        ids = torch.cat([*(block.ids.cpu() for block in context.blocks), torch.tensor(context.ids[:read])])
        return replace(context, ids=context.ids[read:], parts=(replace(row, stop=row.start + len(ids), ids=ids),))


def _same(one: Part, other: Part) -> bool:
    return one is other or one.resolve() is other.resolve()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
