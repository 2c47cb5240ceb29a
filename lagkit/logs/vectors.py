"""The search of a store's embeddings: of few logs exactly, of many by codes; it follows whoever changes the store."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from lagkit.logs.coded import CodedLogs
from lagkit.logs.embeddings import Embeddings, Rows, unit_rows
from lagkit.logs.index import VectorIndex, Vectors
from lagkit.types import Hit
from lagkit.util.errors import EmptyStore, StoreError
from lagkit.util.progress import warn

# With fewer logs a search is exact. Measured by benchmarks/search_store.py: codes answer a single query sooner from
# 15,000 logs on, and each of a batch of 32 from 60,000 on; reading all embeddings takes 0.17 s with 30,000.
CODED_FROM = 30_000


class LogVectors:
    """Follows a store's embeddings, whoever changed them: this object, another one, another process."""

    def __init__(self, rows: Rows, *, codable: bool = False, write: bool = False) -> None:
        """codable: whether large stores may be searched by codes, which `rows` that are `Embeddings` allow for."""
        self.dim = rows.dim
        self._rows = rows
        self._write = write
        # Codes are of two numbers each.
        self._codable = rows if codable and rows.dim % 2 == 0 and isinstance(rows, Embeddings) else None
        self._turn = threading.Lock()  # no thread adds to an index while another searches it
        self._index: VectorIndex | None = None
        self._coded: CodedLogs | None = None
        self._deletions = self._last = -1
        self._large, self._counted_at = False, -1

    def search(
        self, vectors: Any, k: int, offset: int, exclude: Collection[str], exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        rows = unit_rows(vectors, self.dim, "A query")
        if k < 1 or offset < 0:
            raise StoreError(f"A search needs k >= 1 and offset >= 0; k={k} and offset={offset} were given.")
        with self._turn:
            if not exact and (coded := self._large_rows()):
                return self._by_codes(coded).search(rows, k, offset, exclude)
            index = self._current()
            if not len(index):
                raise EmptyStore(
                    f"The log store at {self._rows.folder} has no logs yet: add some, or run with no_logs."
                )
            return index.search(rows, k, offset, exclude)

    def all(self) -> Vectors:
        """See `Store.embeddings`."""
        return self._rows.all()

    def settle(self) -> None:
        """Leave a large store with codes for the next process; damaged logs keep them from being made."""
        with self._turn:
            try:
                if self._write and (coded := self._large_rows()):
                    self._by_codes(coded).settle()
            except StoreError as error:
                warn(f"No codes to search the logs at {self._rows.folder} by were written ({error})")

    def _large_rows(self) -> Embeddings | None:
        """The embeddings, if they are so many that codes are worth while."""
        deletions = self._rows.deletions()
        # Counting takes a while. A store grows by as many logs as its numbers do, and is smaller only after deletions.
        if not self._large or deletions != self._counted_at:
            rows = self._codable
            self._large = rows is not None and rows.newest() >= CODED_FROM and rows.count() >= CODED_FROM
            self._counted_at = deletions
        if not self._large:
            self._coded = None
        return self._codable if self._large else None

    def _by_codes(self, rows: Embeddings) -> CodedLogs:
        if self._coded is None:
            self._index, self._coded = None, CodedLogs(rows, self._write)
        return self._coded

    def _current(self) -> VectorIndex:
        with self._rows.snapshot():  # else another process could delete a log, and add it again, between two queries
            deletions = self._rows.deletions()
            index = self._index
            gone = self._rows.deleted(self._deletions, deletions) if index is not None else None
            if index is None or gone is None:
                index = VectorIndex(self.dim)
                self._index, self._last = index, -1
            else:
                index.remove(gone)
            self._deletions = deletions
            for seqs, ids, matrix in self._rows.after(self._last):
                index.add(ids, matrix)
                self._last = seqs[-1]
        return index
