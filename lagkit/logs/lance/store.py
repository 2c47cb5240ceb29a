"""The log store in LanceDB: two tables, on an object store or a disk, for any number of writers."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pandas as pd

from lagkit.logs.batch import Batch, LogRow
from lagkit.logs.files import NewBlock
from lagkit.logs.header import Header
from lagkit.logs.lance import upkeep
from lagkit.logs.lance.catalog import Catalog
from lagkit.logs.lance.reading import LanceLogs
from lagkit.logs.lance.refusals import Conflict
from lagkit.logs.lance.schema import (
    BLOCKS,
    LOGS,
    BlockEntry,
    block_rows,
    blocks_schema,
    log_rows,
    logs_schema,
)
from lagkit.logs.lance.tables import Place
from lagkit.logs.upkeep import Problem, check_bound
from lagkit.util.errors import StoreError, StoreExists
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


class LanceStore(LanceLogs):
    """The logs of one model and one embedder at one address: any number of processes may write at the same time.

    A log is committed after its blocks, by its id, which LanceDB lets only one writer add: none is lost, none is there
    twice, and a kill at any moment leaves at most blocks that no log names (`verify` lists them, `prune` removes them
    when they are an hour old). Order is that of the commits. Credentials come from the environment alone.
    """

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
        return self._cache.get(entry.sha256) is not None or self._fetch(entry)[1] is None

    def _commit(self, rows: list[LogRow], blocks: list[NewBlock]) -> None:
        """Blocks first, then logs, by their ids: a log that can be seen is whole."""
        if blocks:
            self._blocks.table.append(block_rows(blocks, int(time.time())))
            self._blocks.stale()
            for block in blocks:
                self._cache.put(block.row.sha256, block.content)
        if rows:
            self._logs.sync()
            lacking = {row[0]: row for row in rows if row[0] not in self._logs.by_id}
            if lacking:
                told = [(row, hashlib.sha256(row[2].encode()).hexdigest()) for row in lacking.values()]
                self._logs.table.merge("id", log_rows(self.header, told))
                self._logs.stale()

                self._gather()

    def _gather(self) -> None:
        """Write the table of logs anew as one file, where it has become many: they are all read at every merge."""
        if self._logs.table.fragments() > FRAGMENTS:
            with suppress(Conflict):  # another process is doing the same
                self._logs.table.compact(KEEP)

    def _tidy(self) -> None:
        """Nothing: what was not committed is not seen."""

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
        owned = [
            block for log in logs if not isinstance(log, int) for block in self._blocks.by_log.get(log.id, {}).values()
        ]
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
            self._compact(self._logs)
            # To write all blocks anew takes its time.
            if gone or self._blocks.has_holes or self.nbytes < SMALL:
                self._compact(self._blocks)
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

    def _compact(self, catalog: Catalog[Any]) -> None:
        catalog.table.compact(KEEP)
        catalog.stale()


def _found(uri: str) -> set[str]:
    """What a local folder holds that is no table; LanceDB looks for tables only."""
    if "://" in uri or not os.path.lexists(uri):
        return set()
    refuse_links(Path(uri), StoreError, depth=3)
    try:
        return {entry.name for entry in Path(uri).iterdir() if entry.suffix != ".lance"}
    except OSError as error:
        raise StoreError(f"No log store can be made at {uri} ({error}).") from error
