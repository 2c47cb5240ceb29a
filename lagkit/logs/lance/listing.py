"""Listings of a store in LanceDB: its logs and blocks as tables of SQLite in memory, kept until they have changed."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

from lagkit.logs.lance.catalog import TRACES, Blocks, LogEntry, Logs, pages
from lagkit.logs.listing import Facts, in_memory
from lagkit.types import MALFORMED
from lagkit.util.errors import StoreError


class Listing:
    """Queries over the newest version of the tables, from any thread."""

    def __init__(self, logs: Logs, blocks: Blocks, path: str) -> None:
        self._logs, self._blocks, self._path = logs, blocks, path
        self._turn = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._state: tuple[int, int] | None = None  # the versions that it is of; None without `_db`
        self._has_facts = False
        self._known: dict[int, Facts] = {}  # by row id: a row's trace never changes

    def query(self, sql: str, values: Sequence[Any], facts: bool) -> list[tuple[Any, ...]]:
        """The rows of a query, over `facts` and `traces` too if `facts`; raises StoreError where it cannot be run."""
        self._blocks.sync()
        self._logs.sync()
        with self._turn:
            try:
                return self._current(facts).execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise StoreError(
                    f"The logs at {self._path} cannot be listed ({error}): verify() tells what is wrong."
                ) from error

    def _current(self, facts: bool) -> sqlite3.Connection:
        # Before the entries are listed: if another thread brings in newer ones meanwhile, the next query begins anew.
        state = self._logs.version, self._blocks.version
        if self._db is not None and self._state == state and (self._has_facts or not facts):
            return self._db
        self._drop()
        entries = list(self._logs.entries)
        known = self._facts(entries) if facts else {}
        logs = [(entry.rowid, entry.id) for entry in entries]
        blocks = [(seq, b.key, b.tokens, b.bytes) for seq, log in logs for b in self._blocks.of(log)]
        self._db = in_memory(logs, blocks, ((seq, *known[seq]) for seq, _ in logs if facts))
        self._state, self._has_facts = state, facts
        return self._db

    def _facts(self, entries: Sequence[LogEntry]) -> dict[int, Facts]:
        """What logs are listed by, by row id; each trace is read once for that and then known."""
        for page in pages([entry for entry in entries if entry.rowid not in self._known], TRACES):
            self._known |= {rowid: _told(text) for rowid, text in self._logs.texts(page).items()}
        return self._known

    def close(self) -> None:
        """Give the memory back."""
        with self._turn:
            self._drop()

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _told(text: str | None) -> Facts:
    """What is known of a trace, which may be a stranger's and hold anything."""
    try:
        raw = dict(json.loads(text or "{}"))
    except MALFORMED:
        raw = {}
    rounds, right = raw.get("rounds"), raw.get("correct")
    named = json.dumps({name: raw.get(name) for name in ("question", "answer")})
    return len(rounds) if isinstance(rounds, list) else 0, right if isinstance(right, bool) else None, named
