"""A store into another one, of the same kind or not: streamed, resumable, and compared to the last byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from lagkit.errors import StoreError
from lagkit.progress import Progress
from lagkit.store.base import Store
from lagkit.store.batch import Packed
from lagkit.store.files import BlockRow


@dataclass(frozen=True)
class Copied:
    """What a copy did: `logs` in the source, how many of their blocks were `new` in the target, with bytes and seconds.

    `bytes` and `seconds` are those of the copying alone, `checked` and `checking` those of the comparison.
    """

    logs: int
    new: int
    bytes: int
    seconds: float
    checked: int
    checking: float

    @property
    def rates(self) -> tuple[tuple[int, float], tuple[int, float]]:
        """Bytes and seconds of copying, and of comparing."""
        return (self.bytes, self.seconds), (self.checked, self.checking)


def copy(source: Store, target: Store) -> Copied:
    """Bring `target` to hold what `source` does, then compare both throughout; called again, it completes the copy.

    A few logs are in memory at a time. Raises StoreMismatch, before anything is written, if the target holds another
    model's logs, and StoreError if it holds logs that are not the first ones of the source, or if the comparison finds
    a difference.
    """
    target._header.check(target.path, **source.identity)
    ids, there = source.ids, target.ids
    if there != ids[: len(there)]:
        raise StoreError(
            f"{target.path} holds other logs than the first ones of {source.path}, or in another order: copy into a "
            "store of its own."
        )
    began, moved = time.monotonic(), _Moved(source, len(ids))
    with moved.shown:
        target.put_packed(moved.logs(target))
    seconds, began = time.monotonic() - began, time.monotonic()
    checked = _compare(source, target, len(ids))
    return Copied(len(ids), moved.blocks, moved.bytes, seconds, checked, time.monotonic() - began)


class _Moved:
    """The logs of a store on their way, counted."""

    def __init__(self, source: Store, total: int) -> None:
        self.source = source
        self.shown = Progress("Copying logs", total)
        self.blocks = self.bytes = 0

    def logs(self, target: Store) -> Iterator[tuple[Packed, Callable[[BlockRow], bytes]]]:
        """Each log with those of its blocks that the target lacks."""
        for log in self.source.packed():
            lacking = tuple(row for row in log.blocks if target.find(log.id, row.key) is None)
            yield log._replace(blocks=lacking), self._content
            self.shown.update()

    def _content(self, row: BlockRow) -> bytes:
        content = self.source.content(row)
        self.blocks += 1
        self.bytes += len(content)
        return content


def _compare(source: Store, target: Store, total: int) -> int:
    """Read all of `target` and hold it against what `source` says; returns the bytes of its blocks."""
    checked = 0
    with Progress("Comparing logs", total) as shown:
        for ours, theirs in zip_longest(source.packed(), target.packed()):
            for name in Packed._fields:
                if getattr(ours, name, None) != getattr(theirs, name, None):
                    raise StoreError(
                        f"{target.path} is no copy of {source.path}: they differ in the {name} of log "
                        f"{(ours or theirs).id}. If neither was changed meanwhile, prune the copy and copy again."
                    )
            # Its sha256 is that of the source's block, and reading it proves that it is right.
            checked += sum(len(target.content(row)) for row in theirs.blocks)
            shown.update()
    return checked
