"""Quantised search: 4-bit copies of many embeddings are scanned, and the nearest scored by the embeddings themselves.

The copies of a large store are in `search.safetensors`, which is derived from the database and safe to lose:

    codes      uint8, FAISS's blocks of 32 logs, in the order of `seqs`
    seqs       int64 [logs], the logs' numbers in the database, rising
    centroids  float32 [dim / 2, 16, 2], which the codes stand for

It is not written by `faiss.write_index`, whose reader trusts the sizes in a file: a store may come from a stranger.
Nor is `faiss.IndexRefineFlat` used, which holds all embeddings in memory: they are read, and checked, in the database.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lagkit.logs.embeddings import Embeddings, Seqs
from lagkit.logs.index import VectorIndex, Vectors
from lagkit.types import Hit
from lagkit.util import files
from lagkit.util.errors import StoreError
from lagkit.util.progress import Progress, warn

NAME = "search.safetensors"
SAMPLE = 4096  # embeddings that centroids are learned from: 256 for each of the 16
# So many of the logs that are nearest by their codes are scored by their embeddings, or so many for each hit.
WIDTH, SPARE = 128, 4
# The file is written anew when it lacks this share of the logs, or has so many more that were deleted.
STALE = 1 / 8
_BITS, _BLOCK = 4, 32  # of a code; logs that FAISS scans together

# Exceptions from reading a damaged file.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError)


class QuantisedIndex:
    """Product-quantised embeddings, 4 bits for two numbers, by the logs' numbers in the database.

    trained: how many logs there were when the centroids were learned.
    """

    def __init__(self, dim: int, trained: int) -> None:
        if dim % 2:
            raise ValueError(f"codes are of two numbers each, and {dim} is odd")
        self.dim, self.trained = dim, trained
        self._codes = faiss.IndexPQFastScan(dim, dim // 2, _BITS, faiss.METRIC_INNER_PRODUCT, _BLOCK)
        self._index = faiss.IndexIDMap(self._codes)

    @classmethod
    def learn(cls, sample: Vectors, trained: int) -> QuantisedIndex:
        """An index without logs, for embeddings like those of `sample` [n, dim]; equal samples give equal centroids."""
        made = cls(sample.shape[1], trained)
        made._codes.pq.cp.min_points_per_centroid = 1
        made._index.train(np.resize(sample, (max(len(sample), 1 << _BITS), made.dim)).astype(np.float32))
        return made

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def seqs(self) -> Seqs:
        """The numbers of all logs, rising."""
        return faiss.vector_to_array(self._index.id_map)

    @property
    def last(self) -> int:
        """The number of the newest log; 0 without logs."""
        return int(self._index.id_map.at(len(self) - 1)) if len(self) else 0

    def add(self, seqs: Collection[int], vectors: Vectors) -> None:
        """Append logs, whose numbers rise."""
        self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.fromiter(seqs, np.int64, len(seqs)))

    def nearest(self, query: Vectors, n: int) -> tuple[Vectors, Seqs]:
        """About the `n` nearest logs to a row [dim], in no order: scores by their codes alone, and numbers.

        Equal embeddings have equal scores. All logs are returned, as equals, where they are no more than `n`, or where
        their codes are all equal.
        """
        if n < len(self):
            scores, seqs = self._index.search(np.ascontiguousarray(query[None], np.float32), n)
            if np.isfinite(scores).all():  # FAISS divides by how far apart they are
                return scores[0], seqs[0]
        return np.zeros(len(self), np.float32), self.seqs

    def differs(self, seqs: Collection[int], vectors: Vectors) -> bool:
        """Whether the codes of some of these logs stand for other embeddings than `vectors`: they are another store's.

        Rounding, which differs between machines, may change a few codes.
        """
        slots = np.searchsorted(self.seqs, np.fromiter(seqs, np.int64, len(seqs)))
        kept = np.stack([self._codes.reconstruct(int(slot)) for slot in slots])
        codes = self._codes.pq.compute_codes(np.ascontiguousarray(vectors, np.float32))
        made = self._codes.pq.decode(codes)  # type: ignore[call-arg, func-returns-value]  # in Python it returns arrays
        return bool(((kept == made).mean(axis=1) < 0.9).any())

    def save(self, folder: Path) -> None:
        """Write the file atomically. Raises OSError."""
        table, pq = self._codes.codes, self._codes.pq
        parts: dict[str, NDArray[Any]] = {
            "codes": np.array(faiss.rev_swig_ptr(table.get(), table.size()), np.uint8),
            "seqs": self.seqs,
            "centroids": faiss.vector_to_array(pq.centroids).reshape(-1, 1 << _BITS, pq.dsub),
        }
        head = {"trained": str(self.trained)}
        files.write(folder / NAME, save(parts, {**head, "crc32": _crc32(head, parts)}))

    @classmethod
    def load(cls, folder: Path, dim: int) -> QuantisedIndex:
        """Read the whole file. Raises FileNotFoundError, StoreError if it is damaged, OSError if it cannot be read."""
        path = folder / NAME
        with open(path, "rb"):  # safetensors does not tell why it cannot open a file
            pass
        try:
            with safe_open(path, framework="np") as file:
                head, parts = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if head.pop("crc32") != _crc32(head, parts):
                raise ValueError("its checksum is another")
            return cls._of(parts, dim, int(head["trained"]))
        except _UNREADABLE as error:
            raise StoreError(f"{path} is damaged: {error}") from error

    @classmethod
    def _of(cls, parts: dict[str, NDArray[Any]], dim: int, trained: int) -> QuantisedIndex:
        made, seqs = cls(dim, trained), parts["seqs"]
        codes, blocks = made._codes, -(-len(seqs) // _BLOCK)
        wanted: dict[str, tuple[tuple[int, ...], type]] = {
            "codes": ((blocks * _BLOCK * codes.M2 // 2,), np.uint8),
            "centroids": ((codes.pq.M, 1 << _BITS, codes.pq.dsub), np.float32),
            "seqs": (seqs.shape[:1], np.int64),
        }
        if {name: (part.shape, part.dtype.type) for name, part in parts.items()} != wanted:
            raise ValueError("it holds other arrays")
        if not len(seqs) or seqs[0] < 1 or (np.diff(seqs) < 1).any():
            raise ValueError("its numbers do not rise")
        faiss.copy_array_to_vector(parts["centroids"].ravel(), codes.pq.centroids)
        faiss.copy_array_to_AlignedTable(parts["codes"], codes.codes)
        faiss.copy_array_to_vector(seqs, made._index.id_map)
        made._index.ntotal = codes.ntotal = len(seqs)
        made._index.is_trained = codes.is_trained = True
        codes.ntotal2 = blocks * _BLOCK  # type: ignore[attr-defined]  # FAISS has it
        return made


def flaw(folder: Path, dim: int) -> str | None:
    """What is wrong with the file, in a few words; None if nothing is, or it is not there. Raises StoreError."""
    try:
        QuantisedIndex.load(folder, dim)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"The file {folder / NAME} may not be read ({error}): see to its permissions.") from error
    except StoreError as error:
        return f"is damaged ({error.__cause__}), and only saves time"
    return None


def _crc32(head: dict[str, str], parts: dict[str, NDArray[Any]]) -> str:
    crc = zlib.crc32(json.dumps(head, sort_keys=True).encode())
    for name in sorted(parts):
        crc = zlib.crc32(np.ascontiguousarray(parts[name]).reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


class QuantisedSearch:
    """The search of a large store: a quantised index of all logs, in memory and in a file that a writer keeps.

    Scores and order are exact; which logs are scored is approximate (recall in benchmarks/results). A file that is
    missing, damaged or of other logs costs the time to make it anew, and changes no scores.
    """

    def __init__(self, rows: Embeddings, write: bool) -> None:
        self._rows, self._write = rows, write
        self._index: QuantisedIndex | None = None
        self._written = 0  # logs in the file
        self._deletions = -1  # when deleted logs were last counted

    def search(self, queries: Vectors, k: int, offset: int, exclude: Collection[str]) -> list[list[Hit]]:
        """As `VectorIndex.search`, over what the database holds."""
        index, barred = self.update(), self._rows.seqs_of(exclude)
        return [self._nearest(index, query, k, offset, barred) for query in queries]

    def _nearest(self, index: QuantisedIndex, query: Vectors, k: int, offset: int, barred: Seqs) -> list[Hit]:
        wanted = offset + k
        width = enough = max(WIDTH, SPARE * wanted)
        while True:
            rough, seqs = index.nearest(query, width)
            kept = ~np.isin(seqs, barred)
            hits = self._scored(query, rough[kept], seqs[kept])
            # Equal embeddings have equal codes: with some of them, but not all, the oldest might not be among them.
            clear = len(hits) >= max(wanted, enough // 2) and hits[wanted - 1][1] > rough.min()
            if clear or len(seqs) == len(index):
                return [hit for hit, _ in hits[offset:wanted]]
            width *= 4

    def _scored(self, query: Vectors, rough: Vectors, seqs: Seqs) -> list[tuple[Hit, float]]:
        """Hits by falling exact score, with their score by codes, the oldest first among equals; no deleted logs."""
        by_codes = dict(zip(seqs.tolist(), rough.tolist(), strict=True))
        rows = {id: (seq, blob) for seq, id, blob in sorted(self._rows.rows(seqs), key=lambda row: row[0])}
        exact = VectorIndex(self._rows.dim)
        exact.add(list(rows), self._rows.matrix(blob for _, blob in rows.values()))
        return [(hit, by_codes[rows[hit.id][0]]) for hit in exact.search(query[None], len(rows))[0]]

    def update(self) -> QuantisedIndex:
        """The index of all logs; a writer writes the file when it is missing, damaged or stale."""
        deletions, index = self._rows.deletions(), self._index
        self._index = None  # until it is whole again: an interruption leaves none that is extended in part
        if index is None:
            index = self._loaded()
            self._written = len(index) if index else 0
        index = self._extended(index or self._learned())
        # Twice the logs that the centroids were learned from, or many codes of deleted ones.
        outgrown = len(index) >= 2 * index.trained
        outgrown |= deletions != self._deletions and len(index) > (1 + STALE) * self._rows.count()
        if self._write and outgrown:
            index, self._written = self._extended(self._learned()), 0
        if self._write and len(index) - self._written > STALE * len(index):
            try:
                index.save(self._rows.folder)
            except OSError as error:  # it is made again, which takes time and nothing else
                warn(f"The codes of the logs at {self._rows.folder} could not be written ({error}).")
            self._written = len(index)
        self._index, self._deletions = index, deletions
        return index

    def _loaded(self) -> QuantisedIndex | None:
        """The index in the file; None, and a line that says why, unless it is sound and of this store's logs."""
        try:
            index = QuantisedIndex.load(self._rows.folder, self._rows.dim)
        except FileNotFoundError:
            return None
        except (OSError, StoreError) as error:
            warn(f"{error}; the codes of all logs are made anew.")
            return None
        slots = np.r_[np.linspace(0, len(index) - 1, 48).astype(np.int64), np.arange(len(index))[-16:]]
        rows = [row for row in self._rows.rows(index.seqs[np.unique(slots)]) if row[2] is not None]
        if not rows or index.differs([row[0] for row in rows], self._rows.matrix(row[2] for row in rows)):
            warn(f"The codes in {self._rows.folder} are of other logs; they are made anew.")
            return None
        return index

    def _learned(self) -> QuantisedIndex:
        """An index without logs, with centroids learned from a sample of the store's."""
        seqs = self._rows.seqs()
        sample = seqs[np.linspace(0, len(seqs) - 1, min(SAMPLE, len(seqs))).astype(np.int64)]
        rows = sorted(self._rows.rows(sample))
        return QuantisedIndex.learn(self._rows.matrix(blob for _, _, blob in rows), len(seqs))

    def _extended(self, index: QuantisedIndex) -> QuantisedIndex:
        """The index with the logs that came since."""
        if new := self._rows.count(after=index.last):
            with Progress("Coding logs for search", new) as shown:
                for seqs, _, matrix in self._rows.after(index.last):
                    index.add(seqs, matrix)
                    shown.update(len(seqs))
        return index
