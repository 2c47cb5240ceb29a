"""The rows of `logs` that a search reads: numbers, ids and embeddings, each held against its checksum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lagkit.errors import StoreError
from lagkit.store.database import SOUND_DELETED, SOUND_EMBEDDING, Database

PAGE = 4096
# Embedders that work in half precision return lengths that are off by about this much.
LENGTH_TOLERANCE = 2e-3

Matrix = NDArray[np.float32]


class Rows(Protocol):
    """Where embeddings, of `dim` numbers each, come from. Logs have numbers that rise; none is given twice."""

    folder: Any
    dim: int

    def all(self) -> Matrix:
        """Those of all logs, oldest first; raises StoreError if one is damaged, as `after` does."""

    def after(self, seq: int) -> Iterator[tuple[Sequence[int], Sequence[str], Matrix]]:
        """Numbers, ids and embeddings of the logs with higher numbers, a few thousand at a time."""

    def snapshot(self) -> AbstractContextManager[None]:
        """What is asked inside is of one moment."""

    def deletions(self) -> int:
        """How many logs were ever deleted, or another number that grows with them."""

    def deleted(self, since: int) -> list[str] | None:
        """The ids of those that were deleted since that number was told; None if that is not known any more."""


class Embeddings:
    """Reads the embeddings of a store, `dim` numbers each; every method asks the database anew."""

    def __init__(self, db: Database, dim: int) -> None:
        self.folder, self.dim = db.folder, dim
        self._db = db

    def all(self) -> Matrix:
        """Those of all logs, oldest first."""
        rows = self._db.read(f"SELECT {SOUND_EMBEDDING} FROM logs ORDER BY seq")
        return matrix((blob for (blob,) in rows), self.dim, self.folder)

    def after(self, seq: int) -> Iterator[tuple[Sequence[int], Sequence[str], Matrix]]:
        """Numbers, ids and embeddings of the logs with higher numbers, a few thousand at a time."""
        page = f"SELECT seq, id, {SOUND_EMBEDDING} FROM logs WHERE seq > ? ORDER BY seq LIMIT ?"
        while rows := self._db.read(page, seq, PAGE):
            seqs, ids, blobs = zip(*rows, strict=True)
            yield seqs, ids, matrix(blobs, self.dim, self.folder)
            seq = seqs[-1]

    def snapshot(self) -> AbstractContextManager[None]:
        """What is asked inside is of one moment, whatever is committed meanwhile."""
        return self._db.snapshot()

    def deletions(self) -> int:
        """How many logs were ever deleted."""
        return self._db.read("SELECT max(deletions) FROM counters")[0][0]

    def deleted(self, since: int) -> list[str] | None:
        """The ids of those that were deleted after so many others; None if that is not known any more."""
        query = f"SELECT CASE WHEN {SOUND_DELETED} THEN id END FROM deleted WHERE number > ?"
        gone = [id for (id,) in self._db.read(query, since)]
        return None if None in gone or len(gone) != self.deletions() - since else gone


def matrix(blobs: Iterable[bytes | None], dim: int, where: Any) -> Matrix:
    """Embeddings [n, dim] from little-endian float32; raises StoreError, naming `where`, if one is damaged (None)."""
    whole = list(blobs)
    if any(blob is None or len(blob) != 4 * dim for blob in whole):
        raise StoreError(f"{where} holds damaged embeddings: verify() names their logs, prune() removes them.")
    return np.frombuffer(b"".join(whole), dtype="<f4").reshape(-1, dim)


def unit_rows(vectors: Any, dim: int, what: str) -> Matrix:
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
