"""Searching many logs: those that are nearest by their codes are read, and scored by their embeddings."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from lagkit.logs.codes import SAMPLE, Codes
from lagkit.logs.embeddings import Embeddings, Seqs
from lagkit.logs.index import Vectors, exact_scores
from lagkit.types import Hit
from lagkit.util.errors import StoreError
from lagkit.util.progress import Progress, warn

# So many of the logs that are nearest by their codes are scored by their embeddings, or so many for each hit.
WIDTH, SPARE = 128, 4
# The file of codes is written anew when it lacks this share of the logs, or has so many more that were deleted.
STALE = 1 / 8


class CodedLogs:
    """Codes of all logs, in memory, and in a file that a writer keeps and that any process starts from.

    Scores and order are exact; which logs are scored is not quite (recall in benchmarks/results). A file that is
    missing, damaged or of other logs costs the time to make it anew. It changes no result but what the codes miss.
    """

    def __init__(self, rows: Embeddings, write: bool) -> None:
        self._rows, self._write = rows, write
        self._codes: Codes | None = None
        self._written = 0  # logs in the file
        self._deletions = -1  # when deleted logs were last counted

    def search(self, queries: Vectors, k: int, offset: int, exclude: Collection[str]) -> list[list[Hit]]:
        """As `VectorIndex.search`, of what the database holds."""
        codes, barred = self._current(), self._rows.seqs_of(exclude)
        return [self._nearest(codes, query, k, offset, barred) for query in queries]

    def settle(self) -> None:
        """See to it that the file is there and has almost all logs."""
        last, self._written = Codes.peek(self._rows.folder)
        new = self._rows.count(after=last)
        if new > STALE * (self._written + new):
            self._current()

    def _nearest(self, codes: Codes, query: Vectors, k: int, offset: int, barred: Seqs) -> list[Hit]:
        wanted = offset + k
        width = enough = max(WIDTH, SPARE * wanted)
        while True:
            rough, seqs = codes.nearest(query, width)
            kept = ~np.isin(seqs, barred)
            hits = self._scored(query, rough[kept], seqs[kept])
            # Equal embeddings have equal codes: with some of them, but not all, the oldest might not be among them.
            clear = len(hits) >= max(wanted, enough // 2) and hits[wanted - 1][1] > rough.min()
            if clear or len(seqs) == len(codes):
                return [hit for hit, _ in hits[offset:wanted]]
            width *= 4

    def _scored(self, query: Vectors, rough: Vectors, seqs: Seqs) -> list[tuple[Hit, float]]:
        """Hits by falling score, the oldest first among equals, with what the codes say; none for deleted logs."""
        said = dict(zip(seqs.tolist(), rough.tolist(), strict=True))
        rows = self._rows.rows(seqs)
        if not rows:
            return []
        scores = exact_scores(query, self._rows.matrix(blob for _, _, blob in rows))
        order = np.lexsort((np.array([seq for seq, _, _ in rows]), -scores))
        return [(Hit(rows[i][1], float(scores[i])), said[rows[i][0]]) for i in order]

    def _current(self) -> Codes:
        """Codes of all logs; a writer writes them down when the file is missing, damaged or stale."""
        deletions, codes = self._rows.deletions(), self._codes
        self._codes = None  # until they are whole again: who interrupts this leaves none that are half extended
        if codes is None:
            codes = self._loaded()
            self._written = len(codes) if codes else 0
        codes = self._extended(codes or self._learnt())
        if self._write and self._are_stale(codes, deletions):
            codes, self._written = self._extended(self._learnt()), 0
        if self._write and len(codes) - self._written > STALE * len(codes):
            self._save(codes)
        self._codes, self._deletions = codes, deletions
        return codes

    def _are_stale(self, codes: Codes, deletions: int) -> bool:
        """Whether there are twice the logs that the centroids were learned from, or many codes of deleted ones."""
        if deletions != self._deletions and len(codes) > (1 + STALE) * self._rows.count():
            return True
        return len(codes) >= 2 * codes.trained

    def _loaded(self) -> Codes | None:
        """The codes in the file; None, and a line that says why, unless they are sound and of this store's logs."""
        try:
            codes = Codes.load(self._rows.folder, self._rows.dim)
        except FileNotFoundError:
            return None
        except (OSError, StoreError) as error:
            warn(f"{error}; the codes of all logs are made anew.")
            return None
        slots = np.r_[np.linspace(0, len(codes) - 1, 48).astype(np.int64), np.arange(len(codes))[-16:]]
        rows = [row for row in self._rows.rows(codes.seqs[np.unique(slots)]) if row[2] is not None]
        if not rows or codes.disagree([row[0] for row in rows], self._rows.matrix(row[2] for row in rows)):
            warn(f"The codes in {self._rows.folder} are of other logs; they are made anew.")
            return None
        return codes

    def _learnt(self) -> Codes:
        """No codes yet, but centroids for logs like those of the store."""
        seqs = self._rows.seqs()
        sample = seqs[np.linspace(0, len(seqs) - 1, min(SAMPLE, len(seqs))).astype(np.int64)]
        rows = sorted(self._rows.rows(sample))
        return Codes.learn(self._rows.matrix(blob for _, _, blob in rows), len(seqs))

    def _extended(self, codes: Codes) -> Codes:
        """With the logs that came since."""
        if self._rows.newest() <= codes.last:
            return codes
        with Progress("Coding logs for search", self._rows.count(after=codes.last)) as shown:
            for seqs, _, matrix in self._rows.after(codes.last):
                codes.add(seqs, matrix)
                shown.update(len(seqs))
        return codes

    def _save(self, codes: Codes) -> None:
        try:
            codes.save(self._rows.folder)
        except OSError as error:  # they are made again, which takes time and nothing else
            warn(f"The codes of the logs at {self._rows.folder} could not be written ({error}).")
        self._written = len(codes)
