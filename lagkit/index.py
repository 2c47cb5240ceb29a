"""A nearest-neighbour index over named unit vectors: the FAISS search that logs and passages share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from lagkit.types import Hit

Vectors = NDArray[np.float32]


class VectorIndex:
    """Exact inner-product search; with rows of length 1 the score is the cosine similarity.

    Nothing is approximated, so a hit list is the same on every machine up to rounding of the scores.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        # By slot: a row's id, and which addition brought it; slots are not in that order once rows were removed.
        self._ids: list[str] = []
        self._born: list[int] = []
        self._slots: dict[str, int] = {}
        self._additions = 0
        self._faiss = faiss.IndexFlatIP(dim)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: str) -> bool:
        return id in self._slots

    def __repr__(self) -> str:
        return f"VectorIndex({len(self)} vectors of {self.dim})"

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Append `vectors` [n, dim] under `ids`; raises ValueError on an id that is there already or a wrong shape."""
        rows = self._rows(vectors)
        if len(rows) != len(ids):
            raise ValueError(f"{len(ids)} ids were given for {len(rows)} vectors; give one id for each.")
        fresh = set(ids)
        if len(fresh) < len(ids) or fresh & self._slots.keys():
            twice = next(id for id in ids if id in self._slots or list(ids).count(id) > 1)
            raise ValueError(f"The id {twice!r} would be in the index twice; remove it first.")
        self._faiss.add(rows)
        self._slots |= zip(ids, range(len(self), len(self) + len(ids)), strict=True)
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
        hits come back when the index has no more.
        """
        rows = self._rows(vectors)
        if k < 0 or offset < 0:
            raise ValueError(f"k and offset must not be negative; k={k} and offset={offset} were given.")
        barred = self._slots.keys() & set(exclude)
        wanted = min(offset + k + len(barred), len(self))
        if wanted == 0 or k == 0:
            return [[] for _ in rows]
        return [self._ranked(row, wanted, barred)[offset : offset + k] for row in rows]

    def _ranked(self, row: Vectors, wanted: int, barred: set[str]) -> list[Hit]:
        scores, slots = self._faiss.search(row[None], min(wanted + 1, len(self)))
        scores, slots = scores[0], slots[0]
        if len(scores) > wanted and scores[-1] == scores[-2]:
            # Several equal scores straddle the cut and FAISS leaves open which it returns: fetch all that reach it.
            below = np.nextafter(scores[-1], np.float32(-np.inf))
            _, scores, slots = self._faiss.range_search(row[None], float(below))
        order = np.lexsort(([self._born[slot] for slot in slots], -scores))
        hits = (Hit(self._ids[slots[i]], float(scores[i])) for i in order)
        return [hit for hit in hits if hit.id not in barred]

    def _rows(self, vectors: Vectors) -> Vectors:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"Vectors must have the shape [n, {self.dim}]; {list(rows.shape)} was given.")
        return rows
