"""Problems of a store in a folder, and the eviction of its oldest logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lagkit.logs import quantised
from lagkit.logs.database import NAME as DATABASE
from lagkit.logs.database import SOUND_BLOCK, SOUND_JSON, SOUND_LOG, SOUND_TRACE, Database
from lagkit.logs.files import BlockFiles, block_name
from lagkit.types import MALFORMED, Trace
from lagkit.util.errors import StoreError
from lagkit.util.paths import is_digest

# More than fall free in the database with any log, beside those that its row takes.
_PAGES = 1 << 16


class Problem(NamedTuple):
    """`file` is relative to the store; `log` is empty when no log is concerned."""

    file: str
    log: str
    problem: str


def problems(db: Database, files: BlockFiles, dim: int) -> Iterator[Problem]:
    """All problems of a store, every byte of which is read."""
    yield from block_problems(db, files)
    yield from orphans(db, files)
    yield from code_problems(files.folder, dim)
    for (said,) in db.read("PRAGMA integrity_check"):
        if said != "ok":
            yield Problem(DATABASE, "", f"SQLite: {said}")
    yield from row_problems(db, dim)


def block_problems(db: Database, files: BlockFiles) -> Iterator[Problem]:
    """Blocks whose file is missing, truncated or altered."""
    sound = f"SELECT digest, max(bytes) FROM blocks WHERE {SOUND_BLOCK} GROUP BY digest ORDER BY digest"
    for digest, nbytes in db.read(sound):
        if flaw := files.flaw(digest, nbytes):
            owners = "SELECT id, key FROM blocks JOIN logs USING (seq) WHERE digest = ? ORDER BY seq, key"
            for log, key in db.read(owners, digest):
                yield Problem(block_name(digest), log, f"the file of block {key!r} {flaw}")


def orphans(db: Database, files: BlockFiles) -> Iterator[Problem]:
    """Files that no log names: an interrupted write left them."""
    known = {block_name(digest) for (digest,) in db.read(f"SELECT DISTINCT digest FROM blocks WHERE {SOUND_BLOCK}")}
    unfinished = {path.name for path in files.folder.glob(f"{quantised.NAME}.*")}
    for name in sorted((set(files.names()) | unfinished) - known):
        yield Problem(name, "", "is an orphan: no log names this file")


def code_problems(folder: Path, dim: int) -> Iterator[Problem]:
    """Damaged codes of the quantised search; the store works without them."""
    if flaw := quantised.flaw(folder, dim):
        yield Problem(quantised.NAME, "", flaw)


def row_problems(db: Database, dim: int) -> Iterator[Problem]:
    """Rows that are not what was stored."""
    logs = f"SELECT CAST(id AS BLOB), seq, {SOUND_LOG}, length(embedding) FROM logs ORDER BY seq"
    for name, seq, sound, length in db.read(logs):
        log = _shown(name)
        if not sound or length != 4 * dim:
            yield Problem(DATABASE, log, f"its embedding is damaged ({length} bytes)")
        rows = db.read(f"SELECT {SOUND_JSON} FROM traces WHERE seq = ?", seq)
        if flaw := flaw_of_trace(log, rows[0][0]) if rows else "is missing":
            yield Problem(DATABASE, log, f"its trace {flaw}")
    blocks = (
        f"SELECT CAST(id AS BLOB), CAST(key AS BLOB) FROM blocks LEFT JOIN logs USING (seq) WHERE NOT {SOUND_BLOCK}"
    )
    for name, key in db.read(blocks):
        yield Problem(DATABASE, _shown(name), f"its row of block {_shown(key)!r} is damaged")


def flaw_of_trace(log: str, text: str | None) -> str | None:
    if text is None:
        return "is damaged"
    try:
        found = Trace.from_dict(json.loads(text)).id
    except MALFORMED as error:
        return f"is unreadable ({error})"
    return None if found == log else f"is not what was stored: it is {found}"


def _shown(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")


def delete_damaged_rows(db: Database) -> None:
    """Remove what `row_problems` finds by the rows' checksums; a log goes with either half of it."""
    with db.transaction() as connection:
        connection.execute(f"DELETE FROM blocks WHERE NOT {SOUND_BLOCK}")
        connection.execute(f"DELETE FROM traces WHERE NOT {SOUND_TRACE}")
        connection.execute(f"DELETE FROM logs WHERE NOT {SOUND_LOG} OR seq NOT IN (SELECT seq FROM traces)")


class Evicted(NamedTuple):
    """A log that made room: how much, and the block files that it named, some of which other logs may name too."""

    log: str
    bytes: int
    digests: set[str]


def delete_oldest(db: Database, excess: int) -> list[Evicted]:
    """Delete the oldest logs, in one transaction, until `excess` bytes are free.

    A block file counts when the last log that names it goes, the database by the pages that fall free.
    """
    gone = []
    with db.transaction() as connection:
        while excess > 0 and (oldest := db.read("SELECT seq, id FROM logs ORDER BY seq LIMIT 1")):
            [(seq, log)] = oldest
            before, named = db.live_bytes(), _files_of(db, seq)
            connection.execute("DELETE FROM logs WHERE seq = ?", (seq,))
            freed = before - db.live_bytes() + sum(nbytes for _, nbytes, shared in named if not shared)
            excess -= freed
            gone.append(Evicted(log, freed, {digest for digest, _, _ in named}))
    return gone


def doomed(db: Database, excess: int) -> Iterator[str]:
    """Block files of logs, and of no others, that `delete_oldest` deletes for so many bytes: rather fewer than more."""
    last = 0
    rows = "SELECT seq, length(embedding) + length(json) FROM logs JOIN traces USING (seq) WHERE seq > ? "
    rows += "ORDER BY seq LIMIT 1"
    while excess > 0 and (oldest := db.read(rows, last)):
        [(last, nbytes)] = oldest
        excess -= 2 * nbytes + _PAGES
        for digest, size, shared in _files_of(db, last):
            if not shared:
                excess -= size
                yield digest


def _files_of(db: Database, seq: int) -> set[tuple[str, int, bool]]:
    """Digest and bytes of the block files that a log names, and whether other logs do so too."""
    blocks = """SELECT digest, bytes, EXISTS (SELECT 1 FROM blocks WHERE digest = mine.digest AND seq <> mine.seq)
                FROM blocks AS mine WHERE seq = ?"""
    return {row for row in db.read(blocks, seq) if is_digest(row[0])}


def check_bound(max_bytes: int | None, what: str = "pruned to") -> None:
    """Raise StoreError for a negative size."""
    if max_bytes is not None and max_bytes < 0:
        raise StoreError(f"A store cannot be {what} {max_bytes} bytes; give 0 or more.")
