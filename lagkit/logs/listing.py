"""The filter and the order of a listing of logs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Column = Literal["added", "question", "answer", "right", "rounds", "bytes"]
Judged = Literal["", "right", "wrong", "not judged"]
Limits = tuple[int, int]
Facts = tuple[int, bool | None, str]  # rounds, verdict, and a JSON with `question` and `answer`

JUDGED: dict[bool | None, Judged] = {True: "right", False: "wrong", None: "not judged"}

_HELD = "(SELECT coalesce(sum(bytes), 0) FROM blocks WHERE blocks.seq = logs.seq)"
_NAMED = """
    coalesce((SELECT CASE WHEN json_valid(json) THEN json_extract(json, '$.{}') END
    FROM traces WHERE traces.seq = logs.seq), '') COLLATE NOCASE
"""


@dataclass(frozen=True)
class Order:
    """Oldest first by default. Logs that are alike in the column `by` stand oldest first, either way.

    right: right ones, wrong ones, then those that were not judged.
    """

    by: Column = "added"
    down: bool = False

    @property
    def sql(self) -> str:
        """The terms behind `ORDER BY`, of `logs` joined with `facts`."""
        terms = {
            "added": "logs.seq",
            "question": _NAMED.format("question"),
            "answer": _NAMED.format("answer"),
            "right": "CASE correct WHEN 1 THEN 0 WHEN 0 THEN 1 ELSE 2 END",
            "rounds": "coalesce(rounds, 0)",
            "bytes": _HELD,
        }
        return f"{terms[self.by]} {'DESC' if self.down else 'ASC'}, logs.seq"


OLDEST_FIRST = Order()


@dataclass(frozen=True)
class Filter:
    """All logs by default. rounds, nbytes: lowest and highest number of rounds, and of bytes of KV, both included."""

    right: Judged = ""
    rounds: Limits | None = None
    nbytes: Limits | None = None

    @property
    def sql(self) -> tuple[str, list[int]]:
        """The condition on `logs` joined with `facts`, and its values."""
        parts: list[str] = []
        values: list[int] = []
        if self.right:
            parts.append({"right": "correct = 1", "wrong": "correct = 0", "not judged": "correct IS NULL"}[self.right])
        if self.rounds is not None:
            parts.append("rounds BETWEEN ? AND ?")
            values += self.rounds
        if self.nbytes is not None:
            parts.append(f"{_HELD} BETWEEN ? AND ?")
            values += self.nbytes
        return " AND ".join(parts) or "TRUE", values


def in_memory(
    logs: Iterable[tuple[int, str]],
    blocks: Iterable[tuple[int, str, int, int]],
    facts: Iterable[tuple[int, int, bool | None, str]],
) -> sqlite3.Connection:
    """The tables of a listing, of which a store in a folder has its own; each row begins with the log's number.

    logs: their ids. blocks: key, tokens, bytes. facts: see `Facts`. Its threads have to take turns.
    """
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.executescript(
        """
        CREATE TABLE logs (seq INTEGER PRIMARY KEY, id TEXT);
        CREATE TABLE blocks (seq INTEGER, key TEXT, tokens INTEGER, bytes INTEGER);
        CREATE INDEX of_logs ON blocks (seq);
        CREATE TABLE facts (seq INTEGER PRIMARY KEY, rounds INTEGER, correct INTEGER, json TEXT);
        CREATE VIEW traces AS SELECT seq, json FROM facts;
        """
    )
    db.executemany("INSERT INTO logs VALUES (?, ?)", logs)
    db.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", blocks)
    db.executemany("INSERT INTO facts VALUES (?, ?, ?, ?)", facts)
    return db
