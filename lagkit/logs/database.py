"""`logs.sqlite`: the connection, the numbered schema migrations, and transactions that say what went wrong."""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lagkit.util.errors import StoreError, StoreFull
from lagkit.util.paths import file_size, is_digest

NAME = "logs.sqlite"
# What SQLite plays back before anything else: no store leaves one, and it may name other files for SQLite to delete.
JOURNAL = f"{NAME}-journal"
WAL = f"{NAME}-wal"
# The second: what sqlite3 makes of a message that quotes damaged text.
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
# Bytes that the write-ahead log may take when it is not in use, and that free pages may before `evict` gives them back.
SLACK = 4 << 20
# Bytes of the write-ahead log from which on it is waited for those who read: it cannot be emptied while one of them is
# in a transaction, and would grow as long as that takes.
HELD = 4 * SLACK
# What SQLite says when the disk is full, or a quota used up.
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
# Threads take turns (see Database), which is all that SQLite asks of those who share a connection.
_HOW: dict[str, Any] = {"timeout": 10, "isolation_level": None, "check_same_thread": False}


# Migration n takes the database from user_version FIRST + n - 1 to FIRST + n; it is never edited, only followed.
FIRST = 4


# SQLite notices when its pages are damaged, not when the words in them are. `crc` does; these say whether it is right.
def _crc(*columns: str) -> str:
    return f"crc32({', '.join(f'typeof({column}), CAST({column} AS BLOB)' for column in columns)})"


_OWNER = "(SELECT id FROM logs WHERE logs.seq = {}.seq)"
SOUND_LOG = f"logs.crc IS {_crc('logs.id', 'logs.embedding')}"
SOUND_EMBEDDING = f"CASE WHEN {SOUND_LOG} THEN embedding END"
SOUND_TRACE = f"traces.crc IS {_crc(_OWNER.format('traces'), 'traces.json')}"
SOUND_JSON = f"CASE WHEN {SOUND_TRACE} THEN json END"
_BLOCK = tuple(f"blocks.{column}" for column in ("key", "tokens", "bytes", "digest"))
# An index that is damaged may lead to the row of another log, whose id only the row itself tells.
OWN_BLOCK = f"{_OWNER.format('blocks')} = ?"
_SEALED_BLOCK = f"blocks.crc IS {_crc(_OWNER.format('blocks'), *_BLOCK)}"
# A checksum is no proof of who computed it, and a digest becomes the name of a file.
SOUND_BLOCK = f"({_SEALED_BLOCK} AND is_digest(blocks.digest))"


def _seal(table: str, sound: str, key: str) -> str:
    """SQL that gives each new row of a table its `crc`."""
    return f"""
    CREATE TRIGGER seal_{table} AFTER INSERT ON {table} BEGIN
        UPDATE {table} SET crc = {sound.partition(" IS ")[2]} WHERE {key};
    END;
    """


# A log's row is small (traces stand apart), so that reading all embeddings does not page through the traces.
# AUTOINCREMENT never gives a number twice: what came since has a higher one, and `deletions` tells whether any went.
# `facts` is what logs are listed by, so that no listing reads all traces.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE logs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        embedding BLOB NOT NULL,
        crc INTEGER
    );
    CREATE TABLE traces (
        seq INTEGER PRIMARY KEY REFERENCES logs ON DELETE CASCADE,
        json TEXT NOT NULL,
        crc INTEGER
    );
    CREATE TABLE blocks (
        seq INTEGER NOT NULL REFERENCES logs ON DELETE CASCADE,
        key TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        digest TEXT NOT NULL CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
        crc INTEGER,
        PRIMARY KEY (seq, key)
    ) WITHOUT ROWID;
    CREATE INDEX block_files ON blocks (digest);
    CREATE TABLE counters (deletions INTEGER NOT NULL);
    INSERT INTO counters VALUES (0);
    CREATE TRIGGER count_deletions AFTER DELETE ON logs BEGIN
        UPDATE counters SET deletions = deletions + 1;
    END;
    CREATE TABLE facts (
        seq INTEGER PRIMARY KEY REFERENCES logs ON DELETE CASCADE,
        rounds INTEGER,
        correct INTEGER
    );
    CREATE TRIGGER note_facts AFTER INSERT ON traces WHEN json_valid(NEW.json) BEGIN
        INSERT OR REPLACE INTO facts
        SELECT NEW.seq, json_array_length(NEW.json, '$.rounds'), json_extract(NEW.json, '$.correct');
    END;
    """
    + _seal("logs", SOUND_LOG, "seq = NEW.seq")
    + _seal("traces", SOUND_TRACE, "seq = NEW.seq")
    + _seal("blocks", _SEALED_BLOCK, "seq = NEW.seq AND key = NEW.key"),
)


class Database:
    """One connection to a store's database; every error of SQLite becomes a StoreError that names the store.

    Thread-safe (callbacks of widgets run in JupyterLab's threads): statements and transactions are serialised.
    """

    def __init__(self, folder: Path, write: bool) -> None:
        self.folder = folder
        self._turn = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _connect_to_write(folder) if write else _connect_to_read(folder)
            self._migrate(write)
        except UNREADABLE as error:
            self.close()
            raise StoreError(f"The database of the log store at {folder} cannot be opened ({error}).") from error
        except BaseException:
            self.close()
            raise

    def _migrate(self, write: bool) -> None:
        [(version,)], newest = self.read("PRAGMA user_version"), FIRST + len(MIGRATIONS)
        what = f"The log store at {self.folder} has schema {version}"
        if version > newest:
            raise StoreError(f"{what}, newer than the {newest} that this lagkit knows: update lagkit.")
        if 0 < version <= FIRST:
            raise StoreError(f"{what}, of which no version of lagkit was released: make the store anew.")
        if version < newest and not write:
            raise StoreError(f"{what}, older than {newest}: open it once with write=True to bring it up to date.")
        for number in range(max(version, FIRST), newest):
            script = f"BEGIN IMMEDIATE; {MIGRATIONS[number - FIRST]} PRAGMA user_version = {number + 1}; COMMIT;"
            self._open().executescript(script)

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            with self._turn:
                return self._open().execute(sql, values).fetchall()
        except UNREADABLE as error:
            raise _kind(error)(f"The database of the log store at {self.folder} cannot be read ({error}).") from error

    @contextmanager
    def transaction(self, needed: int = 0) -> Iterator[sqlite3.Connection]:
        """All changes or none; `needed` is their size in bytes, for the message when they do not fit."""
        try:
            with self._turn, self._open() as connection:
                self._hold_back()
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except UNREADABLE as error:
            change = f"take {needed:,} bytes of rows" if needed else "be changed"
            raise _kind(error)(
                f"The log store at {self.folder} could not {change} ({error}); it is as it was at its last commit. "
                "If the disk is full, make room: prune(max_bytes=...) removes the oldest logs."
            ) from error

    def _hold_back(self) -> None:
        """Empty a long write-ahead log, waiting for readers; raises StoreError if they take too long."""
        if file_size(self.folder / WAL) <= HELD:
            return
        self.read("PRAGMA wal_checkpoint(TRUNCATE)")
        if (nbytes := file_size(self.folder / WAL)) > HELD:
            raise StoreError(
                f"The log store at {self.folder} cannot be changed: somebody has been reading in one transaction while "
                f"{nbytes:,} bytes were written to its write-ahead log, which has to keep them until that ends. End it "
                "(a process that is stopped, say), and go on; the store is as it was at its last commit."
            )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one state of the database, whatever is committed meanwhile."""
        with self._turn:
            self.read("BEGIN")
            try:
                yield
            finally:
                self.read("ROLLBACK")

    @property
    def nbytes(self) -> int:
        """The size of the database's file and its write-ahead log."""
        return file_size(self.folder / NAME) + file_size(self.folder / WAL)

    def live_bytes(self) -> int:
        """The size of the database without its free pages, inside a transaction too."""
        [(pages,)], [(size,)] = self.read("PRAGMA page_count"), self.read("PRAGMA page_size")
        return int(pages * size) - self.free_bytes()

    def free_bytes(self) -> int:
        """The size of the database's free pages."""
        [(free,)], [(size,)] = self.read("PRAGMA freelist_count"), self.read("PRAGMA page_size")
        return int(free * size)

    def reclaim(self) -> None:
        """Give free pages back to the disk and empty the write-ahead log (as far as readers let go of it)."""
        self.read("PRAGMA wal_checkpoint(TRUNCATE)")
        try:
            # As a script: it answers with a row for each page, and a plain execute stops at the first.
            with self._turn:
                self._open().executescript("PRAGMA incremental_vacuum")
        except UNREADABLE as error:
            raise StoreError(f"The database at {self.folder} could not be made smaller ({error}).") from error
        self.read("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"The log store at {self.folder} was closed; open it again with LogStore.open.")
        return self._connection


def _kind(error: Exception) -> type[StoreError]:
    return StoreFull if getattr(error, "sqlite_errorcode", None) in _FULL else StoreError


def crc32(*values: str | bytes | None) -> int:
    """Of the types and contents of a row's columns, in turn: CRC-32 finds every flipped bit."""
    crc = 0
    for value in values:
        raw = value.encode() if isinstance(value, str) else value or b""
        crc = zlib.crc32(raw, zlib.crc32(b"%d" % len(raw), crc))
    return crc


def prepare(folder: Path) -> None:
    """Make the file of a new store's database, and take away the journal that a create that was killed may leave."""
    (folder / JOURNAL).unlink(missing_ok=True)
    (folder / NAME).touch()


def _connect(folder: Path, mode: str) -> sqlite3.Connection:
    if os.path.lexists(folder / JOURNAL):
        raise StoreError(
            f"{folder / JOURNAL} is no part of a log store, and SQLite would play it back, which may delete other "
            "files: remove it."
        )
    # No mode makes the file: in an empty database no log names any block, and all of them would be taken for orphans.
    connection: sqlite3.Connection = sqlite3.connect(f"{(folder / NAME).as_uri()}?mode={mode}", uri=True, **_HOW)
    connection.create_function("crc32", -1, crc32, deterministic=True)
    connection.create_function("is_digest", 1, is_digest, deterministic=True)
    return connection


def _connect_to_write(folder: Path) -> sqlite3.Connection:
    connection = _connect(folder, "rw")
    try:
        _set_up(connection)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in _FULL:
            raise
        # On a full disk there is no room for the file by which SQLite's processes share the write-ahead log. Alone, one
        # can do without, and make room.
        connection.close()
        connection = _connect(folder, "rw")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _set_up(connection)
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only before the first table, and writes always
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")  # FULL: a commit survives a power cut, not only a kill
    connection.execute(f"PRAGMA journal_size_limit = {SLACK}")


def _connect_to_read(folder: Path) -> sqlite3.Connection:
    connection = _connect(folder, "ro")
    try:
        connection.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        connection.close()
        if os.access(folder, os.W_OK) or file_size(folder / WAL):
            raise
        # SQLite makes its -shm file even to read, which a read-only folder does not allow; nobody writes there.
        connection = _connect(folder, "ro&immutable=1")
    return connection
