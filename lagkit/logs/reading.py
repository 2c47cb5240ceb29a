"""The reading half of `LogStore`: single logs, blocks, summaries, checks."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd

from lagkit.logs import upkeep
from lagkit.logs.archive import write_archive
from lagkit.logs.base import Store
from lagkit.logs.batch import Packed
from lagkit.logs.database import OWN_BLOCK, SOUND_BLOCK, SOUND_JSON, Database
from lagkit.logs.embeddings import Embeddings
from lagkit.logs.files import BlockFiles, BlockRow
from lagkit.logs.header import Header
from lagkit.logs.listing import OLDEST_FIRST, Filter, Order
from lagkit.logs.vectors import LogVectors
from lagkit.model.kv import KVBlock
from lagkit.types import Trace
from lagkit.util.errors import StoreError
from lagkit.util.paths import at, file_size

PAGE = 256


class StoredLogs(Store):
    """The reading half of `LogStore`; what another process commits is seen at once."""

    path: Path

    def __init__(self, folder: Path, header: Header, write: bool) -> None:
        super().__init__(folder, header, write)
        self._files = BlockFiles(folder, header.codec)
        self._db = Database(folder, write)
        # Of hashed words codes miss too much, 6% of the three nearest of 33,000 sentences (benchmarks/search_words.py).
        dense = not header.embedder.startswith("hash-")
        self._vectors = LogVectors(Embeddings(self._db, header.dim), quantise=dense, write=write)

    @property
    def ids(self) -> list[str]:
        return [id for (id,) in self._db.read("SELECT id FROM logs ORDER BY seq")]

    def __len__(self) -> int:
        return int(self._db.read("SELECT count(*) FROM logs")[0][0])

    def __contains__(self, log: object) -> bool:
        return bool(self._db.read("SELECT 1 FROM logs WHERE id = ?", log))

    def get(self, log: str) -> Trace:
        rows = self._db.read(f"SELECT {SOUND_JSON} FROM traces JOIN logs USING (seq) WHERE id = ?", log)
        if not rows:
            raise self._unknown(log)
        return self._trace(log, rows[0][0])

    def traces(self, logs: Sequence[str] | None = None) -> Iterator[Trace]:
        if logs is not None:
            yield from map(self.get, logs)
            return
        last = 0
        page = f"SELECT seq, id, {SOUND_JSON} FROM traces JOIN logs USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?"
        while rows := self._db.read(page, last, PAGE):
            yield from (self._trace(log, text) for _, log, text in rows)
            last = rows[-1][0]

    def block_keys(self, log: str) -> list[str]:
        if log not in self:
            raise self._unknown(log)
        query = f"SELECT key FROM blocks JOIN logs USING (seq) WHERE id = ? AND {SOUND_BLOCK} AND {OWN_BLOCK}"
        return [key for (key,) in self._db.read(query, log, log)]

    def load(self, row: BlockRow) -> KVBlock:
        return self._files.load(row.sha256, row.bytes)

    def find(self, log: str, key: str) -> BlockRow | None:
        query = "SELECT key, tokens, bytes, sha256 FROM blocks JOIN logs USING (seq) WHERE id = ? AND key = ?"
        rows = self._db.read(f"{query} AND {SOUND_BLOCK} AND {OWN_BLOCK}", log, key, log)
        return BlockRow(*rows[0]) if rows else None

    def verify(self) -> pd.DataFrame:
        found = upkeep.problems(self._db, self._files, self.dim)
        return pd.DataFrame(list(found), columns=upkeep.Problem._fields)

    def summary(self) -> pd.DataFrame:
        query = "SELECT key, count(*), sum(tokens), sum(bytes) FROM blocks GROUP BY key ORDER BY key"
        return pd.DataFrame(self._db.read(query), columns=["key", "logs", "tokens", "bytes"]).set_index("key")

    def sizes(self, logs: Collection[str] | None = None) -> pd.DataFrame:
        query = (
            "SELECT id, count(key), coalesce(sum(tokens), 0), coalesce(sum(bytes), 0) "
            "FROM logs LEFT JOIN blocks USING (seq) WHERE ? OR id IN (SELECT value FROM json_each(?)) "
            "GROUP BY seq ORDER BY seq"
        )
        rows = self._db.read(query, logs is None, json.dumps(list(logs or ())))
        return pd.DataFrame(rows, columns=["log", "blocks", "tokens", "bytes"]).set_index("log")

    def matching(
        self, wanted: Filter, offset: int = 0, limit: int | None = None, order: Order = OLDEST_FIRST
    ) -> list[str]:
        condition, values = wanted.sql
        listed = f"SELECT id FROM logs LEFT JOIN facts USING (seq) WHERE {condition} ORDER BY {order.sql}"
        query = f"{listed} LIMIT ? OFFSET ?"
        return [id for (id,) in self._db.read(query, *values, -1 if limit is None else limit, offset)]

    def count(self, wanted: Filter) -> int:
        condition, values = wanted.sql
        query = f"SELECT count(*) FROM logs LEFT JOIN facts USING (seq) WHERE {condition}"
        return int(self._db.read(query, *values)[0][0])

    def extremes(self) -> tuple[int, int]:
        [(rounds,)] = self._db.read("SELECT coalesce(max(rounds), 0) FROM facts")
        held = "SELECT sum(bytes) AS held FROM blocks GROUP BY seq"
        [(nbytes,)] = self._db.read(f"SELECT coalesce(max(held), 0) FROM ({held})")
        return int(rounds), int(nbytes)

    @property
    def nbytes(self) -> int:
        """The bytes of all files in the store's folder."""
        paths = (Path(parent) / file for parent, _, files in os.walk(self.path) for file in files)
        return sum(map(file_size, paths))

    def packed(self) -> Iterator[Packed]:
        for problem in upkeep.row_problems(self._db, self.dim):
            raise StoreError(
                f"Log {problem.log} cannot be exported: {problem.problem}. prune() removes what is damaged."
            )
        last = 0
        page = "SELECT seq, id, embedding, json FROM logs JOIN traces USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?"
        blocks = "SELECT key, tokens, bytes, sha256 FROM blocks WHERE seq = ? ORDER BY key"
        while rows := self._db.read(page, last, PAGE):
            for seq, log, embedding, text in rows:
                yield Packed(log, embedding, text, tuple(BlockRow(*row) for row in self._db.read(blocks, seq)))
            last = rows[-1][0]

    def content(self, row: BlockRow) -> bytes:
        return self._files.content(row.sha256, row.bytes)

    def export(self, path: str | Path) -> Path:
        with closing(self._packed_at_once()) as logs:
            return write_archive(at(path), self.header, logs, self.content)

    def _packed_at_once(self) -> Generator[Packed, None, None]:
        """All logs of one moment, which ends with them: the blocks are read after it.

        As long as it lasts, the write-ahead log of whoever writes only grows.
        """
        with self._db.snapshot():
            yield from self.packed()
