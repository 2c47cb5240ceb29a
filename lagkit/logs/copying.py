"""Copies of a store, into one of the same kind or another: streamed, resumable, and compared to the last byte."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lagkit.logs.base import Store
from lagkit.logs.files import BlockRow, Packed
from lagkit.util.errors import StoreError
from lagkit.util.progress import Progress

READERS = 4  # logs whose blocks are read at once


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


def copy(source: Store, target: Store) -> Copied:
    """Bring `target` to hold what `source` does, then compare both throughout; called again, it completes the copy.

    A few logs are in memory at a time. Raises StoreMismatch, before anything is written, if the target holds another
    model's logs, and StoreError if it holds logs that are not the first ones of the source, or if the comparison finds
    a difference.
    """
    target.header.check(target.path, **source.header.identity)
    ids, there = source.ids, target.ids
    if there != ids[: len(there)]:
        raise StoreError(
            f"{target.path} holds other logs than the first ones of {source.path}, or in another order: copy into a "
            "store of its own."
        )
    began, moved = time.monotonic(), list[int]()
    with Progress("Copying logs", len(ids)) as shown:

        def lacking() -> Iterator[Packed]:
            for log in source.packed():
                yield log._replace(blocks=tuple(row for row in log.blocks if target.find(log.id, row.key) is None))
                shown.update()

        def counted() -> Iterator[tuple[Packed, Callable[[BlockRow], bytes]]]:
            for log, contents in _ahead(lacking(), source):
                moved.extend(map(len, contents.values()))
                yield log, contents.__getitem__

        target.put_packed(counted())
    seconds, began = time.monotonic() - began, time.monotonic()
    checked = _compare(source, target, len(ids))
    return Copied(len(ids), len(moved), sum(moved), seconds, checked, time.monotonic() - began)


def _compare(source: Store, target: Store, total: int) -> int:
    """Read all of `target` and compare it with `source`; returns the bytes of its blocks."""
    checked, found = 0, _ahead(target.packed(), target)
    again = "If neither was changed meanwhile, prune the copy and copy again."
    if source.ids != target.ids:
        raise StoreError(f"{target.path} is no copy of {source.path}: it has other logs, or in another order. {again}")
    with Progress("Comparing logs", total) as shown:
        for ours, (theirs, contents) in zip(source.packed(), found, strict=False):
            if differs := [name for name in Packed._fields if getattr(ours, name) != getattr(theirs, name)]:
                where = f"they differ in the {differs[0]} of log {ours.id}"
                raise StoreError(f"{target.path} is no copy of {source.path}: {where}. {again}")
            # Its blocks' digests are those of the source's, and that they could be read proves that they are right.
            checked += sum(map(len, contents.values()))
            shown.update()
    return checked


def _contents(store: Store, log: Packed) -> dict[BlockRow, bytes]:
    return {row: store.content(row) for row in log.blocks}


def _ahead(logs: Iterable[Packed], store: Store) -> Iterator[tuple[Packed, dict[BlockRow, bytes]]]:
    """Logs with the content of their blocks, read ahead by a few threads: an object store takes its time."""
    waiting: deque[tuple[Packed, Future[dict[BlockRow, bytes]]]] = deque()
    with ThreadPoolExecutor(READERS) as readers:
        try:
            for log in logs:
                waiting.append((log, readers.submit(_contents, store, log)))
                if len(waiting) > READERS:
                    log, contents = waiting.popleft()
                    yield log, contents.result()
            for log, contents in waiting:
                yield log, contents.result()
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
