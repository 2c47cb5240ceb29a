"""Everything that a log store can be asked: single logs, blocks, searches, summaries, checks."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from html import escape
from pathlib import Path

import pandas as pd
from numpy.typing import ArrayLike

from lagkit.errors import DamagedBlock, StoreError
from lagkit.index import Vectors
from lagkit.kv import KVBlock
from lagkit.store import upkeep
from lagkit.store.archive import write_archive
from lagkit.store.database import OWN_BLOCK, SOUND_BLOCK, SOUND_JSON, Database
from lagkit.store.files import BlockFiles, BlockRow
from lagkit.store.header import Header
from lagkit.store.vectors import LogVectors
from lagkit.types import MALFORMED, Hit, Trace

PAGE = 256


class StoredLogs:
    """The reading half of `LogStore`. Iterating gives log ids, oldest first.

    What another process commits is seen at once, and any thread may ask. Every method raises StoreError on a closed or
    unreadable store.
    """

    def __init__(self, folder: Path, header: Header, write: bool) -> None:
        self.path = folder
        self.writable = write
        self.model, self.embedder, self.dim = header.model, header.embedder, header.dim
        self.dtype, self.codec = header.dtype, header.codec
        self._header = header
        self._files = BlockFiles(folder, header.codec)
        self._db = Database(folder, write)
        self._vectors = LogVectors(self._db, header.dim)

    @property
    def ids(self) -> list[str]:
        """All log ids, oldest first."""
        return [id for (id,) in self._db.read("SELECT id FROM logs ORDER BY seq")]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return self._db.read("SELECT count(*) FROM logs")[0][0]

    def __contains__(self, log: object) -> bool:
        return bool(self._db.read("SELECT 1 FROM logs WHERE id = ?", log))

    def get(self, log: str) -> Trace:
        """The trace of a log; raises StoreError for an unknown id."""
        rows = self._db.read(f"SELECT {SOUND_JSON} FROM traces JOIN logs USING (seq) WHERE id = ?", log)
        if not rows:
            raise self._unknown(log)
        return self._trace(log, rows[0][0])

    def traces(self) -> Iterator[Trace]:
        """All traces, oldest first, a few in memory at a time."""
        last = 0
        page = f"SELECT seq, id, {SOUND_JSON} FROM traces JOIN logs USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?"
        while rows := self._db.read(page, last, PAGE):
            yield from (self._trace(log, text) for _, log, text in rows)
            last = rows[-1][0]

    def _trace(self, log: str, text: str | None) -> Trace:
        if text is None:
            raise StoreError(f"The trace of {log} in {self.path} is damaged: prune() removes this log.")
        try:
            trace = Trace.from_dict(json.loads(text))
        except MALFORMED as error:
            raise StoreError(f"The trace of {log} in {self.path} cannot be read ({error}): delete this log.") from error
        if trace.id != log:
            raise StoreError(f"The trace found as {log} in {self.path} is {trace.id}: verify() names what is damaged.")
        return trace

    def _unknown(self, log: str) -> StoreError:
        return StoreError(f"There is no log {log!r} in the store at {self.path}, which has {len(self)} logs.")

    def block_keys(self, log: str) -> list[str]:
        """The keys under which a log has KV blocks, sorted; raises StoreError for an unknown id."""
        if log not in self:
            raise self._unknown(log)
        query = f"SELECT key FROM blocks JOIN logs USING (seq) WHERE id = ? AND {SOUND_BLOCK} AND {OWN_BLOCK}"
        return [key for (key,) in self._db.read(query, log, log)]

    def has_block(self, log: str, key: str) -> bool:
        """Whether `block` would find one, be it damaged or not; False for an unknown id."""
        return self.find(log, key) is not None

    def block(self, log: str, key: str) -> KVBlock:
        """A log's KV block in the store's dtype, its checksum computed.

        Raises StoreError for an unknown log or key, and DamagedBlock, naming the file, for one that is missing,
        truncated or altered; all other blocks stay usable.
        """
        row = self.find(log, key)
        if row is None:
            keys = ", ".join(self.block_keys(log)) or "none"
            raise StoreError(f"Log {log} has no KV block {key!r}; it has: {keys}.")
        try:
            return self.load(row)
        except DamagedBlock:
            if self.find(log, key) == row:
                raise
        # The writer replaced or deleted the block between the look-up and the reading.
        return self.block(log, key)

    def load(self, row: BlockRow) -> KVBlock:
        """The block of a row that `find` gave, in whatever thread, even if the store was closed since then.

        Raises DamagedBlock as `block` does, and also if the writer has replaced or deleted it meanwhile.
        """
        return self._files.load(row.sha256, row.bytes)

    def find(self, log: str, key: str) -> BlockRow | None:
        """What is known of a log's KV block before it is read: tokens, bytes, checksum; None where there is none."""
        query = "SELECT key, tokens, bytes, sha256 FROM blocks JOIN logs USING (seq) WHERE id = ? AND key = ?"
        rows = self._db.read(f"{query} AND {SOUND_BLOCK} AND {OWN_BLOCK}", log, key, log)
        return BlockRow(*rows[0]) if rows else None

    def search(
        self, vectors: ArrayLike, k: int, offset: int = 0, exclude: Collection[str] = frozenset()
    ) -> list[list[Hit]]:
        """For each row of `vectors` [queries, dim], of length 1: hits number `offset` .. `offset + k`, best first.

        Ids in `exclude` are passed over and not counted; equal scores come oldest first. Raises EmptyStore without
        logs, and StoreError for vectors of another shape or length.
        """
        return self._vectors.search(vectors, k, offset, exclude)

    def verify(self) -> pd.DataFrame:
        """Read every byte and list what is wrong: file, log, problem; no rows when all is well.

        Beside a process that is writing, its newest files may be listed as orphans: their rows are about to come.
        """
        found = upkeep.problems(self._db, self._files, self.dim)
        return pd.DataFrame(list(found), columns=upkeep.Problem._fields)

    def summary(self) -> pd.DataFrame:
        """For each block key: logs, tokens, bytes. A file that several keys share counts for each of them."""
        query = "SELECT key, count(*), sum(tokens), sum(bytes) FROM blocks GROUP BY key ORDER BY key"
        return pd.DataFrame(self._db.read(query), columns=["key", "logs", "tokens", "bytes"]).set_index("key")

    def sizes(self) -> pd.DataFrame:
        """For each log, oldest first: its KV blocks, their tokens and bytes; 0 where nothing is encoded yet."""
        query = (
            "SELECT id, count(key), coalesce(sum(tokens), 0), coalesce(sum(bytes), 0) "
            "FROM logs LEFT JOIN blocks USING (seq) GROUP BY seq ORDER BY seq"
        )
        return pd.DataFrame(self._db.read(query), columns=["log", "blocks", "tokens", "bytes"]).set_index("log")

    def embeddings(self) -> Vectors:
        """The embeddings of all logs, float32 `[logs, dim]`, in the order of `ids`."""
        return self._vectors.all()

    @property
    def nbytes(self) -> int:
        """The bytes of all files in the store's folder."""
        paths = (Path(parent) / file for parent, _, files in os.walk(self.path) for file in files)
        return sum(_size(path) for path in paths)

    def export(self, path: str | Path) -> Path:
        """Write everything into one new file, a tar of JSON and safetensors that `import_archive` reads.

        Raises StoreError if the file exists or cannot be written, DamagedBlock if a block is not sound; then no file
        is left behind.
        """
        write_archive(Path(path), self._header, self._db, self._files)
        return Path(path)

    def __repr__(self) -> str:
        mode = "writable" if self.writable else "read-only"
        return f"LogStore({str(self.path)!r}, {mode}, {len(self)} logs)"

    def _repr_html_(self) -> str:
        facts = {
            "model": self.model.get("name", json.dumps(self.model)),
            "embedder": f"{self.embedder} ({self.dim} dimensions)",
            "dtype": self.dtype,
            "codec": self.codec,
            "logs": f"{len(self):,}",
            "on disk": f"{self.nbytes:,} bytes",
        }
        rows = "".join(f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
        return f"<b>LogStore</b> <code>{escape(str(self.path))}</code><table>{rows}</table>{self.summary().to_html()}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # removed since it was listed
