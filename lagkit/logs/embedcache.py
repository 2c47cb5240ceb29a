"""A cache of embeddings on disk, by the hash of the text."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np

from lagkit.logs.index import Vectors
from lagkit.util.paths import at
from lagkit.util.progress import warn

T = TypeVar("T")

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCK_SECONDS = 30.0  # how long to wait for another process that writes


class VectorCache:
    """A SQLite file of float32 vectors [dim] by key; processes may share it.

    It only saves time, so its failures are warnings: a damaged file is started anew, and a file that cannot be read
    or written is left alone.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.path, self.dim = at(path), dim

    @staticmethod
    def key(*parts: str) -> bytes:
        """The sha256 of `parts`, which are told apart."""
        digest = hashlib.sha256()
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8) + encoded)
        return digest.digest()

    def read(self, keys: Collection[bytes]) -> dict[bytes, Vectors]:
        """The cached vectors by key; one of another length than `dim` counts as missing."""

        def work(db: sqlite3.Connection) -> dict[bytes, Vectors]:
            rows = (db.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone() for key in keys)
            blobs = {key: row[0] for key, row in zip(keys, rows, strict=True) if row}
            return {k: np.frombuffer(blob, np.float32) for k, blob in blobs.items() if len(blob) == 4 * self.dim}

        return self._attempt(work) or {}

    def write(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep `vectors`, all of them or none; not those with nan or inf, which a sound embedder may replace."""
        sound = {key: vector for key, vector in vectors.items() if np.isfinite(vector).all()}
        rows = [(key, np.ascontiguousarray(vector, np.float32).tobytes()) for key, vector in sound.items()]
        self._attempt(lambda db: db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows))

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        # A connection lives for one call only: it can be shared neither between threads nor across a fork.
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_LOCK_SECONDS)) as db, db:
                db.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
                return work(db)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                self.path.unlink(missing_ok=True)
                warn(f"The embedding cache {self.path.name} was damaged ({error}) and is started anew.")
            else:
                warn(
                    f"The embedding cache {self.path.name} could not be used ({error}); embeddings are computed again."
                )
            return None
