"""The index over a store's embeddings: read at the first search, brought up to date before every other."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from lagkit.errors import EmptyStore, StoreError
from lagkit.index import VectorIndex, Vectors
from lagkit.store.embeddings import Rows, unit_rows
from lagkit.types import Hit


class LogVectors:
    """Follows a store's embeddings, whoever changed them: this object, another one, another process."""

    def __init__(self, rows: Rows) -> None:
        self.dim = rows.dim
        self._rows = rows
        self._turn = threading.Lock()  # no thread adds to the index while another searches it
        self._index: VectorIndex | None = None
        self._deletions = self._last = -1

    def search(self, vectors: Any, k: int, offset: int, exclude: Collection[str]) -> list[list[Hit]]:
        """See `Store.search`."""
        rows = unit_rows(vectors, self.dim, "A query")
        if k < 1 or offset < 0:
            raise StoreError(f"A search needs k >= 1 and offset >= 0; k={k} and offset={offset} were given.")
        with self._turn:
            index = self._current()
            if not len(index):
                raise EmptyStore(
                    f"The log store at {self._rows.folder} has no logs yet: add some, or run with no_logs."
                )
            return index.search(rows, k, offset, exclude)

    def all(self) -> Vectors:
        """See `Store.embeddings`."""
        with self._turn:
            return self._rows.all()

    def _current(self) -> VectorIndex:
        # In a snapshot, else another process could delete a log, and add it again, between two queries.
        with self._rows.snapshot():
            deletions = self._rows.deletions()
            if self._index is None or not self._forget(deletions):
                self._index, self._last = VectorIndex(self.dim), -1
            self._deletions = deletions
            for seqs, ids, found in self._rows.after(self._last):
                self._index.add(ids, found)
                self._last = seqs[-1]
        return self._index

    def _forget(self, deletions: int) -> bool:
        """Remove what was deleted since the last time; False if that is no longer known."""
        if deletions == self._deletions:
            return True
        gone = self._rows.deleted(self._deletions)
        if gone is None:
            return False
        self._index.remove(gone)
        return True
