"""A nearest-neighbour index over named unit vectors: the FAISS search that logs and passages share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from lagkit.types import Hit
from lagkit.util.errors import DataError

Vectors = NDArray[np.float32]

_BATCH = 4  # rows from which a matrix product is faster
_SCORES = 1 << 23  # of a batch, held at a time
_ROUNDING = 2.0**-24  # of one operation in float32, relative


def exact_scores(query: Vectors, vectors: Vectors) -> Vectors:
    """Inner products of one row [dim] with `vectors` [n, dim], summed in the order in which `VectorIndex` does."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return _scores_of(index, query, np.arange(len(vectors)))


def _scores_of(index: faiss.IndexFlatIP, query: Vectors, slots: NDArray[np.int64]) -> Vectors:
    """What `index.search` of this one row says of `slots`, bit by bit."""
    scores, row = np.empty(len(slots), np.float32), np.ascontiguousarray(query, np.float32)
    wanted = np.ascontiguousarray(slots, np.int64)
    pointers = (faiss.swig_ptr(scores), faiss.swig_ptr(wanted))
    index.compute_distance_subset(1, faiss.swig_ptr(row), len(slots), *pointers)  # type: ignore[attr-defined]  # it has
    return scores


class VectorIndex:
    """Exact inner-product search; with rows of length 1 the score is the cosine similarity.

    Nothing is approximated, so a hit list is the same on every machine up to rounding of the scores; and it depends on
    its query alone, not on what else is searched at the same time.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        # By slot: a row's id, and which addition brought it; slots are not in that order once rows were removed.
        self._ids: list[str] = []
        self._born: list[int] = []
        self._slots: dict[str, int] = {}
        self._additions = 0
        self._faiss = faiss.IndexFlatIP(dim)
        self._longest = 0.0  # no vector is longer

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: str) -> bool:
        return id in self._slots

    def __repr__(self) -> str:
        return f"VectorIndex({len(self)} vectors of {self.dim})"

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Append `vectors` [n, dim] under `ids`; raises ValueError on an id that is there already or a wrong shape.

        Raises DataError for nan or inf, of which FAISS makes other hits.
        """
        rows = self._rows(vectors)
        if len(rows) != len(ids):
            raise ValueError(f"{len(ids)} ids were given for {len(rows)} vectors; give one id for each.")
        if (wrong := _first_not_finite(rows)) is not None:
            raise DataError(f"The embedding of {ids[wrong]!r} holds nan or inf: look at its text, and at the embedder.")
        fresh = set(ids)
        if len(fresh) < len(ids) or fresh & self._slots.keys():
            twice = next(id for id in ids if id in self._slots or list(ids).count(id) > 1)
            raise ValueError(f"The id {twice!r} would be in the index twice; remove it first.")
        self._faiss.add(rows)
        self._slots |= zip(ids, range(len(self), len(self) + len(ids)), strict=True)
        self._longest = max(self._longest, _length(rows))
        self._ids.extend(ids)
        self._born.extend(range(self._additions, self._additions + len(ids)))
        self._additions += len(ids)

    def remove(self, ids: Iterable[str]) -> int:
        """Forget `ids`; unknown ones are ignored. Returns how many were removed.

        The last row moves into the slot that falls free, so that what a removal costs does not grow with the index.
        """
        gone = self._slots.keys() & set(ids)
        before = len(self)
        if not gone:
            return 0
        rows = faiss.rev_swig_ptr(self._faiss.get_xb(), before * self.dim).reshape(before, self.dim)
        for id in gone:
            slot, last, born = self._slots.pop(id), self._ids.pop(), self._born.pop()
            if last != id:
                rows[slot] = rows[len(self)]
                self._ids[slot], self._born[slot], self._slots[last] = last, born, slot
        self._faiss.remove_ids(faiss.IDSelectorRange(len(self), before))
        return len(gone)

    def search(
        self, vectors: Vectors, k: int, offset: int = 0, exclude: Collection[str] = frozenset()
    ) -> list[list[Hit]]:
        """For each row of `vectors` [n, dim], hits number `offset` .. `offset + k` by falling score.

        Ids in `exclude` are passed over and not counted. Equal scores come in order of insertion; fewer than `k`
        hits come back when the index has no more. Raises DataError for a row with nan or inf.
        """
        rows = self._rows(vectors)
        if (wrong := _first_not_finite(rows)) is not None:
            raise DataError(f"The embedding of query {wrong} holds nan or inf: look at its text, and at the embedder.")
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
        order = np.lexsort(([self._born[slot] for slot in slots], -scores))
        hits = (Hit(self._ids[slots[i]], float(scores[i])) for i in order)
        return [hit for hit in hits if hit.id not in barred]

    def _nearest(self, row: Vectors, wanted: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores and slots of the best `wanted` vectors, and of all that are as good as the last of them."""
        scores, slots = self._faiss.search(row[None], min(wanted + 1, len(self)))
        scores, slots = scores[0], slots[0]
        if len(scores) > wanted and scores[-1] == scores[-2]:
            # Several equal scores straddle the cut and FAISS leaves open which it returns: fetch all that reach it.
            below = np.nextafter(scores[-1], np.float32(-np.inf))
            _, scores, slots = self._faiss.range_search(row[None], float(below))
        return scores, slots

    def _nearest_of_each(self, rows: Vectors, wanted: int) -> Iterator[tuple[Vectors, NDArray[np.int64]]]:
        """As `_nearest` of each row, at the speed of a matrix product.

        The product sums in an order that depends on the batch, so it only tells which vectors cannot be among the best;
        the others are scored as `_nearest` does. A sum of m products of float32, in whatever order, is off by at most
        m roundings of their sizes' sum, which is at most the product of the lengths; zeros of the query add nothing.
        """
        matrix = faiss.rev_swig_ptr(self._faiss.get_xb(), len(self) * self.dim).reshape(len(self), self.dim)
        step = max(1, _SCORES // len(self))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            for row, scores in zip(part, part @ matrix.T, strict=True):
                off = 1.01 * np.count_nonzero(row) * _ROUNDING * _length(row[None]) * self._longest
                last = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
                # Both the last that is wanted and one that beats it may be off by this, in the product and in the end.
                slots = np.flatnonzero(scores >= float(last) - 4 * off)
                yield _scores_of(self._faiss, row, slots), slots

    def _rows(self, vectors: Vectors) -> Vectors:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"Vectors must have the shape [n, {self.dim}]; {list(rows.shape)} was given.")
        return rows


def _first_not_finite(rows: Vectors) -> int | None:
    """The number of the first row with nan or inf; None if there is none."""
    sound = np.isfinite(rows).all(axis=1)
    return None if sound.all() else int(np.argmin(sound))


def _length(rows: Vectors) -> float:
    """Of the longest row; 0 without rows."""
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64).max(initial=0)))
