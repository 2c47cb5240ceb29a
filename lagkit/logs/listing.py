"""The filter of a listing of logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Judged = Literal["", "right", "wrong", "not judged"]
Limits = tuple[int, int]

JUDGED: dict[bool | None, Judged] = {True: "right", False: "wrong", None: "not judged"}


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
            held = "(SELECT coalesce(sum(bytes), 0) FROM blocks WHERE blocks.seq = logs.seq)"
            parts.append(f"{held} BETWEEN ? AND ?")
            values += self.nbytes
        return " AND ".join(parts) or "TRUE", values
