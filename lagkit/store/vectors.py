"""The index over a store's embeddings: read at the first search, brought up to date before every other."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lagkit.errors import EmptyStore, StoreError
from lagkit.index import VectorIndex
from lagkit.store.database import SOUND_EMBEDDING, Database
from lagkit.types import Hit

PAGE = 4096
# Embedders that work in half precision return lengths that are off by about this much.
LENGTH_TOLERANCE = 2e-3

# Log ids and their embeddings (little-endian float32; None: damaged), and the number that the last of them has.
Page = tuple[Sequence[str], Sequence[bytes | None], int]


class Feed(Protocol):
    """Where embeddings come from: numbered in the order of their logs, and no number is given twice."""

    def epoch(self) -> int:
        """Another one each time that logs went away."""

    def after(self, last: int) -> Iterator[Page]:
        """Those with higher numbers than `last`, a few at a time, oldest first."""


class DatabaseFeed:
    """The embeddings of a `logs.sqlite`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def epoch(self) -> int:
        return self._db.read("SELECT max(deletions) FROM counters")[0][0]

    def after(self, last: int) -> Iterator[Page]:
        page = f"SELECT seq, id, {SOUND_EMBEDDING} FROM logs WHERE seq > ? ORDER BY seq LIMIT ?"
        while rows := self._db.read(page, last, PAGE):
            seqs, ids, blobs = zip(*rows, strict=True)
            last = seqs[-1]
            yield ids, blobs, last


class LogVectors:
    """Follows a store's embeddings, whoever changed them: this object, another one, another process."""

    def __init__(self, feed: Feed, dim: int, where: Path | str) -> None:
        self.dim = dim
        self._feed, self._where = feed, where
        self._turn = threading.Lock()  # no thread adds to the index while another searches it
        self._index: VectorIndex | None = None
        self._epoch = self._last = 0

    def search(self, vectors: Any, k: int, offset: int, exclude: Collection[str]) -> list[list[Hit]]:
        """See `Store.search`."""
        rows = unit_rows(vectors, self.dim, "A query")
        if k < 1 or offset < 0:
            raise StoreError(f"A search needs k >= 1 and offset >= 0; k={k} and offset={offset} were given.")
        with self._turn:
            index = self._current()
            if not len(index):
                raise EmptyStore(f"The log store at {self._where} has no logs yet: add some, or run with no_logs.")
            return index.search(rows, k, offset, exclude)

    def all(self) -> NDArray[np.float32]:
        """See `Store.embeddings`."""
        with self._turn:
            self._feed.epoch()
            return self._matrix([blob for _, blobs, _ in self._feed.after(0) for blob in blobs])

    def _current(self) -> VectorIndex:
        # The epoch is asked first: should logs go away in between, the next search sees it.
        epoch = self._feed.epoch()
        if self._index is None or epoch != self._epoch:
            self._index, self._epoch, self._last = VectorIndex(self.dim), epoch, 0
        for ids, blobs, last in self._feed.after(self._last):
            self._index.add(ids, self._matrix(blobs))
            self._last = last
        return self._index

    def _matrix(self, blobs: Sequence[bytes | None]) -> NDArray[np.float32]:
        if any(blob is None or len(blob) != 4 * self.dim for blob in blobs):
            raise StoreError(
                f"{self._where} holds damaged embeddings: verify() names their logs, prune() removes them."
            )
        return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, self.dim)


def unit_rows(vectors: Any, dim: int, what: str) -> NDArray[np.float32]:
    """`vectors` as float32 [n, dim]; raises StoreError for another shape, for nan or inf, or a length that is not 1."""
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise StoreError(f"{what} must be a row of {dim} numbers; an array of shape {list(rows.shape)} was given.")
    if not np.isfinite(rows).all():
        raise StoreError(f"{what} holds nan or inf: look at the text it was made from.")
    lengths = np.linalg.norm(rows, axis=1)
    if len(rows) and np.abs(lengths - 1).max() > LENGTH_TOLERANCE:
        worst = lengths[np.abs(lengths - 1).argmax()]
        raise StoreError(f"{what} has length {worst:.4f} instead of 1: normalise embeddings before they come here.")
    return rows
