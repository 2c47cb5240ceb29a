"""The log store: traces and embeddings in SQLite, each KV block in a safetensors file, FAISS over the embeddings."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd
from filelock import FileLock, Timeout

from lagkit.logs import database, quantised, upkeep
from lagkit.logs.base import Batch, Store
from lagkit.logs.database import OWN_BLOCK, SOUND_BLOCK, SOUND_JSON, Database
from lagkit.logs.embeddings import Embeddings
from lagkit.logs.files import BlockFiles, BlockRow, LogRow, NewBlock, Packed, block_name
from lagkit.logs.header import NAME, Header
from lagkit.logs.vectors import LogVectors
from lagkit.model.kv import KVBlock
from lagkit.types import Trace
from lagkit.util.errors import StoreError, StoreExists, StoreFull, StoreLocked
from lagkit.util.paths import file_size, refuse_links

__all__ = ["LogStore", "Store"]

LOCK = "write.lock"
# add_many commits once so many seconds have passed: the most work that a kill can cost, shared by one sync.
COMMIT_EVERY = 0.2
# Bytes that are freed at first where the disk has no room for the database to be changed.
ROOM = 1 << 20
PAGE = 256


class LogStore(Store):
    """The logs of one model and one embedder in one folder: one writer at a time, and any number of readers.

    A block's file is on disk, whole and under its name, before the row that names it is committed: a kill at any
    moment loses no committed log and leaves at most files that no log names (`verify` lists, `prune` removes them).
    What another process commits is seen at once.
    """

    path: Path

    def __init__(self, folder: Path, head: Header, lock: FileLock | None) -> None:
        """Use `create` or `open`."""
        super().__init__(folder, head, write=lock is not None)
        self._files = BlockFiles(folder, head.codec)
        self._db = Database(folder, self.writable)
        # Of hashed words codes miss too much, 6% of the three nearest of 33,000 sentences (benchmarks/search_words.py).
        dense = not head.embedder.startswith("hash-")
        self._vectors = LogVectors(Embeddings(self._db, head.dim), quantise=dense, write=self.writable)
        self._lock = lock
        self._counted = False
        # Files that may have no row: written and not yet committed, or just deleted.
        self._loose: set[str] = set()

    @classmethod
    def _make(cls, place: str, header: Header) -> Self:
        folder = Path(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = {entry.name for entry in folder.iterdir()}
        except OSError as error:
            raise StoreError(f"No log store can be made at {folder} ({error}).") from error
        if NAME in found:
            raise StoreExists(f"There is a log store at {folder} already: open it, or create one elsewhere.")
        # What a create that was killed leaves may stand there; its header would have come last.
        foreign = sorted(n for n in found if not n.startswith((database.NAME, NAME)) and n not in (LOCK, "kv"))
        if foreign:
            raise StoreError(
                f"{folder} holds other things ({', '.join(foreign[:3])}): give a log store its own folder."
            )
        refuse_links(folder, StoreError, depth=2)
        store = cls._locked(folder, header, new=True)
        try:
            header.write(folder)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _attach(cls, place: str, write: bool, expected: Mapping[str, Any]) -> Self:
        folder = Path(place)
        head = Header.read(folder)
        head.check(folder, **expected)
        return cls._locked(folder, head) if write else cls(folder, head, None)

    @classmethod
    def _locked(cls, folder: Path, head: Header, *, new: bool = False) -> Self:
        lock = FileLock(folder / LOCK, timeout=0, thread_local=False)  # any thread may close the store
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreLocked(
                f"Another process, or another LogStore of this one, is writing to {folder}: wait until it closes the "
                "store, or open it for reading."
            ) from error
        except OSError as error:
            raise StoreError(f"The log store at {folder} cannot be written to ({error}).") from error
        try:
            if new:
                database.prepare(folder)
            return cls(folder, head, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Close the store; a second time does nothing.

        Before that, a writer of many logs writes the codes from which the next search starts, unless they are there.
        """
        try:
            if not self._closed:
                self._vectors.settle()
        finally:
            self._release()

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self.close()
        else:  # at once: an interruption must not wait for codes
            self._release()

    def _release(self) -> None:
        self._closed = True
        self._db.close()
        if self._lock is not None:
            self._lock.release()

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
        yield from (self._trace(log, text) for _, log, text in self._rows(f"id, {SOUND_JSON}"))

    def _rows(self, columns: str) -> Iterator[tuple[Any, ...]]:
        """The number and these columns of all logs, oldest first, a page in memory at a time."""
        last = 0
        page = f"SELECT seq, {columns} FROM logs JOIN traces USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?"
        while rows := self._db.read(page, last, PAGE):
            yield from rows
            last = rows[-1][0]

    def block_keys(self, log: str) -> list[str]:
        if log not in self:
            raise self._unknown(log)
        query = f"SELECT key FROM blocks JOIN logs USING (seq) WHERE id = ? AND {SOUND_BLOCK} AND {OWN_BLOCK}"
        return [key for (key,) in self._db.read(query, log, log)]

    def load(self, row: BlockRow) -> KVBlock:
        return self._files.load(row.digest, row.bytes)

    def find(self, log: str, key: str) -> BlockRow | None:
        query = "SELECT key, tokens, bytes, digest FROM blocks JOIN logs USING (seq) WHERE id = ? AND key = ?"
        rows = self._db.read(f"{query} AND {SOUND_BLOCK} AND {OWN_BLOCK}", log, key, log)
        return BlockRow(*rows[0]) if rows else None

    def verify(self) -> pd.DataFrame:
        found = upkeep.problems(self._db, self._files, self.dim)
        return pd.DataFrame(list(found), columns=upkeep.Problem._fields)

    def _query(self, sql: str, *values: Any, facts: bool = False) -> list[tuple[Any, ...]]:
        return self._db.read(sql, *values)

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
        blocks = "SELECT key, tokens, bytes, digest FROM blocks WHERE seq = ? ORDER BY key"
        for seq, log, embedding, text in self._rows("id, embedding, json"):
            yield Packed(log, embedding, text, tuple(BlockRow(*row) for row in self._db.read(blocks, seq)))

    def content(self, row: BlockRow) -> bytes:
        return self._files.content(row.digest, row.bytes)

    def _packed_at_once(self) -> Generator[Packed, None, None]:
        with self._db.snapshot():  # as long as it lasts, the write-ahead log of whoever writes only grows
            yield from self.packed()

    def _batch(self, *, whole: bool = False) -> Batch:
        return Batch(self._commit, float("inf") if whole else COMMIT_EVERY)

    def _put(self, batch: Batch, rows: list[LogRow], blocks: list[NewBlock]) -> None:
        for block in blocks:
            self._loose.add(block.row.digest)
            self._files.put(block)
        batch.put(rows, [(block.log, block.row) for block in blocks])

    def delete(self, logs: Iterable[str]) -> None:
        with self._writing():
            logs = [logs] if isinstance(logs, str) else list(dict.fromkeys(logs))
            for log in logs:
                if log not in self:
                    raise StoreError(f"There is no log {log!r} in the store at {self.path}; nothing was deleted.")
                files = f"SELECT digest FROM blocks JOIN logs USING (seq) WHERE id = ? AND {SOUND_BLOCK}"
                self._loose |= {digest for (digest,) in self._db.read(files, log)}
            with self._db.transaction() as connection:
                connection.executemany("DELETE FROM logs WHERE id = ?", [(log,) for log in logs])

    def prune(self, max_bytes: int | None = None) -> pd.DataFrame:
        upkeep.check_bound(max_bytes)
        with self._writing():
            self._files.demand(self._db.read("SELECT 1 FROM blocks LIMIT 1") != [])
            gone = self._removed(upkeep.orphans(self._db, self._files))
            gone += [(*problem, 0) for problem in upkeep.row_problems(self._db, self.dim)]
            upkeep.delete_damaged_rows(self._db)
            damaged = list(upkeep.block_problems(self._db, self._files))
            with self._db.transaction() as connection:
                digests = {Path(problem.file).stem for problem in damaged}
                connection.executemany("DELETE FROM blocks WHERE digest = ?", [(digest,) for digest in digests])
            gone += self._removed([*damaged, *upkeep.code_problems(self.path, self.dim)])
            gone += self._removed(upkeep.orphans(self._db, self._files))
            if max_bytes is not None:
                excess = self.nbytes - self._db.nbytes + self._db.live_bytes() - max_bytes
                why = f"was the oldest in a store above {max_bytes:,} bytes"
                gone += [("", old.log, why, old.bytes) for old in self._delete_oldest(excess)]
            self._db.reclaim()
        return pd.DataFrame(gone, columns=[*upkeep.Problem._fields, "bytes"])

    def _removed(self, problems: Iterable[upkeep.Problem]) -> list[tuple[str, str, str, int]]:
        return [(*problem, self._files.remove(problem.file)) for problem in problems]

    def evict(self, max_bytes: int) -> list[str]:
        """See `Store.evict`. What is counted are blocks, database and codes.

        Beside these a store has the database's write-ahead log and free pages, up to `database.SLACK` bytes each; the
        log up to `database.HELD` while somebody reads in one transaction, who is then waited for, and StoreError raised
        if that takes too long. Only the first call lists the files, and removes those that no log names.
        """
        upkeep.check_bound(max_bytes, "capped at")
        with self._writing():
            if not self._counted:
                self._removed(upkeep.orphans(self._db, self._files))
                self._counted = True
            held = self._files.nbytes + self._db.live_bytes() + file_size(self.path / quantised.NAME)
            gone = self._delete_oldest(held - max_bytes)
            if gone and self._db.free_bytes() > database.SLACK:  # what comes next would only ask for fewer again
                self._db.reclaim()
        return [old.log for old in gone]

    def _delete_oldest(self, excess: int) -> list[upkeep.Evicted]:
        """Delete the oldest logs, and then their files, until `excess` bytes are free.

        On a disk that is too full for the database to be changed, files of logs that go in any case go first, as many
        as that takes: a kill before their rows go too leaves blocks that are missing, of these logs alone.
        """
        doomed, room = upkeep.doomed(self._db, excess), ROOM
        while True:
            try:
                gone = upkeep.delete_oldest(self._db, excess)
                break
            except StoreFull:
                freed = 0
                while freed < room and (digest := next(doomed, None)):
                    freed += self._files.remove(block_name(digest))
                if not freed:
                    raise
                room *= 2
        self._loose.update(*(old.digests for old in gone))
        self._tidy()  # at once: what comes next may need the room
        return gone

    def _tidy(self) -> None:
        """Remove files that have no row."""
        loose, self._loose = self._loose, set()
        for digest in loose:
            if not self._db.read("SELECT 1 FROM blocks WHERE digest = ?", digest):
                self._files.remove(block_name(digest))

    def _is_sound(self, log: str, key: str) -> bool:
        row = self.find(log, key)
        if row is not None and self._files.flaw(row.digest, row.bytes):
            self._loose.add(row.digest)
            return False
        return row is not None

    def _commit(self, logs: list[tuple[str, bytes, str]], blocks: list[tuple[str, BlockRow]]) -> None:
        """Insert the rows of logs and blocks in one transaction."""
        if not logs and not blocks:
            return
        needed = sum(len(vector) + len(trace) for _, vector, trace in logs) + 100 * len(blocks)
        with self._db.transaction(needed) as connection:
            connection.executemany("INSERT OR IGNORE INTO logs (id, embedding) VALUES (?, ?)", [r[:2] for r in logs])
            connection.executemany(
                "INSERT OR IGNORE INTO traces (seq, json) SELECT seq, ? FROM logs WHERE id = ?",
                [(t, id) for id, _, t in logs],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO blocks (seq, key, tokens, bytes, digest) "
                "SELECT seq, ?, ?, ?, ? FROM logs WHERE id = ?",
                [(*block, id) for id, block in blocks],
            )
