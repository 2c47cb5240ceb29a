"""The log store: traces and embeddings in SQLite, each KV block in a safetensors file, FAISS over the embeddings."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike

from lagkit.codec import Codec
from lagkit.errors import StoreError, StoreLocked
from lagkit.kv import KVBlock
from lagkit.store import database, header, upkeep
from lagkit.store.archive import Archive
from lagkit.store.files import BlockRow, block_name, dtype_name
from lagkit.store.header import Header
from lagkit.store.reading import StoredLogs
from lagkit.store.vectors import unit_rows
from lagkit.types import Trace

__all__ = ["LogStore"]

LOCK = "write.lock"
# add_many commits once so many seconds have passed: the most work that a kill can cost, shared by one sync.
COMMIT_EVERY = 0.2


class LogStore(StoredLogs):
    """The logs of one model and one embedder in one folder: one writer at a time, and any number of readers.

    A block's file is on disk, whole and under its name, before the row that names it is committed: a kill at any
    moment loses no committed log and leaves at most files that no log names (`verify` lists, `prune` removes them).
    Every method that changes it raises StoreError on a store that is open for reading, or closed.
    """

    def __init__(self, folder: Path, head: Header, lock: FileLock | None) -> None:
        """Use `create`, `open` or `open_or_create`."""
        super().__init__(folder, head, write=lock is not None)
        self._lock = lock
        self._busy = False
        # Files that may have no row: written and not yet committed, or just deleted.
        self._loose: set[str] = set()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        model: Mapping[str, Any],
        embedder: str,
        dim: int,
        dtype: str,
        codec: Codec = "none",
    ) -> LogStore:
        """A new store, open for writing. `model` is a fingerprint that JSON can hold, `dim` the embeddings' dimension.

        codec: what files hold of a block; `int8` halves a bfloat16 block (`lagkit.codec`). Raises StoreError where a
        store, or anything else, is already.
        """
        folder, head = Path(path), Header.new(model, embedder, dim, dtype, codec)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = {entry.name for entry in folder.iterdir()}
        except OSError as error:
            raise StoreError(f"No log store can be made at {folder} ({error}).") from error
        if header.NAME in found:
            raise StoreError(f"There is a log store at {folder} already: open it, or create one elsewhere.")
        # What a create that was killed leaves may stand there; its header would have come last.
        foreign = sorted(n for n in found if not n.startswith((database.NAME, header.NAME)) and n not in (LOCK, "kv"))
        if foreign:
            raise StoreError(
                f"{folder} holds other things ({', '.join(foreign[:3])}): give a log store its own folder."
            )
        store = cls._locked(folder, head)
        try:
            head.write(folder)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        model: Mapping[str, Any] | None = None,
        embedder: str | None = None,
        codec: Codec | None = None,
        write: bool = False,
    ) -> LogStore:
        """An existing store, by default for reading only, whatever its size in the same time.

        Raises StoreMismatch, naming both sides, if it was built with another `model`, `embedder` or `codec` than given,
        StoreLocked if another writer has it, and StoreError where there is no store or one of a newer format.
        """
        folder, head = Path(path), Header.read(Path(path))
        head.check(folder, model=model, embedder=embedder, codec=codec)
        return cls._locked(folder, head) if write else cls(folder, head, None)

    @classmethod
    def open_or_create(
        cls,
        path: str | Path,
        *,
        model: Mapping[str, Any],
        embedder: str,
        dim: int,
        dtype: str,
        codec: Codec = "none",
    ) -> LogStore:
        """The store at `path` for writing, made if there is none; raises what `open` and `create` raise."""
        folder = Path(path)
        if not (folder / header.NAME).exists():
            return cls.create(folder, model=model, embedder=embedder, dim=dim, dtype=dtype, codec=codec)
        head = Header.read(folder)
        head.check(folder, model=model, embedder=embedder, dim=dim, dtype=dtype, codec=codec)
        return cls._locked(folder, head)

    @classmethod
    def _locked(cls, folder: Path, head: Header) -> LogStore:
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
            return cls(folder, head, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Give the store back; a second time does nothing."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> LogStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, trace: Trace, embedding: ArrayLike, blocks: Mapping[str, KVBlock] | None = None) -> str:
        """Store a trace, the embedding of its key (float32 [dim], length 1) and its KV blocks; returns the log's id.

        A trace that is there already stays as it is and gets the blocks it lacks. Raises StoreError, with nothing
        changed, for a wrong embedding, a block of another dtype or with numbers that the codec cannot hold, a full
        disk or a store open for reading.
        """
        return self.add_many([(trace, embedding, blocks or {})])[0]

    def add_many(self, logs: Iterable[tuple[Trace, ArrayLike, Mapping[str, KVBlock]]]) -> list[str]:
        """`add` for each (trace, embedding, blocks) of an iterable; returns all ids.

        When one fails, or the iterable does, the logs before it are kept. The iterable may read the store, not
        change it.
        """
        ids: list[str] = []
        with self._writing():
            rows: list[tuple[str, bytes, str]] = []
            blocks: list[tuple[str, BlockRow]] = []
            due = time.monotonic() + COMMIT_EVERY
            try:
                for trace, embedding, kv in logs:
                    row = self._row(trace, embedding)
                    blocks += self._write_blocks(row[0], kv)
                    rows.append(row)
                    ids.append(row[0])
                    if time.monotonic() > due:
                        self._commit(rows, blocks)
                        rows, blocks, due = [], [], time.monotonic() + COMMIT_EVERY
            finally:
                self._commit(rows, blocks)
        return ids

    def put_block(self, log: str, key: str, block: KVBlock) -> None:
        """Add a KV block to a log that is there; one that is there already, and sound, stays. Raises as `add`."""
        with self._writing():
            if log not in self:
                raise StoreError(f"There is no log {log!r} in the store at {self.path}: add its trace first.")
            self._commit([], self._write_blocks(log, {key: block}))

    def delete(self, logs: Iterable[str]) -> None:
        """Remove logs with their blocks; raises StoreError, with nothing changed, if one of them is not there."""
        with self._writing():
            logs = [logs] if isinstance(logs, str) else list(dict.fromkeys(logs))
            for log in logs:
                if log not in self:
                    raise StoreError(f"There is no log {log!r} in the store at {self.path}; nothing was deleted.")
                files = "SELECT sha256 FROM blocks JOIN logs USING (seq) WHERE id = ?"
                self._loose |= {sha256 for (sha256,) in self._db.read(files, log)}
            with self._db.transaction() as connection:
                connection.executemany("DELETE FROM logs WHERE id = ?", [(log,) for log in logs])

    def prune(self, max_bytes: int | None = None) -> pd.DataFrame:
        """Remove blocks whose file is missing or damaged, damaged rows and files that no log names.

        Returns what went, with bytes. A log whose trace or embedding is damaged goes as a whole, one whose block is
        damaged keeps both. With `max_bytes`, whole logs go too, oldest first, until `nbytes` is at most that or no log
        is left. All files are read. Raises StoreError for a negative `max_bytes`.
        """
        if max_bytes is not None and max_bytes < 0:
            raise StoreError(f"A store cannot be pruned to {max_bytes} bytes; give 0 or more.")
        with self._writing():
            rows = list(upkeep.row_problems(self._db, self.dim))
            upkeep.delete_damaged_rows(self._db)
            damaged = list(upkeep.block_problems(self._db, self._files))
            with self._db.transaction() as connection:
                broken = {Path(problem.file).stem for problem in damaged}
                connection.executemany("DELETE FROM blocks WHERE sha256 = ?", [(sha256,) for sha256 in broken])
            gone = [(*problem, 0) for problem in rows]
            gone += [(*problem, self._files.remove(problem.file)) for problem in damaged]
            gone += [(*orphan, self._files.remove(orphan.file)) for orphan in upkeep.orphans(self._db, self._files)]
            if max_bytes is not None:
                excess = self.nbytes - self._db.nbytes + self._db.live_bytes() - max_bytes
                old = upkeep.delete_oldest(self._db, excess)
                gone += [("", log, f"was the oldest in a store above {max_bytes:,} bytes", freed) for log, freed in old]
                for orphan in upkeep.orphans(self._db, self._files):
                    self._files.remove(orphan.file)
            self._db.reclaim()
        return pd.DataFrame(gone, columns=[*upkeep.Problem._fields, "bytes"])

    def import_archive(self, path: str | Path) -> list[str]:
        """Add all logs of an exported file; returns their ids. Logs and blocks that are there already stay.

        The file is checked throughout first: raises StoreError for one that is damaged or something else, and
        StoreMismatch for one of another model, embedder, dimension, dtype or codec, with nothing changed.
        """
        with self._writing(), Archive(Path(path)) as archive:
            own = {name: getattr(self, name) for name in ("model", "embedder", "dim", "dtype", "codec")}
            archive.header.check(path, **own)
            rows = [self._row(trace, vector) for trace, vector in zip(archive.traces, archive.embeddings, strict=True)]
            new = [
                (id, block)
                for (id, _, _), blocks in zip(rows, archive.blocks, strict=True)
                for block in blocks
                if not self._is_sound(id, block.key)
            ]
            for block in {block.sha256: block for _, block in new}.values():
                self._loose.add(block.sha256)
                archive.place(block, self._files)
            self._commit(rows, new)
        return [id for id, _, _ in rows]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around every change: refuse it where it may not be, and afterwards leave no file without a row."""
        if not self.writable:
            raise StoreError(f"The log store at {self.path} is open for reading only: open it with write=True.")
        if self._busy:
            raise StoreError(
                f"The log store at {self.path} is adding logs: change it after that, not from what it reads."
            )
        self._busy = True
        try:
            yield
        finally:
            loose, self._loose, self._busy = self._loose, set(), False
            for sha256 in loose:
                if not self._db.read("SELECT 1 FROM blocks WHERE sha256 = ?", sha256):
                    self._files.remove(block_name(sha256))

    def _row(self, trace: Trace, embedding: ArrayLike) -> tuple[str, bytes, str]:
        """A log as the database holds it: id, embedding, trace."""
        vector = unit_rows([embedding], self.dim, f"The embedding of log {trace.id}")
        return trace.id, vector.astype("<f4").tobytes(), json.dumps(trace.to_dict())

    def _write_blocks(self, log: str, blocks: Mapping[str, KVBlock]) -> list[tuple[str, BlockRow]]:
        """Put the blocks that a log lacks on disk; their rows are for `_commit`."""
        rows = []
        for key, block in blocks.items():
            if dtype_name(block) != self.dtype:
                raise StoreError(
                    f"Block {key!r} of log {log} is {dtype_name(block)}, the store at {self.path} holds {self.dtype}: "
                    "convert it with KVBlock.to."
                )
            if self._is_sound(log, key):
                continue
            sha256, nbytes = self._files.save(block, f"Block {key!r} of log {log}")
            self._loose.add(sha256)
            rows.append((log, BlockRow(key, len(block), nbytes, sha256)))
        return rows

    def _is_sound(self, log: str, key: str) -> bool:
        """Whether a log has a block whose file is what was stored."""
        row = self.find(log, key)
        if row is not None and self._files.flaw(row.sha256, row.bytes):
            self._loose.add(row.sha256)
            return False
        return row is not None

    def _commit(self, logs: list[tuple[str, bytes, str]], blocks: list[tuple[str, BlockRow]]) -> None:
        """The rows of logs and blocks, all or none."""
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
                "INSERT OR REPLACE INTO blocks (seq, key, tokens, bytes, sha256) "
                "SELECT seq, ?, ?, ?, ? FROM logs WHERE id = ?",
                [(*block, id) for id, block in blocks],
            )
