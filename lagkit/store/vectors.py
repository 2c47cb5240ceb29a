"""The search of a store's embeddings: read at the first search, brought up to date before every other."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagkit.errors import EmptyStore, StoreError
from lagkit.index import VectorIndex, Vectors, exact_scores
from lagkit.progress import Progress, say
from lagkit.store.codes import SAMPLE, Codes
from lagkit.store.database import SOUND_EMBEDDING, Database
from lagkit.types import Hit

PAGE = 4096
# Embedders that work in half precision return lengths that are off by about this much.
LENGTH_TOLERANCE = 2e-3
# With so many logs a scan of codes is faster than of the embeddings, and reading all embeddings takes 0.15 s; below,
# a search is exact. Measured by benchmarks/search.py and benchmarks/search_store.py.
CODED_FROM = 30_000
# So many of the logs that are nearest by their codes are scored by their embeddings, or more for a long list of hits.
WIDTH, SPARE = 128, 4
# The file of codes is written anew when it lacks this share of the logs, or has so many that were deleted.
STALE = 1 / 8
_ROWS = f"SELECT seq, id, {SOUND_EMBEDDING} FROM logs WHERE"


class LogVectors:
    """Follows the database, whoever changed it: this object, another one, another process.

    Few logs are searched exactly. Of many, those that are nearest by their codes (`lagkit.store.codes`) are read and
    scored: of the three nearest to a query, over 99.9% are found among a million. Scores and order are exact.
    """

    def __init__(self, db: Database, dim: int, embedder: str, write: bool) -> None:
        self.dim = dim
        self._db = db
        self._write = write
        # Texts that share no word are all equally far by hashed words, so that codes could not tell which are near.
        self._codable = dim % 2 == 0 and not embedder.startswith("hash-")
        self._turn = threading.Lock()  # no thread adds to an index while another searches it
        self._index: VectorIndex | None = None
        self._codes: Codes | None = None
        self._deletions = self._last = 0
        self._large, self._counted_at = False, -1
        self._checked_at, self._written = -1, 0  # deletions when the codes were last held against the logs; in the file

    def search(
        self, vectors: Any, k: int, offset: int, exclude: Collection[str], exact: bool = False
    ) -> list[list[Hit]]:
        """See `LogStore.search`."""
        rows = unit_rows(vectors, self.dim, "A query")
        if k < 1 or offset < 0:
            raise StoreError(f"A search needs k >= 1 and offset >= 0; k={k} and offset={offset} were given.")
        with self._turn:
            if not exact and self._is_large():
                codes, barred = self._current_codes(), self._numbers_of(exclude)
                return [self._coded(codes, row, k, offset, barred) for row in rows]
            index = self._current()
            if not len(index):
                raise EmptyStore(f"The log store at {self._db.folder} has no logs yet: add some, or run with no_logs.")
            return index.search(rows, k, offset, exclude)

    def all(self) -> NDArray[np.float32]:
        """See `LogStore.embeddings`."""
        rows = self._db.read(f"SELECT {SOUND_EMBEDDING} FROM logs ORDER BY seq")
        return self._matrix(blob for (blob,) in rows)

    def settle(self) -> None:
        """Leave a large store with codes for the next process; what is damaged keeps its codes from being made."""
        with self._turn:
            try:
                if self._write and self._is_large() and self._file_is_stale():
                    self._current_codes()
            except StoreError as error:
                say(f"The logs at {self._db.folder} got no codes to search them by ({error})")

    # Exactly

    def _current(self) -> VectorIndex:
        # The count of deletions is read first: should another process delete in between, the next search sees it.
        deletions = self._deleted()
        if self._index is None or deletions != self._deletions:
            self._index, self._deletions, self._last = VectorIndex(self.dim), deletions, 0
        for seqs, ids, matrix in self._pages(self._last):
            self._index.add(ids, matrix)
            self._last = seqs[-1]
        return self._index

    # By codes

    def _is_large(self) -> bool:
        """Whether there are so many logs that codes are worth while; without deletions they only become more."""
        deletions = self._deleted()
        if not self._large or deletions != self._counted_at:
            [(newest,)] = self._db.read("SELECT max(seq) FROM logs")
            many = self._codable and (newest or 0) >= CODED_FROM  # there is no cheaper bound of a count
            self._large, self._counted_at = many and self._count() >= CODED_FROM, deletions
            if not self._large:
                self._codes = None
        return self._large

    def _current_codes(self) -> Codes:
        """Codes of all logs. A writer leaves them on disk when those there are missing, damaged or stale."""
        deletions = self._deleted()
        if self._codes is None:
            self._index, self._codes = None, self._loaded()
            self._written, self._checked_at = len(self._codes or ()), -1
        if self._codes is None or (self._write and self._are_stale(self._codes, deletions)):
            self._codes, self._written = self._learnt(), 0
        self._checked_at = deletions
        self._extend(self._codes)
        if self._write and len(self._codes) - self._written > STALE * len(self._codes):
            self._save(self._codes)
        return self._codes

    def _are_stale(self, codes: Codes, deletions: int) -> bool:
        """Whether there are twice the logs that the centroids were learned from, or many codes of deleted ones."""
        if deletions != self._checked_at and len(codes) > (1 + STALE) * self._count():
            return True
        return len(codes) >= 2 * codes.trained

    def _learnt(self) -> Codes:
        """No codes yet, but centroids for logs like those of the store."""
        seqs = np.sort([seq for (seq,) in self._db.read("SELECT seq FROM logs")])
        sample = seqs[np.linspace(0, len(seqs) - 1, min(SAMPLE, len(seqs))).astype(np.int64)]
        return Codes.learn(self._matrix(blob for _, _, blob in self._rows(sample)), len(seqs))

    def _extend(self, codes: Codes) -> None:
        """Add the logs that came since."""
        [(newest,)] = self._db.read("SELECT max(seq) FROM logs")
        if newest is None or newest <= codes.last:
            return
        with Progress("Coding logs for search", newest - codes.last if len(codes) else self._count()) as shown:
            for seqs, _, matrix in self._pages(codes.last):
                codes.add(seqs, matrix)
                shown.update(len(seqs))

    def _loaded(self) -> Codes | None:
        """The codes on disk; None, and a line that says why, unless they are there, sound and of this store's logs."""
        try:
            codes = Codes.load(self._db.folder, self.dim)
        except FileNotFoundError:
            return None
        except (OSError, StoreError) as error:
            say(f"{error}: the codes of all logs are made anew.")
            return None
        slots = np.r_[np.linspace(0, len(codes) - 1, 48).astype(np.int64), np.arange(len(codes))[-16:]]
        rows = [row for row in self._rows(codes.seqs[np.unique(slots)]) if row[2] is not None]
        if not rows or codes.disagree([seq for seq, _, _ in rows], self._matrix(blob for _, _, blob in rows)):
            say(f"The codes in {self._db.folder} are of other logs: they are made anew.")
            return None
        return codes

    def _file_is_stale(self) -> bool:
        last, logs = Codes.peek(self._db.folder)
        [(new,)] = self._db.read("SELECT count(*) FROM logs WHERE seq > ?", last)
        return new > STALE * (logs + new)

    def _save(self, codes: Codes) -> None:
        try:
            codes.save(self._db.folder)
        except OSError as error:  # they are made again, which takes time and nothing else
            say(f"The codes of the logs at {self._db.folder} could not be written ({error}).")
        self._written = len(codes)

    def _coded(self, codes: Codes, row: Vectors, k: int, offset: int, barred: NDArray[np.int64]) -> list[Hit]:
        wanted = offset + k
        width = enough = max(WIDTH, SPARE * wanted)
        while True:
            rough, seqs = codes.nearest(row, width)
            kept = ~np.isin(seqs, barred)
            hits = self._scored(row, rough[kept], seqs[kept])
            # Logs of equal embeddings have equal codes: where some of them may be missing, the older ones may be.
            clear = len(hits) >= max(wanted, enough // 2) and hits[wanted - 1][1] > rough.min()
            if clear or width >= len(codes):
                return [hit for hit, _ in hits[offset:wanted]]
            width *= 4

    def _scored(self, row: Vectors, rough: Vectors, seqs: NDArray[np.int64]) -> list[tuple[Hit, float]]:
        """Hits by falling score, the oldest first among equals, with what the codes say; none for deleted logs."""
        told = dict(zip(seqs.tolist(), rough.tolist(), strict=True))
        rows = list(self._rows(seqs))
        if not rows:
            return []
        scores = exact_scores(row, self._matrix(blob for _, _, blob in rows))
        order = np.lexsort(([seq for seq, _, _ in rows], -scores))
        return [(Hit(rows[i][1], float(scores[i])), told[rows[i][0]]) for i in order]

    def _numbers_of(self, ids: Collection[str]) -> NDArray[np.int64]:
        found = (self._some("SELECT seq FROM logs WHERE id", part) for part in _parts(list(ids)))
        return np.array([seq for rows in found for (seq,) in rows], np.int64)

    # The database

    def _deleted(self) -> int:
        return self._db.read("SELECT max(deletions) FROM counters")[0][0]

    def _count(self) -> int:
        return self._db.read("SELECT count(*) FROM logs")[0][0]

    def _pages(self, after: int) -> Iterator[tuple[tuple[int, ...], tuple[str, ...], NDArray[np.float32]]]:
        """Numbers, ids and embeddings of the logs with higher numbers."""
        while rows := self._db.read(f"{_ROWS} seq > ? ORDER BY seq LIMIT ?", after, PAGE):
            seqs, ids, blobs = zip(*rows, strict=True)
            yield seqs, ids, self._matrix(blobs)
            after = seqs[-1]

    def _rows(self, seqs: NDArray[np.int64]) -> Iterator[tuple[int, str, bytes | None]]:
        """Number, id and embedding of those logs that are there."""
        for part in _parts(seqs.tolist()):
            yield from self._some(f"{_ROWS} seq", part)

    def _some(self, query: str, values: Sequence[Any]) -> list[tuple]:
        return self._db.read(f"{query} IN ({', '.join('?' * len(values))})", *values)

    def _matrix(self, blobs: Iterable[bytes | None]) -> NDArray[np.float32]:
        whole = list(blobs)
        if any(blob is None or len(blob) != 4 * self.dim for blob in whole):
            raise StoreError(
                f"{self._db.folder} holds damaged embeddings: verify() names their logs, prune() removes them."
            )
        return np.frombuffer(b"".join(whole), dtype="<f4").reshape(-1, self.dim)


def _parts(values: list) -> Iterator[list]:
    """Pieces that a statement of SQLite takes."""
    return (values[start : start + PAGE] for start in range(0, len(values), PAGE))


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
