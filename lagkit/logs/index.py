"""Exact nearest-neighbour search over named vectors, by FAISS; logs and passages share it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from lagkit.types import Hit
from lagkit.util.errors import DataError

Vectors = NDArray[np.float32]


class VectorIndex:
    """Exact inner-product search; the score of rows of length 1 is the cosine similarity.

    A list of hits is the same on every machine up to rounding of the scores, and depends on its query alone, not on
    what else is searched at the same time.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._ids: list[str] = []  # by slot
        self._slots: dict[str, int] = {}
        self._faiss = faiss.IndexFlatIP(dim)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Append `vectors` [n, dim] under new `ids`.

        Raises ValueError for a wrong shape, and DataError for nan or inf, for which FAISS returns other hits.
        """
        rows = self._rows(vectors, lambda row: repr(next(iter(ids[row:]), row)))
        if len(rows) != len(ids):
            raise ValueError(f"{len(ids)} ids were given for {len(rows)} vectors; give one id for each.")
        self._faiss.add(rows)
        self._slots |= zip(ids, range(len(self), len(self) + len(ids)), strict=True)
        self._ids.extend(ids)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove `ids`; unknown ones are ignored."""
        gone = self._slots.keys() & set(ids)
        if gone:
            self._faiss.remove_ids(faiss.IDSelectorBatch(np.array([self._slots[id] for id in gone])))
            self._ids = [id for id in self._ids if id not in gone]
            self._slots = {id: slot for slot, id in enumerate(self._ids)}

    def search(
        self, vectors: Vectors, k: int, offset: int = 0, exclude: Collection[str] = frozenset()
    ) -> list[list[Hit]]:
        """For each row of `vectors` [n, dim], hits number `offset` .. `offset + k` by falling score.

        Ids in `exclude` are skipped and not counted. Equal scores come in order of insertion; fewer than `k` hits come
        back when the index has no more. Raises DataError for a row with nan or inf.
        """
        rows = self._rows(vectors, lambda row: f"query {row}")
        barred = self._slots.keys() & set(exclude)
        wanted = min(offset + k + len(barred), len(self))
        if wanted == 0 or k == 0:
            return [[] for _ in rows]
        # Row by row: for a batch FAISS sums in an order that depends on its size.
        found = (self._nearest(row[None], wanted) for row in rows)
        return [self._ranked(scores, slots, barred)[offset : offset + k] for scores, slots in found]

    def _ranked(self, scores: Vectors, slots: NDArray[np.int64], barred: set[str]) -> list[Hit]:
        hits = (Hit(self._ids[slots[i]], float(scores[i])) for i in np.lexsort((slots, -scores)))
        return [hit for hit in hits if hit.id not in barred]

    def _nearest(self, row: Vectors, wanted: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores and slots of the best `wanted` vectors for a row [1, dim], and of all as good as the last of them."""
        [scores], [slots] = self._faiss.search(row, min(wanted + 1, len(self)))
        if len(scores) > wanted and scores[-1] == scores[-2]:
            # Which of several equal scores FAISS returns is undefined: fetch all that reach the cut.
            below = np.nextafter(scores[-1], np.float32(-np.inf))
            _, scores, slots = self._faiss.range_search(row, float(below))
        return scores, slots

    def _rows(self, vectors: Vectors, name: Callable[[int], str]) -> Vectors:
        """`vectors` as FAISS takes them; `name` is what DataError calls the embedding of a row with nan or inf."""
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"Vectors must have the shape [n, {self.dim}]; {list(rows.shape)} was given.")
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            wrong = name(int(np.argmin(finite)))
            raise DataError(f"The embedding of {wrong} holds nan or inf: look at its text, and at the embedder.")
        return rows
