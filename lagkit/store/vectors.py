"""The search of a store's embeddings: of few logs exactly, of many by codes; it follows whoever changes the store."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from lagkit.errors import EmptyStore, StoreError
from lagkit.index import VectorIndex, Vectors
from lagkit.progress import say
from lagkit.store.coded import CodedLogs
from lagkit.store.database import Database
from lagkit.store.embeddings import Embeddings, unit_rows
from lagkit.types import Hit

# With fewer logs a search is exact. Measured by benchmarks/search_store.py: codes answer a single query sooner from
# 15,000 logs on, and each of a batch of 32 from 60,000 on; reading all embeddings takes 0.17 s with 30,000.
CODED_FROM = 30_000


class LogVectors:
    """Follows the database, whoever changed it: this object, another one, another process."""

    def __init__(self, db: Database, dim: int, embedder: str, write: bool) -> None:
        self.dim = dim
        self._rows = Embeddings(db, dim)
        self._write = write
        # Codes are of two numbers each; of hashed words they miss too much, 6% of the three nearest of 33,000 sentences
        # (benchmarks/search_words.py).
        self._codable = dim % 2 == 0 and not embedder.startswith("hash-")
        self._turn = threading.Lock()  # no thread adds to an index while another searches it
        self._index: VectorIndex | None = None
        self._coded: CodedLogs | None = None
        self._deletions = self._last = 0
        self._large, self._counted_at = False, -1

    def search(
        self, vectors: Any, k: int, offset: int, exclude: Collection[str], exact: bool = False
    ) -> list[list[Hit]]:
        """See `LogStore.search`."""
        rows = unit_rows(vectors, self.dim, "A query")
        if k < 1 or offset < 0:
            raise StoreError(f"A search needs k >= 1 and offset >= 0; k={k} and offset={offset} were given.")
        with self._turn:
            if not exact and self._is_large():
                return self._by_codes().search(rows, k, offset, exclude)
            index = self._current()
            if not len(index):
                raise EmptyStore(
                    f"The log store at {self._rows.folder} has no logs yet: add some, or run with no_logs."
                )
            return index.search(rows, k, offset, exclude)

    def all(self) -> Vectors:
        """See `LogStore.embeddings`."""
        return self._rows.all()

    def settle(self) -> None:
        """Leave a large store with codes for the next process; damaged logs keep them from being made."""
        with self._turn:
            try:
                if self._write and self._is_large():
                    self._by_codes().settle()
            except StoreError as error:
                say(f"No codes to search the logs at {self._rows.folder} by were written ({error})")

    def _is_large(self) -> bool:
        """Whether there are so many logs that codes are worth while."""
        deletions = self._rows.deletions()
        # Counting takes a while. A store grows by as many logs as its numbers do, and is smaller only after deletions.
        if not self._large or deletions != self._counted_at:
            many = self._codable and self._rows.newest() >= CODED_FROM
            self._large, self._counted_at = many and self._rows.count() >= CODED_FROM, deletions
        if not self._large:
            self._coded = None
        return self._large

    def _by_codes(self) -> CodedLogs:
        if self._coded is None:
            self._index, self._coded = None, CodedLogs(self._rows, self._write)
        return self._coded

    def _current(self) -> VectorIndex:
        with self._rows.snapshot():  # else another process could delete a log, and add it again, between two queries
            deletions = self._rows.deletions()
            gone = self._rows.deleted(self._deletions, deletions) if self._index is not None else None
            if gone is None:
                self._index, self._last = VectorIndex(self.dim), 0
            else:
                self._index.remove(gone)
            self._deletions = deletions
            for seqs, ids, matrix in self._rows.after(self._last):
                self._index.add(ids, matrix)
                self._last = seqs[-1]
        return self._index
