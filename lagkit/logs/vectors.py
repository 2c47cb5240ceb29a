"""The search of a store's embeddings: exact in a small store, quantised in a large one."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from lagkit.logs.embeddings import Embeddings, Rows, unit_rows
from lagkit.logs.index import VectorIndex
from lagkit.logs.quantised import QuantisedSearch
from lagkit.types import Hit
from lagkit.util.errors import EmptyStore, StoreError
from lagkit.util.progress import warn

# With fewer logs a search is exact. Measured by benchmarks/search_store.py: codes answer a single query faster from
# 15,000 logs on, and each of a batch of 32 from 60,000 on; reading all embeddings takes 0.17 s with 30,000.
QUANTISED_FROM = 30_000


class LogVectors:
    """Follows a store's embeddings, whoever changed them: this object, another one, another process."""

    def __init__(self, rows: Rows, *, quantise: bool = False, write: bool = False) -> None:
        """quantise: whether the search of a large store may be quantised, which needs `rows` to be `Embeddings`."""
        self.dim = rows.dim
        self.rows = rows
        self._write = write
        # Codes are of two numbers each.
        self._quantisable = rows if quantise and rows.dim % 2 == 0 and isinstance(rows, Embeddings) else None
        self._turn = threading.Lock()  # no thread adds to an index while another searches it
        self._quantised: QuantisedSearch | None = None
        self._begin()
        self._large, self._counted_at = False, -1

    def _begin(self) -> None:
        self._index: VectorIndex | None = None
        self._ids: dict[int, str] = {}  # of the logs in the index, by their numbers, which rise
        self._deletions = -1

    def search(
        self, vectors: Any, k: int, offset: int, exclude: Collection[str], exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        rows = unit_rows(vectors, self.dim, "A query")
        if k < 1 or offset < 0:
            raise StoreError(f"A search needs k >= 1 and offset >= 0; k={k} and offset={offset} were given.")
        with self._turn:
            if not exact and (quantised := self._of_many()):
                return quantised.search(rows, k, offset, exclude)
            index = self._current()
            if not len(index):
                raise EmptyStore(f"The log store at {self.rows.folder} has no logs yet: add some, or run with no_logs.")
            return index.search(rows, k, offset, exclude)

    def settle(self) -> None:
        """Leave the codes of a large store for the next process; damaged logs keep them from being made."""
        with self._turn:
            try:
                if self._write and (quantised := self._of_many()):
                    quantised.update()
            except StoreError as error:
                warn(f"No codes to search the logs at {self.rows.folder} by were written ({error})")

    def _of_many(self) -> QuantisedSearch | None:
        """The quantised search; None if there are too few logs for it."""
        rows, deletions = self._quantisable, self.rows.deletions()
        # Counting takes time. A store grows by as many logs as its numbers do, and is smaller only after deletions.
        if not self._large or deletions != self._counted_at:
            self._large = rows is not None and rows.count() >= QUANTISED_FROM
            self._counted_at = deletions
        if rows is None or not self._large:
            self._quantised = None
        elif self._quantised is None:
            self._begin()
            self._quantised = QuantisedSearch(rows, self._write)
        return self._quantised

    def _current(self) -> VectorIndex:
        """The exact index, brought up to date."""
        index = VectorIndex(self.dim) if self._index is None else self._index
        with self.rows.snapshot():  # else another process could delete a log, and add it again, between two queries
            deletions, last = self.rows.deletions(), next(reversed(self._ids), -1)
            if self._ids and deletions != self._deletions:
                there = set(self.rows.seqs().tolist())
                if any(seq <= last and seq not in self._ids for seq in there):
                    index, self._ids = VectorIndex(self.dim), {}  # a log that could not be read is back, between others
                index.remove([id for seq, id in self._ids.items() if seq not in there])
                self._ids = {seq: id for seq, id in self._ids.items() if seq in there}
            self._index, self._deletions = index, deletions
            for seqs, ids, matrix in self.rows.after(next(reversed(self._ids), -1)):
                try:
                    index.add(ids, matrix)
                    self._ids |= zip(seqs, ids, strict=True)
                except BaseException:
                    self._begin()  # an interruption leaves the index and the numbers of what is in it apart
                    raise
        return index
