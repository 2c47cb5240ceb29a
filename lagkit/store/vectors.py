"""The index over a store's embeddings: read at the first search, brought up to date before every other."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagkit.errors import EmptyStore, StoreError
from lagkit.index import VectorIndex
from lagkit.store.database import SOUND_DELETED, SOUND_EMBEDDING, Database
from lagkit.types import Hit

PAGE = 4096
# Embedders that work in half precision return lengths that are off by about this much.
LENGTH_TOLERANCE = 2e-3


class LogVectors:
    """Follows the database, whoever changed it: this object, another one, another process."""

    def __init__(self, db: Database, dim: int) -> None:
        self.dim = dim
        self._db = db
        self._turn = threading.Lock()  # no thread adds to the index while another searches it
        self._index: VectorIndex | None = None
        self._deletions = self._last = 0

    def search(self, vectors: Any, k: int, offset: int, exclude: Collection[str]) -> list[list[Hit]]:
        """See `LogStore.search`."""
        rows = unit_rows(vectors, self.dim, "A query")
        if k < 1 or offset < 0:
            raise StoreError(f"A search needs k >= 1 and offset >= 0; k={k} and offset={offset} were given.")
        with self._turn:
            index = self._current()
            if not len(index):
                raise EmptyStore(f"The log store at {self._db.folder} has no logs yet: add some, or run with no_logs.")
            return index.search(rows, k, offset, exclude)

    def all(self) -> NDArray[np.float32]:
        """See `LogStore.embeddings`."""
        rows = self._db.read(f"SELECT {SOUND_EMBEDDING} FROM logs ORDER BY seq")
        return self._matrix(tuple(blob for (blob,) in rows))

    def _current(self) -> VectorIndex:
        with self._db.snapshot():  # else another process could delete a log, and add it again, between two queries
            [(deletions,)] = self._db.read("SELECT max(deletions) FROM counters")
            if self._index is None or not self._forget(deletions):
                self._index, self._last = VectorIndex(self.dim), 0
            self._deletions = deletions
            page = f"SELECT seq, id, {SOUND_EMBEDDING} FROM logs WHERE seq > ? ORDER BY seq LIMIT ?"
            while rows := self._db.read(page, self._last, PAGE):
                seqs, ids, blobs = zip(*rows, strict=True)
                self._index.add(ids, self._matrix(blobs))
                self._last = seqs[-1]
        return self._index

    def _forget(self, deletions: int) -> bool:
        """Remove what was deleted since the last time; False if that is no longer known."""
        if deletions == self._deletions:
            return True
        rows = self._db.read(
            f"SELECT CASE WHEN {SOUND_DELETED} THEN id END FROM deleted WHERE number > ?", self._deletions
        )
        gone = [id for (id,) in rows]
        if None in gone or len(gone) != deletions - self._deletions:
            return False
        self._index.remove(gone)
        return True

    def _matrix(self, blobs: tuple[bytes, ...]) -> NDArray[np.float32]:
        if any(blob is None or len(blob) != 4 * self.dim for blob in blobs):
            raise StoreError(
                f"{self._db.folder} holds damaged embeddings: verify() names their logs, prune() removes them."
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
