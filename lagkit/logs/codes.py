"""`search.safetensors`: the embeddings of a large store in 4 bits for each two numbers, which a search scans first.

The file is derived: everything in it follows from the database. It is safe to lose, and safe to take from a stranger.

    codes      uint8, FAISS's blocks of 32 logs, in the order of `seqs`
    seqs       int64 [logs], the logs' numbers in the database, rising
    centroids  float32 [dim / 2, 16, 2], what the codes stand for
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

from lagkit.logs.index import Vectors
from lagkit.util import files
from lagkit.util.errors import StoreError

NAME = "search.safetensors"
SAMPLE = 4096  # embeddings that centroids are learned from: 256 for each of the 16
_BITS, _BLOCK = 4, 32  # of a code; logs that FAISS scans together

# Whatever reading a damaged file may raise.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError)

Seqs = NDArray[np.int64]


class Codes:
    """Of each log its number and a quarter of a byte for each number of its embedding, in order of insertion.

    trained: how many logs there were when the centroids were learned.
    """

    def __init__(self, dim: int, trained: int) -> None:
        if dim % 2:
            raise ValueError(f"codes are of two numbers each, and {dim} is odd")
        self.dim, self.trained = dim, trained
        self._index = faiss.IndexPQFastScan(dim, dim // 2, _BITS, faiss.METRIC_INNER_PRODUCT, _BLOCK)
        self._seqs: list[Seqs] = []

    @classmethod
    def learn(cls, sample: Vectors, trained: int) -> Codes:
        """Without logs, with centroids for embeddings like those of `sample` [n, dim]; the same for the same ones."""
        codes = cls(sample.shape[1], trained)
        codes._index.pq.cp.min_points_per_centroid = 1
        enough = np.resize(sample, (max(len(sample), 1 << _BITS), codes.dim))
        codes._index.train(np.ascontiguousarray(enough, np.float32))
        return codes

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def last(self) -> int:
        """The number of the newest log; 0 without any."""
        return int(self._seqs[-1][-1]) if self._seqs else 0

    @property
    def seqs(self) -> Seqs:
        """The numbers of all logs."""
        if len(self._seqs) != 1:
            self._seqs = [np.concatenate([np.empty(0, np.int64), *self._seqs])]
        return self._seqs[0]

    def add(self, seqs: Collection[int], vectors: Vectors) -> None:
        """Append logs, whose numbers rise."""
        self._index.add(np.ascontiguousarray(vectors, np.float32))
        self._seqs.append(np.fromiter(seqs, np.int64, len(seqs)))

    def nearest(self, query: Vectors, n: int) -> tuple[Vectors, Seqs]:
        """About the `n` nearest logs to a row [dim], in no order: scores by their codes alone, and numbers.

        Equal embeddings have equal scores. All logs come, as equals, where they are no more than `n`, or where the
        codes do not tell them apart.
        """
        if n < len(self):
            scores, slots = self._index.search(np.ascontiguousarray(query[None], np.float32), n)
            if np.isfinite(scores).all():  # FAISS divides by how far apart they are
                return scores[0], self.seqs[slots[0]]
        return np.zeros(len(self), np.float32), self.seqs

    def disagree(self, seqs: Collection[int], vectors: Vectors) -> bool:
        """Whether the codes of some of these logs stand for other embeddings than `vectors`: they are another store's.

        Rounding, which differs between machines, may change a code here and there.
        """
        slots = np.searchsorted(self.seqs, np.fromiter(seqs, np.int64, len(seqs)))
        kept = np.stack([self._index.reconstruct(int(slot)) for slot in slots])
        pq = self._index.pq
        codes = pq.compute_codes(np.ascontiguousarray(vectors, np.float32))
        made = pq.decode(codes)  # type: ignore[call-arg, func-returns-value]  # in Python it takes and gives arrays
        return bool(((kept == made).mean(axis=1) < 0.9).any())

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all. Raises OSError, and leaves what was there."""
        table, pq = self._index.codes, self._index.pq
        parts: dict[str, NDArray[Any]] = {
            "codes": np.array(faiss.rev_swig_ptr(table.get(), table.size()), np.uint8),
            "seqs": self.seqs,
            "centroids": faiss.vector_to_array(pq.centroids).reshape(-1, 1 << _BITS, pq.dsub),
        }
        head = {"trained": str(self.trained), "last": str(self.last), "logs": str(len(self))}
        # Not by save_file: interrupted, it leaves a file of a name that nobody knows.
        files.write(folder / NAME, save(parts, {**head, "crc32": _crc32(head, parts)}))

    @classmethod
    def load(cls, folder: Path, dim: int) -> Codes:
        """Read the file, throughout. Raises FileNotFoundError, StoreError if it is damaged, OSError if it may not."""
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
    def flaw(cls, folder: Path, dim: int) -> str | None:
        """What is wrong with the file, in a few words; None if nothing is, or it is not there. Raises StoreError."""
        try:
            cls.load(folder, dim)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"The file {folder / NAME} may not be read ({error}): see to its permissions.") from error
        except StoreError as error:
            return f"is damaged ({error.__cause__}), and only saves time"
        return None

    @staticmethod
    def peek(folder: Path) -> tuple[int, int]:
        """What the file says of itself: the number of its last log, and how many it has; zeros if it says nothing."""
        try:
            with safe_open(folder / NAME, framework="np") as file:
                head = file.metadata()
            return int(head["last"]), int(head["logs"])
        except _UNREADABLE:
            return 0, 0

    @classmethod
    def _of(cls, parts: dict[str, NDArray[Any]], dim: int, trained: int) -> Codes:
        made, seqs = cls(dim, trained), parts["seqs"]
        index, pq = made._index, made._index.pq
        blocks = -(-len(seqs) // _BLOCK)
        shapes = {"codes": (blocks * _BLOCK * index.M2 // 2,), "centroids": (pq.M, 1 << _BITS, pq.dsub)}
        shapes["seqs"] = seqs.shape[:1]
        types = {"codes": np.uint8, "centroids": np.float32, "seqs": np.int64}
        if {n: (p.shape, p.dtype) for n, p in parts.items()} != {n: (shapes[n], np.dtype(types[n])) for n in types}:
            raise ValueError("it holds other arrays")
        if not len(seqs) or seqs[0] < 1 or (np.diff(seqs) < 1).any():
            raise ValueError("its numbers do not rise")
        faiss.copy_array_to_vector(parts["centroids"].ravel(), pq.centroids)
        faiss.copy_array_to_AlignedTable(parts["codes"], index.codes)
        index.ntotal, index.is_trained = len(seqs), True
        index.ntotal2 = blocks * _BLOCK  # type: ignore[attr-defined]  # FAISS has it
        made._seqs = [seqs]
        return made


def _crc32(head: dict[str, str], parts: dict[str, NDArray[Any]]) -> str:
    crc = zlib.crc32(json.dumps(head, sort_keys=True).encode())
    for name in sorted(parts):
        crc = zlib.crc32(np.ascontiguousarray(parts[name]).reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"
