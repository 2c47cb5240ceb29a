"""A store's two tables: their schemas, the checksums of their rows, and what they hold, kept in memory.

`logs`: a log a row, and in the schema's metadata the store's header. `blocks`: a KV block a row, whose bytes, those of
`KVBlock.dump`, stand apart from the other columns. Both are read once and then updated, which saves requests to the
object store.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from lagkit.logs.database import crc32
from lagkit.logs.embeddings import PAGE, Matrix, Seqs, matrix
from lagkit.logs.files import BlockRow, LogRow, NewBlock, digest_of
from lagkit.logs.header import Header
from lagkit.logs.lance.tables import Lost, Table
from lagkit.util.paths import is_digest

LOGS, BLOCKS = "logs", "blocks"
HEADER = b"lagkit"

# Without a key that is declared as such, two writers who add a log at the same moment would both succeed.
_KEY = {"lance-schema:unenforced-primary-key": "true"}
_BLOB = {"lance-encoding:blob": "true"}


class LogEntry(NamedTuple):
    """A log in the catalog: digest and bytes are those of its trace as JSON."""

    rowid: int
    id: str
    digest: str
    bytes: int


class BlockEntry(NamedTuple):
    """A block in the catalog; `written` is in seconds since 1970, by the writer's clock."""

    rowid: int
    log: str
    key: str
    tokens: int
    bytes: int
    digest: str
    written: int

    @property
    def row(self) -> BlockRow:
        return BlockRow(self.key, self.tokens, self.bytes, self.digest)


def logs_schema(header: Header) -> pa.Schema:
    """The schema of the table `logs` of a store with this header."""
    fields = [
        pa.field("id", pa.string(), nullable=False, metadata=_KEY),
        ("digest", pa.string()),
        ("bytes", pa.int64()),
        ("crc", pa.int64()),
        ("embedding", pa.list_(pa.float32(), header.dim)),
        ("embedding_crc", pa.int64()),
        ("trace", pa.string()),
    ]
    return pa.schema(fields, metadata={HEADER: header.to_json()})


def blocks_schema() -> pa.Schema:
    """The schema of the table `blocks`."""
    fields = [("log", pa.string()), ("key", pa.string()), ("tokens", pa.int64()), ("bytes", pa.int64())]
    fields += [("digest", pa.string()), ("written", pa.int64()), ("crc", pa.int64())]
    return pa.schema([*fields, pa.field("data", pa.large_binary(), metadata=_BLOB)])


def crc(entry: LogEntry | BlockEntry) -> int:
    """The checksum of an entry's columns."""
    return crc32(*map(str, entry[1:]))


def log_rows(header: Header, logs: Iterable[tuple[LogRow, str]]) -> pa.Table:
    """Rows of the table `logs`, of logs with the digest of their traces."""
    rows = []
    for (id, embedding, text), digest in logs:
        entry = LogEntry(0, id, digest, len(text.encode()))
        own = {"crc": crc(entry), "embedding": np.frombuffer(embedding, "<f4"), "trace": text}
        rows.append(entry._asdict() | own | {"embedding_crc": crc32(id, embedding)})
    return pa.Table.from_pylist(rows, schema=logs_schema(header))


def block_rows(blocks: Iterable[NewBlock], written: int) -> pa.Table:
    """Rows of the table `blocks`."""
    rows = []
    for log, row, content in blocks:
        entry = BlockEntry(0, log, row.key, row.tokens, row.bytes, row.digest, written)
        rows.append(entry._asdict() | {"crc": crc(entry), "data": content})
    return pa.Table.from_pylist(rows, schema=blocks_schema())


Entry = TypeVar("Entry", LogEntry, BlockEntry)
# Traces read at a time.
TRACES = 512
# Seconds for which a missing entry is taken to be missing: a look-up of a thousand missing blocks makes one request.
FRESH = 0.5
# What is wrong with a row whose id another one has before it: LanceDB declares ids unique, and lets others append.
AGAIN = "holds once more log "


def pages(entries: Sequence[LogEntry], size: int) -> Iterator[Sequence[LogEntry]]:
    """Entries in parts."""
    return (entries[start : start + size] for start in range(0, len(entries), size))


class Catalog(ABC, Generic[Entry]):
    """The sound rows of a table, oldest first, and what is wrong with the others.

    Rows are only appended, so following means to read the end of the table, as long as its beginning is the same.
    """

    def __init__(self, table: Table, kind: type[Entry]) -> None:
        self.table = table
        self._kind: type[Any] = kind
        self._columns: tuple[str, ...] = (*self._kind._fields[1:], "crc")
        self._turn = threading.RLock()
        self.version, self._looked = 0, float("-inf")
        self._forget()

    def _forget(self) -> None:
        self.entries: list[Entry] = []
        self.damaged: list[tuple[int, str]] = []
        self._last = -1

    def sync(self) -> None:
        """Bring it up to date with the newest version: one request if there is no newer one."""
        with self._turn:
            looked, version = time.monotonic(), self.table.latest()
            if version != self.version:
                rows = self._tail()
                if rows is None:
                    self._forget()
                    for part in self._all():
                        self._take(part)
                    self._went()
                else:
                    self._take(rows)
            self._looked, self.version = looked, version

    @property
    def has_holes(self) -> bool:
        """Whether rows were deleted before ones that are there: they may take room until the table is compacted."""
        return self._last + 1 > len(self.entries) + len(self.damaged)

    def look(self) -> None:
        """`sync`, unless that was a moment ago."""
        with self._turn:  # another thread may be looking
            if time.monotonic() - self._looked > FRESH:
                self.sync()

    def stale(self) -> None:
        """Mark as changed by this process."""
        self._looked = float("-inf")

    def drop(self, rowids: Collection[int]) -> None:
        """Forget rows that this process has deleted; the next `sync` tells whether that was all that changed."""
        with self._turn:
            kept: list[Entry] = [entry for entry in self.entries if entry.rowid not in rowids]
            damaged: list[tuple[int, str]] = [(rowid, what) for rowid, what in self.damaged if rowid not in rowids]
            self._forget()
            self.entries, self.damaged = kept, damaged
            for entry in kept:
                self._note(entry)
            self._last = max([*(entry.rowid for entry in kept), *(rowid for rowid, _ in damaged)], default=-1)
            self._went()
            self.stale()

    def _tail(self) -> pa.Table | None:
        """The rows behind those that are known; None if the known ones are no longer the beginning of the table."""
        known, rows = len(self.entries) + len(self.damaged), self.table.count()
        if not known or rows < known:
            return None
        try:
            found = self.table.tail(known - 1, rows, self._columns)
        except Lost:
            return None
        return found.slice(1) if found["_rowid"][0].as_py() == self._last else None

    def _all(self) -> list[pa.Table]:
        try:
            return [self.table.scan(self._columns)]
        except Lost:
            rowids = self.table.scan([])["_rowid"].to_pylist()
            self._last = max(rowids, default=-1)
            parts, lost = self.table.salvage(rowids, self._columns)
            self.damaged += [(rowid, f"cannot be read: {flaw}") for rowid, flaw in lost.items()]
            return parts

    def _take(self, rows: pa.Table) -> None:
        names = ("_rowid", *self._columns)
        for row in zip(*(rows[name].to_pylist() for name in names), strict=True):
            entry = self._kind(*row[:-1])
            if crc(entry) != row[-1]:
                flaw = "is damaged: its checksum is another"
            else:  # a file in the cache is named by its digest
                flaw = self._note(entry) if is_digest(entry.digest) else "is damaged: its digest is none"
            if flaw:
                self.damaged.append((entry.rowid, flaw))
            else:
                self.entries.append(entry)
            self._last = max(self._last, entry.rowid)

    @abstractmethod
    def _note(self, entry: Entry) -> str:
        """Called with each sound entry that is new; what is wrong with its row all the same, if anything is."""

    def _went(self) -> None:
        """Called when entries may have gone, or come back."""


class Logs(Catalog[LogEntry]):
    """The logs of a store; for a search they are numbered by their row ids."""

    def __init__(self, table: Table, dim: int, folder: str) -> None:
        self.dim, self.folder = dim, folder
        self._changes = 0  # times that logs may have gone
        super().__init__(table, LogEntry)

    def _forget(self) -> None:
        super()._forget()
        self.by_id: dict[str, LogEntry] = {}

    def _note(self, entry: LogEntry) -> str:
        known = self.by_id.setdefault(entry.id, entry)
        return "" if known is entry else AGAIN + entry.id

    def find(self, log: object) -> LogEntry | None:
        """A log that is known, or that the newest version has."""
        if log not in self.by_id:
            self.look()
        return self.by_id.get(log) if isinstance(log, str) else None

    def _went(self) -> None:
        self._changes += 1

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._turn:
            self.sync()
            yield

    def deletions(self) -> int:
        return self._changes

    def seqs(self) -> Seqs:
        return np.array([entry.rowid for entry in self.entries], np.int64)

    def all(self) -> Matrix:
        with self.snapshot():
            found = [vectors for _, _, vectors in self.after(-1)]
        return np.concatenate(found) if found else matrix([], self.dim, self.folder)

    def after(self, seq: int) -> Iterator[tuple[list[int], list[str], Matrix]]:
        entries = self.entries[bisect_right(self.entries, seq, key=attrgetter("rowid")) :]
        for page in pages(entries, PAGE):
            found = self.embeddings(page)
            there = [entry for entry in page if entry.rowid in found]
            if there:
                vectors = matrix((found[entry.rowid] for entry in there), self.dim, self.folder)
                yield [entry.rowid for entry in there], [entry.id for entry in there], vectors

    def embeddings(self, entries: Sequence[LogEntry]) -> dict[int, bytes | None]:
        """Embeddings by row id, of logs that were not deleted meanwhile; None for a damaged one."""
        ids = {entry.rowid: entry.id for entry in entries}
        parts, lost = self.table.salvage(list(ids), ["embedding", "embedding_crc"])
        found: dict[int, bytes | None] = dict.fromkeys(lost)
        for rows in parts:
            columns = (rows["_rowid"].to_pylist(), rows["embedding"], rows["embedding_crc"].to_pylist())
            for rowid, vector, expected in zip(*columns, strict=True):
                raw = vector.values.to_numpy(zero_copy_only=False).astype("<f4").tobytes() if vector.is_valid else b""
                found[rowid] = raw if crc32(ids[rowid], raw) == expected else None
        return found

    def texts(self, entries: Sequence[LogEntry]) -> dict[int, str | None]:
        """Traces as JSON by row id; None for one that is missing, or not what its digest says."""
        found: dict[int, str | None] = dict.fromkeys(entry.rowid for entry in entries)
        parts, _ = self.table.salvage(list(found), ["trace"])
        texts: dict[int, str | None] = {}
        for rows in parts:
            texts |= zip(rows["_rowid"].to_pylist(), rows["trace"].to_pylist(), strict=True)
        for entry in entries:
            text = texts.get(entry.rowid)
            if text is not None and digest_of(text.encode()) == entry.digest:
                found[entry.rowid] = text
        return found


class Blocks(Catalog[BlockEntry]):
    """The blocks of a store; of several under one key the newest stands, the others are `doubles`."""

    def __init__(self, table: Table) -> None:
        super().__init__(table, BlockEntry)

    def _forget(self) -> None:
        super()._forget()
        self.by_log: dict[str, dict[str, BlockEntry]] = {}
        self._by_content: dict[str, list[BlockEntry]] = {}
        self.doubles: list[BlockEntry] = []

    def _note(self, entry: BlockEntry) -> str:
        own = self.by_log.setdefault(entry.log, {})
        if entry.key in own:
            self.doubles.append(own[entry.key])
        own[entry.key] = entry
        self._by_content.setdefault(entry.digest, []).append(entry)
        return ""

    def of(self, log: str) -> Collection[BlockEntry]:
        """The blocks of a log."""
        return self.by_log.get(log, {}).values()

    def of_content(self, digest: str) -> list[BlockEntry]:
        """The blocks with this content."""
        return self._by_content.get(digest, [])

    def find(self, log: str, key: str) -> BlockEntry | None:
        """A block that is known, or that the newest version has."""
        if key not in self.by_log.get(log, ()):
            self.look()
        return self.by_log.get(log, {}).get(key)

    def fetch(self, entry: BlockEntry) -> tuple[bytes, str | None]:
        """A block's bytes as the store has them, and what is wrong with them, in a few words."""
        try:
            content = self.table.blob("data", entry.rowid) or b""
        except Lost as error:
            return b"", f"is damaged: it cannot be read ({error.flaw})"
        except IndexError:
            return b"", "is missing"
        if len(content) != entry.bytes:
            return b"", f"is damaged: it has {len(content):,} bytes instead of {entry.bytes:,}"
        if digest_of(content) != entry.digest:
            return b"", "is damaged: its content is not what was stored"
        return content, None
