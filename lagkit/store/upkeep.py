"""Looking a store over: what is wrong in it, and which logs must go to make it smaller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from lagkit.store.database import NAME as DATABASE
from lagkit.store.database import Database
from lagkit.store.files import BlockFiles, block_name
from lagkit.types import Trace


class Problem(NamedTuple):
    """`file` is relative to the store; `log` is empty when no log is concerned."""

    file: str
    log: str
    problem: str


def problems(db: Database, files: BlockFiles, dim: int) -> Iterator[Problem]:
    """Everything that is wrong, after reading every byte of the store."""
    yield from block_problems(db, files)
    yield from orphans(db, files)
    for (said,) in db.read("PRAGMA integrity_check"):
        if said != "ok":
            yield Problem(DATABASE, "", f"SQLite: {said}")
    yield from _log_problems(db, dim)


def block_problems(db: Database, files: BlockFiles) -> Iterator[Problem]:
    """Blocks whose file is missing, truncated or altered."""
    for sha256, nbytes in db.read("SELECT sha256, max(bytes) FROM blocks GROUP BY sha256 ORDER BY sha256"):
        if flaw := files.flaw(sha256, nbytes):
            owners = "SELECT id, key FROM blocks JOIN logs USING (seq) WHERE sha256 = ? ORDER BY seq, key"
            for log, key in db.read(owners, sha256):
                yield Problem(block_name(sha256), log, f"the file of block {key!r} {flaw}")


def orphans(db: Database, files: BlockFiles) -> Iterator[Problem]:
    """Files that no log names: an interrupted write left them."""
    known = {block_name(sha256) for (sha256,) in db.read("SELECT DISTINCT sha256 FROM blocks")}
    for name in sorted(set(files.names()) - known):
        yield Problem(name, "", "is an orphan: no log names this file")


def _log_problems(db: Database, dim: int) -> Iterator[Problem]:
    for seq, log, length in db.read("SELECT seq, id, length(embedding) FROM logs ORDER BY seq"):
        if length != 4 * dim:
            yield Problem(DATABASE, log, f"its embedding has {length} bytes instead of {4 * dim}")
        rows = db.read("SELECT json FROM traces WHERE seq = ?", seq)
        try:
            found = Trace.from_dict(json.loads(rows[0][0])).id if rows else "missing"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found = f"unreadable ({error})"
        if found != log:
            yield Problem(DATABASE, log, f"its trace is not what was stored: it is {found}")


def delete_oldest(db: Database, excess: int) -> list[tuple[str, int]]:
    """Delete the oldest logs, in one transaction, until `excess` bytes are free; returns each log and its bytes.

    A block file counts when the last log that names it goes, the database by the pages that fall free.
    """
    sole = """SELECT coalesce(sum(bytes), 0) FROM (SELECT DISTINCT sha256, bytes FROM blocks AS mine WHERE seq = ?
              AND NOT EXISTS (SELECT 1 FROM blocks WHERE sha256 = mine.sha256 AND seq <> mine.seq))"""
    gone = []
    with db.transaction() as connection:
        for seq, log in db.read("SELECT seq, id FROM logs ORDER BY seq"):
            if excess <= 0:
                break
            before = db.live_bytes()
            [(freed,)] = db.read(sole, seq)
            connection.execute("DELETE FROM logs WHERE seq = ?", (seq,))
            freed += before - db.live_bytes()
            excess -= freed
            gone.append((log, freed))
    return gone
