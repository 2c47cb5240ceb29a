"""The log store in LanceDB: two tables, on an object store or a disk, for any number of writers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pandas as pd

from lagkit.logs.base import Batch, Store
from lagkit.logs.files import BlockRow, LogRow, NewBlock, Packed, digest_of
from lagkit.logs.header import Header
from lagkit.logs.lance import upkeep
from lagkit.logs.lance.cache import DiskCache
from lagkit.logs.lance.catalog import (
    AGAIN,
    BLOCKS,
    HEADER,
    LOGS,
    TRACES,
    BlockEntry,
    Blocks,
    Catalog,
    LogEntry,
    Logs,
    block_rows,
    blocks_schema,
    log_rows,
    logs_schema,
    pages,
)
from lagkit.logs.lance.listing import Listing
from lagkit.logs.lance.tables import Conflict, Place
from lagkit.logs.upkeep import Problem, check_bound
from lagkit.logs.vectors import LogVectors
from lagkit.model.kv import KVBlock
from lagkit.types import Trace
from lagkit.util.errors import DamagedBlock, StoreError, StoreExists
from lagkit.util.paths import refuse_links

# add_many and put_blocks commit once so many seconds have passed or so many bytes wait: a commit takes some ten
# requests, and a kill costs what waits.
COMMIT_EVERY = 2.0
COMMIT_BYTES = 64 * 2**20
# Beyond so many data files the table of logs is written anew as one.
FRAGMENTS = 100
# So many bytes of blocks are written anew even if prune knows of no room that this would free.
SMALL = 2**30
# Other processes may still read versions that are not older.
KEEP = timedelta(minutes=10)


class LanceStore(Store):
    """The logs of one model and one embedder at one address: any number of processes may write at the same time.

    A log is committed after its blocks, by its id, which LanceDB lets only one writer add: none is lost, none is there
    twice, and a kill at any moment leaves at most blocks that no log names (`verify` lists them, `prune` removes them
    when they are an hour old). Order is that of the commits. Credentials come from the environment alone.

    What other processes change is seen at once by whatever looks at all logs (`ids`, `search`, `len`, ...). A single
    log or block that is known is taken from memory and cache, without asking whether it was deleted; one that is not
    known is asked for, unless the last look was less than `catalog.FRESH` seconds ago.
    """

    _held = "in logs and blocks"

    def __init__(self, uri: str, write: bool = False, cache: DiskCache | None = None) -> None:
        """Use `create` or `open`, or this one to say where copies of what was read stay (`cache`)."""
        try:
            if "://" not in uri:
                if not Path(uri).is_dir():  # which LanceDB would make
                    raise FileNotFoundError(uri)
                refuse_links(Path(uri), StoreError, depth=3)
            place = Place(uri)
            logs = place.open(LOGS)
            blocks = place.open(BLOCKS)
        except FileNotFoundError:
            raise StoreError(f"There is no log store at {uri}; make one with LanceStore.create.") from None
        told = (logs.schema.metadata or {}).get(HEADER, b"")
        super().__init__(uri, Header.parse(told, f"The table {LOGS} at {uri}"), write)
        self._cache = cache if cache is not None else DiskCache.of(uri)
        self._log_rows, self._block_rows = Logs(logs, self.dim, uri), Blocks(blocks)
        self._vectors = LogVectors(self._log_rows)
        self._listing = Listing(self._log_rows, self._block_rows, uri)

    def close(self) -> None:
        self._closed = True
        self._listing.close()

    @classmethod
    def _make(cls, place: str, header: Header) -> Self:
        found = _found(place)
        tables = Place(place)
        found |= set(tables.names())
        if LOGS in found:
            raise StoreExists(f"There is a log store at {place} already: open it, or create one elsewhere.")
        # A create that was killed leaves the blocks; the logs, which have the header, come last.
        if foreign := sorted(found - {BLOCKS}):
            raise StoreError(f"{place} holds other things ({', '.join(foreign[:3])}): give a log store its own place.")
        tables.create(BLOCKS, blocks_schema(), exist_ok=True)
        try:
            tables.create(LOGS, logs_schema(header))
        except FileExistsError:  # by another process, just now
            raise StoreExists(f"There is a log store at {place} already: open it, or create one elsewhere.") from None
        return cls(place, True)

    @classmethod
    def _attach(cls, place: str, write: bool, expected: Mapping[str, Any]) -> Self:
        store = cls(place, write)
        store.header.check(place, **expected)
        return store

    @property
    def _logs(self) -> Logs:
        self._check_open()
        return self._log_rows

    @property
    def _blocks(self) -> Blocks:
        self._check_open()
        return self._block_rows

    def _entries(self) -> list[LogEntry]:
        """All logs of the newest version."""
        self._logs.sync()
        return self._logs.entries

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self._entries()]

    def __len__(self) -> int:
        return len(self._entries())

    def __contains__(self, log: object) -> bool:
        return self._logs.find(log) is not None

    def get(self, log: str) -> Trace:
        entry = self._entry(log)
        kept = self._cache.get(entry.digest)
        if kept is not None:
            return self._trace(log, kept.decode())
        [text] = self._logs.texts([entry]).values()
        if text is not None:
            self._cache.put(entry.digest, text.encode())
        return self._trace(log, text)

    def _entry(self, log: str) -> LogEntry:
        entry = self._logs.find(log)
        if entry is None:
            raise self._unknown(log)
        return entry

    def traces(self, logs: Sequence[str] | None = None) -> Iterator[Trace]:
        entries = self._entries() if logs is None else list(map(self._entry, logs))
        for page in pages(entries, TRACES):
            texts = self._logs.texts(page)
            yield from (self._trace(entry.id, texts[entry.rowid]) for entry in page)

    def block_keys(self, log: str) -> list[str]:
        if log not in self:
            raise self._unknown(log)
        self._blocks.sync()
        return sorted(block.key for block in self._blocks.of(log))

    def find(self, log: str, key: str) -> BlockRow | None:
        entry = self._blocks.find(log, key) if log in self else None
        return None if entry is None else entry.row

    def load(self, row: BlockRow) -> KVBlock:
        content = self._cache.get(row.digest)
        if content is None:
            content = self.content(row)
            self._cache.put(row.digest, content)
        return KVBlock.parse(content, f"{row.digest} at {self.path}", self.codec)

    def content(self, row: BlockRow) -> bytes:
        tried: set[int] = set()
        problem = f"of {row.bytes:,} bytes was deleted"
        while entry := next((e for e in self._block_rows.of_content(row.digest) if e.rowid not in tried), None):
            content, flaw = self._block_rows.fetch(entry)
            if flaw is None:
                return content
            tried.add(entry.rowid)
            problem = f"{entry.key!r} of log {entry.log} {flaw}"
            self._block_rows.sync()  # another process may have put a sound one in its place
        raise DamagedBlock(
            f"The KV block {problem} at {self.path}. All other blocks stay usable; verify() lists what is damaged, "
            "prune() removes it, and then the block can be added again."
        )

    def verify(self) -> pd.DataFrame:
        problems = [problem for problem, _ in upkeep.problems(self)]
        return pd.DataFrame(problems, columns=Problem._fields)

    def _query(self, sql: str, *values: Any, facts: bool = False) -> list[tuple[Any, ...]]:
        self._check_open()
        return self._listing.query(sql, values, facts)

    def _entries_with_blocks(self) -> list[LogEntry]:
        self._blocks.sync()
        return self._entries()

    @property
    def nbytes(self) -> int:
        """The bytes of all traces, embeddings and blocks; what LanceDB writes around them is not counted."""
        return sum(map(self._size, self._entries_with_blocks()))

    def _size(self, entry: LogEntry) -> int:
        """The bytes of a log with its blocks, as of the last look."""
        return entry.bytes + 4 * self.dim + sum(block.bytes for block in self._block_rows.of(entry.id))

    def packed(self) -> Iterator[Packed]:
        entries = self._entries_with_blocks()
        for page in pages(entries, TRACES):
            texts, vectors = self._logs.texts(page), self._logs.embeddings(page)
            for entry in page:
                text, vector = texts[entry.rowid], vectors.get(entry.rowid)
                if text is None or vector is None:
                    what = "trace" if text is None else "embedding"
                    raise StoreError(
                        f"Log {entry.id} cannot be exported: its {what} is damaged. prune() removes what is damaged."
                    )
                blocks = sorted(block.row for block in self._blocks.of(entry.id))
                yield Packed(entry.id, vector, text, tuple(blocks))

    def _batch(self, *, whole: bool = False) -> Batch:
        return Batch(self._commit, COMMIT_EVERY, COMMIT_BYTES)

    def _put(self, batch: Batch, rows: list[LogRow], blocks: list[NewBlock]) -> None:
        self._check_open()
        waiting = sum(len(embedding) + len(text) for _, embedding, text in rows)
        batch.put(rows, blocks, waiting + sum(len(block.content) for block in blocks))

    def _is_sound(self, log: str, key: str) -> bool:
        """Whether the store has a block, of a log that is there or about to come, that is what was stored."""
        entry = self._blocks.find(log, key)
        if entry is None:
            return False
        return self._cache.get(entry.digest) is not None or self._blocks.fetch(entry)[1] is None

    def _commit(self, rows: list[LogRow], blocks: list[NewBlock]) -> None:
        """Blocks first, then logs, by their ids: a log that can be seen is whole."""
        if blocks:
            self._blocks.table.append(block_rows(blocks, int(time.time())))
            self._blocks.stale()
            for block in blocks:
                self._cache.put(block.row.digest, block.content)
        if rows:
            self._logs.sync()
            lacking = {row[0]: row for row in rows if row[0] not in self._logs.by_id}
            if lacking:
                told = [(row, digest_of(row[2].encode())) for row in lacking.values()]
                self._logs.table.merge("id", log_rows(self.header, told))
                self._logs.stale()
                if self._logs.table.fragments() > FRAGMENTS:  # which are all read at every merge
                    with suppress(Conflict):  # another process is doing the same
                        self._logs.table.compact(KEEP)

    def delete(self, logs: Iterable[str]) -> None:
        with self._writing():
            logs = [logs] if isinstance(logs, str) else list(dict.fromkeys(logs))
            self._entries_with_blocks()
            for log in logs:
                if log not in self._logs.by_id:
                    raise StoreError(f"There is no log {log!r} in the store at {self.path}; nothing was deleted.")
            self._remove([self._logs.by_id[log] for log in logs], [])

    def _remove(self, logs: Iterable[Any], blocks: Iterable[BlockEntry | int]) -> None:
        """Delete entries, or rows by their ids, logs with their blocks; logs first, so that none is seen in part."""
        logs = list(logs)
        ids = {log.id for log in logs if not isinstance(log, int)}
        owned = [block for log in ids for block in self._blocks.of(log)]
        logs += [rowid for rowid, what in self._logs.damaged if what.removeprefix(AGAIN) in ids]
        for catalog, gone in ((self._logs, logs), (self._blocks, [*owned, *blocks])):
            rowids = {entry if isinstance(entry, int) else entry.rowid for entry in gone}
            if rowids:
                catalog.table.delete(sorted(rowids))
                catalog.drop(rowids)

    def prune(self, max_bytes: int | None = None) -> pd.DataFrame:
        check_bound(max_bytes)
        with self._writing():
            gone, logs, blocks = [], set(), set()
            for problem, (its_logs, its_blocks) in upkeep.damaged(self):
                gone.append((*problem, sum(block.bytes for block in its_blocks if isinstance(block, BlockEntry))))
                logs.update(its_logs)
                blocks.update(its_blocks)
            self._remove(logs, blocks)
            self._remove([], self._blocks.doubles)
            if max_bytes is not None:
                why = f"was the oldest in a store above {max_bytes:,} bytes"
                gone += [("", log, why, size) for log, size in self._remove_oldest(max_bytes)]
            catalogs: list[Catalog[Any]] = [self._logs]
            # To write all blocks anew takes its time.
            if gone or self._blocks.has_holes or self.nbytes < SMALL:
                catalogs.append(self._blocks)
            for catalog in catalogs:
                catalog.table.compact(KEEP)
                catalog.stale()
        return pd.DataFrame(gone, columns=[*Problem._fields, "bytes"])

    def evict(self, max_bytes: int) -> list[str]:
        check_bound(max_bytes, "capped at")
        with self._writing():
            return [log for log, _ in self._remove_oldest(max_bytes)]

    def _remove_oldest(self, max_bytes: int) -> list[tuple[str, int]]:
        """Remove the oldest logs until the rest has at most `max_bytes`; returns their ids and bytes."""
        excess, old = self.nbytes - max_bytes, []
        for entry in self._logs.entries:
            if excess <= 0:
                break
            old.append((entry, self._size(entry)))
            excess -= old[-1][1]
        self._remove([entry for entry, _ in old], [])
        return [(entry.id, size) for entry, size in old]


def _found(uri: str) -> set[str]:
    """What a local folder holds that is no table; LanceDB looks for tables only."""
    if "://" in uri or not os.path.lexists(uri):
        return set()
    try:
        found = {entry.name for entry in Path(uri).iterdir() if entry.suffix != ".lance"}
    except OSError as error:
        raise StoreError(f"No log store can be made at {uri} ({error}).") from error
    if not found:  # else no store is made there, whatever the links lead to
        refuse_links(Path(uri), StoreError, depth=3)
    return found
