"""The filter and the order of a listing of logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Column = Literal["added", "question", "answer", "right", "rounds", "bytes"]
Judged = Literal["", "right", "wrong", "not judged"]
Limits = tuple[int, int]

JUDGED: dict[bool | None, Judged] = {True: "right", False: "wrong", None: "not judged"}

_HELD = "(SELECT coalesce(sum(bytes), 0) FROM blocks WHERE blocks.seq = logs.seq)"
_NAMED = """
    coalesce((SELECT CASE WHEN json_valid(json) THEN json_extract(json, '$.{}') END
    FROM traces WHERE traces.seq = logs.seq), '') COLLATE NOCASE
"""


class Facts(NamedTuple):
    """What a log is listed by, beside the bytes of its KV."""

    correct: bool | None = None
    rounds: int = 0
    question: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Order:
    """Oldest first by default. Logs that are alike in the column `by` stand oldest first, either way.

    right: right ones, wrong ones, then those that were not judged.
    """

    by: Column = "added"
    down: bool = False

    def key(self, facts: Facts, nbytes: int) -> str | int:
        """What a log is sorted by; not for `added`."""
        if self.by == "right":
            return [*JUDGED].index(facts.correct)
        value: str | int = nbytes if self.by == "bytes" else getattr(facts, self.by)
        return value.lower() if isinstance(value, str) else value

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

    def fits(self, correct: bool | None, rounds: int, nbytes: int) -> bool:
        """Whether a log matches."""
        return (
            self.right in ("", JUDGED[correct])
            and (self.rounds is None or self.rounds[0] <= rounds <= self.rounds[1])
            and (self.nbytes is None or self.nbytes[0] <= nbytes <= self.nbytes[1])
        )

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
