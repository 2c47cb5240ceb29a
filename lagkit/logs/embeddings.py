"""Embeddings of a store's logs, read from the database and verified by their checksums."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lagkit.logs.database import SOUND_EMBEDDING, Database
from lagkit.util.errors import StoreError

PAGE = 4096
# Embedders that work in half precision return lengths that are off by about this much.
LENGTH_TOLERANCE = 2e-3
_LISTED = "IN (SELECT value FROM json_each(?))"
_ROWS = f"SELECT seq, id, {SOUND_EMBEDDING} FROM logs WHERE"

Seqs = NDArray[np.int64]
Matrix = NDArray[np.float32]
Row = tuple[int, str, bytes | None]


class Rows(Protocol):
    """A source of embeddings [dim]. Logs have rising numbers, none of which is reused."""

    folder: Any
    dim: int

    def all(self) -> Matrix:
        """Those of all logs, oldest first; raises StoreError if one is damaged, as `after` does."""

    def after(self, seq: int) -> Iterator[tuple[Sequence[int], Sequence[str], Matrix]]:
        """Numbers, ids and embeddings of the logs with higher numbers, a few thousand at a time."""

    def seqs(self) -> Seqs:
        """The numbers of all logs, rising."""

    def deletions(self) -> int:
        """A number that changes whenever logs are gone."""

    def snapshot(self) -> AbstractContextManager[None]:
        """All reads inside see one state."""


class Embeddings(Rows):
    """Reads the embeddings of a store, `dim` numbers each; every method asks the database anew."""

    def __init__(self, db: Database, dim: int) -> None:
        self.folder, self.dim = db.folder, dim
        self._db = db

    def all(self) -> Matrix:
        return self.matrix(blob for (blob,) in self._db.read(f"SELECT {SOUND_EMBEDDING} FROM logs ORDER BY seq"))

    def after(self, seq: int) -> Iterator[tuple[Sequence[int], Sequence[str], Matrix]]:
        while rows := self._db.read(f"{_ROWS} seq > ? ORDER BY seq LIMIT ?", seq, PAGE):
            seqs, ids, blobs = zip(*rows, strict=True)
            yield seqs, ids, self.matrix(blobs)
            seq = seqs[-1]

    def rows(self, seqs: Seqs) -> list[Row]:
        """Number, id and embedding (None: damaged) of those of these logs that are there, in no order."""
        return self._db.read(f"{_ROWS} seq {_LISTED}", json.dumps(seqs.tolist()))

    def seqs(self) -> Seqs:
        return np.sort([seq for (seq,) in self._db.read("SELECT seq FROM logs")])

    def seqs_of(self, ids: Collection[str]) -> Seqs:
        """The numbers of those of these logs that exist."""
        found = self._db.read(f"SELECT seq FROM logs WHERE id {_LISTED}", json.dumps(list(ids)))
        return np.array([seq for (seq,) in found], np.int64)

    def count(self, after: int = 0) -> int:
        """The number of logs with higher numbers."""
        # Without a condition SQLite counts in the index of ids, which is much smaller than the table.
        some = ("SELECT count(*) FROM logs WHERE seq > ?", after) if after else ("SELECT count(*) FROM logs",)
        return int(self._db.read(*some)[0][0])

    def deletions(self) -> int:
        found: int = self._db.read("SELECT max(deletions) FROM counters")[0][0]
        return found

    def snapshot(self) -> AbstractContextManager[None]:
        return self._db.snapshot()

    def matrix(self, blobs: Iterable[bytes | None]) -> Matrix:
        """Embeddings [n, dim]; raises StoreError if one is damaged."""
        return matrix(blobs, self.dim, self.folder)


def matrix(blobs: Iterable[bytes | None], dim: int, where: Any) -> Matrix:
    """Embeddings [n, dim] from little-endian float32; raises StoreError, naming `where`, if one is damaged (None)."""
    whole = list(blobs)
    sound = [blob for blob in whole if blob is not None and len(blob) == 4 * dim]
    if len(sound) < len(whole):
        raise StoreError(f"{where} holds damaged embeddings: verify() names their logs, prune() removes them.")
    return np.frombuffer(b"".join(sound), dtype="<f4").reshape(-1, dim)


def unit_rows(vectors: Any, dim: int, what: str) -> Matrix:
    """`vectors` as float32 [n, dim]; raises StoreError for another shape, for nan or inf, or a length that is not 1."""
    try:
        given = np.asarray(vectors)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of several lengths, a tensor on a GPU
        raise StoreError(f"{what} must be a row of {dim} numbers; what was given is no array ({error}).") from error
    if given.dtype.kind not in "fiu":
        said = "text was given: embed it first" if given.dtype.kind in "US" else f"{given.dtype} was given"
        raise StoreError(f"{what} must be a row of {dim} numbers; {said}.")
    with np.errstate(over="ignore"):  # inf, which is told below
        rows = given.astype(np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise StoreError(f"{what} must be a row of {dim} numbers; an array of shape {list(rows.shape)} was given.")
    if not np.isfinite(rows).all():
        raise StoreError(f"{what} holds nan or inf: look at the text it was made from.")
    lengths = np.linalg.norm(rows, axis=1)
    if len(rows) and np.abs(lengths - 1).max() > LENGTH_TOLERANCE:
        worst = lengths[np.abs(lengths - 1).argmax()]
        raise StoreError(f"{what} has length {worst:.4f} instead of 1: normalise embeddings before they come here.")
    return rows
