"""Logs on their way into a store, and from one store to another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lagkit.logs.files import BlockRow

# A log as stores hold it: id, embedding (little-endian float32), trace as JSON.
LogRow = tuple[str, bytes, str]


class Packed(NamedTuple):
    """A log as it travels from one store to another: nothing of it is decoded."""

    id: str
    embedding: bytes
    trace: str
    blocks: tuple[BlockRow, ...]


class Batch:
    """Rows on their way into a store: committed once they have waited `seconds` or hold `nbytes`, and at the end.

    When the work in between fails, what came before is committed all the same.
    """

    def __init__(
        self, commit: Callable[[list[Any], list[Any]], None], seconds: float, nbytes: float = float("inf")
    ) -> None:
        self._commit, self._seconds, self._most = commit, seconds, nbytes
        self._begin()

    def _begin(self) -> None:
        self._rows: list[Any] = []
        self._blocks: list[Any] = []
        self._bytes, self._due = 0, time.monotonic() + self._seconds

    def put(self, rows: Iterable[Any], blocks: Iterable[Any], nbytes: int = 0) -> None:
        """Take rows of logs and of blocks, which hold so many bytes."""
        self._rows += rows
        self._blocks += blocks
        self._bytes += nbytes
        if time.monotonic() > self._due or self._bytes >= self._most:
            self._flush()

    def _flush(self) -> None:
        rows, blocks = self._rows, self._blocks
        self._begin()
        self._commit(rows, blocks)

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
