"""Exact nearest-neighbour search over named vectors, by FAISS; logs and passages share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from lagkit.types import Hit
from lagkit.util.errors import DataError

Vectors = NDArray[np.float32]

_BATCH = 4  # rows from which a matrix product is faster
_SCORES = 1 << 23  # of a batch, held at a time
_ROUNDING = 2.0**-24  # of one operation in float32, relative


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
        self._longest = 0.0  # no vector is longer

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Append `vectors` [n, dim] under new `ids`.

        Raises ValueError for a wrong shape, and DataError for an id that is there already, and for nan or inf, for
        which FAISS returns other hits.
        """
        rows = self._rows(vectors, lambda row: repr(next(iter(ids[row:]), row)))
        if len(rows) != len(ids):
            raise ValueError(f"{len(ids)} ids were given for {len(rows)} vectors; give one id for each.")
        for id, times in Counter(ids).items():
            if times > 1 or id in self._slots:
                raise DataError(f"The id {id!r} would be in the index twice.")
        self._faiss.add(rows)
        self._slots |= zip(ids, range(len(self), len(self) + len(ids)), strict=True)
        self._ids.extend(ids)
        self._longest = max(self._longest, _length(rows))

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
        if k < 0 or offset < 0:
            raise ValueError(f"k and offset must not be negative; k={k} and offset={offset} were given.")
        barred = self._slots.keys() & set(exclude)
        wanted = min(offset + k + len(barred), len(self))
        if wanted == 0 or k == 0:
            return [[] for _ in rows]
        alone = len(rows) < _BATCH
        found = (self._nearest(row, wanted) for row in rows) if alone else self._nearest_of_each(rows, wanted)
        return [self._ranked(scores, slots, barred)[offset : offset + k] for scores, slots in found]

    def _ranked(self, scores: Vectors, slots: NDArray[np.int64], barred: set[str]) -> list[Hit]:
        hits = (Hit(self._ids[slots[i]], float(scores[i])) for i in np.lexsort((slots, -scores)))
        return [hit for hit in hits if hit.id not in barred]

    def _nearest(self, row: Vectors, wanted: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores and slots of the best `wanted` vectors, and of all that are as good as the last of them."""
        scores, slots = self._faiss.search(row[None], min(wanted + 1, len(self)))
        scores, slots = scores[0], slots[0]
        if len(scores) > wanted and scores[-1] == scores[-2]:
            # Which of several equal scores FAISS returns is undefined: fetch all that reach the cut.
            below = np.nextafter(scores[-1], np.float32(-np.inf))
            _, scores, slots = self._faiss.range_search(row[None], float(below))
        return scores, slots

    def _nearest_of_each(self, rows: Vectors, wanted: int) -> Iterator[tuple[Vectors, NDArray[np.int64]]]:
        """As `_nearest` of each row, at the speed of a matrix product: five times that of FAISS row by row.

        The product sums in an order that depends on the batch, so it only rules out vectors that cannot be among the
        best; the others are scored as `_nearest` does. A sum of m products in float32 is off by at most m roundings of
        the sum of their sizes, which is at most the product of the lengths; zeros of the query add nothing.
        """
        matrix = faiss.rev_swig_ptr(self._faiss.get_xb(), len(self) * self.dim).reshape(len(self), self.dim)
        step = max(1, _SCORES // len(self))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            for row, scores in zip(part, part @ matrix.T, strict=True):
                error = 1.01 * np.count_nonzero(row) * _ROUNDING * _length(row[None]) * self._longest
                last = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
                # The last that is wanted and one that beats it may both be off by this, here and in the exact score.
                slots = np.flatnonzero(scores >= float(last) - 4 * error)
                exact = np.empty(len(slots), np.float32)
                query, out, wanted_slots = map(faiss.swig_ptr, (row, exact, slots))
                self._faiss.compute_distance_subset(1, query, len(slots), out, wanted_slots)  # type: ignore[attr-defined]
                yield exact, slots

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


def _length(rows: Vectors) -> float:
    """Length of the longest row; 0 without rows."""
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64).max(initial=0)))
