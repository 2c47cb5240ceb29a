"""The values that flow between lagkit's modules; immutable, and plain enough to be written as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from operator import add
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Field, PositiveInt

from lagkit.util.settings import NoSwitch

TaskKind = Literal["qa", "choice"]
F1Rule = Literal["squad", "hotpot"]

# Whatever reading a stranger's JSON as one of these values may raise.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

T = TypeVar("T")
Count = Annotated[PositiveInt, NoSwitch]


class OldTrace(ValueError):
    """A trace of an earlier version, which cannot be mixed with those of this one."""


@dataclass(frozen=True)
class Passage:
    """A piece of text that the agent can retrieve."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Hop:
    """One step of a question's gold reasoning; `id` is what overlap between questions is measured by."""

    id: str
    question: str
    answer: str
    passage_id: str | None = None


@dataclass(frozen=True)
class Question:
    """A task with its gold answers; `answers[0]` is the gold answer, the rest are aliases.

    For `kind="choice"` the answers are letters and `choices` holds the options in order. `f1` is the rule that the data
    set is scored by.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    kind: TaskKind = "qa"
    choices: tuple[str, ...] = ()
    hops: tuple[Hop, ...] = ()
    category: str = ""
    f1: F1Rule = "squad"


@dataclass(frozen=True)
class Usage:
    """What a piece of generation cost: tokens by origin, and wall seconds.

    reused: those of `prefilled` that had been read in the round before, and were not computed again.
    """

    prefilled: int = 0
    injected: int = 0
    generated: int = 0
    seconds: float = 0.0
    reused: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class Hit:
    """A retrieved log or passage: its id and its cosine similarity to the query."""

    id: str
    score: float


@dataclass(frozen=True)
class Round:
    """One turn of the agent: the user turn that the model read (`prompt`), and what it generated (`response`).

    opening: what stands in the assistant's turn before the response: the assistant prefix, and white space. It is read,
    and is no part of a log: it repeats the question, which the log has already.
    """

    prompt: str
    response: str
    query: str = ""
    passages: tuple[Hit, ...] = ()
    logs: tuple[Hit, ...] = ()
    usage: Usage = field(default_factory=Usage)
    opening: str = ""

    @property
    def turn(self) -> str:
        """The whole assistant turn."""
        return self.opening + self.response


@dataclass(frozen=True)
class Trace:
    """The reasoning of one task. `answer` is None when none was given; `error` says why a task failed.

    correct: for analysis only; neither retrieval nor the agent reads it. confidence: mean log-probability of the
    answer's tokens; None without an answer, or where a model doesn't tell. lasting: whether it failed for what the
    question is (`errors.QuestionError`), and would fail again. spent: the cost of what failed, which is in no round.
    """

    question_id: str
    question: str
    system: str
    rounds: tuple[Round, ...]
    answer: str | None = None
    error: str | None = None
    correct: bool | None = None
    policy: str = "no_logs"
    confidence: float | None = None
    lasting: bool = False
    spent: Usage = field(default_factory=Usage)

    @property
    def passing(self) -> bool:
        """Whether the task failed for a reason that may have passed."""
        return self.error is not None and not self.lasting

    @property
    def id(self) -> str:
        """Content address: the same reasoning has the same id, so adding a trace twice adds it once."""
        said = [self.question_id, self.question, self.system, [[r.prompt, r.opening, r.response] for r in self.rounds]]
        return "log2-" + hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]

    @property
    def key(self) -> str:
        """The text a log is found by: the question and the last response (paper, section 3.2)."""
        last = self.rounds[-1].response if self.rounds else ""
        return f"{self.question}\n{last}".strip()

    @property
    def steps(self) -> tuple[Trace, ...]:
        """Each round as the last one of a trace of its own, whose question is what that round searched for."""
        last = len(self.rounds) - 1
        return tuple(
            replace(self, question=r.query, rounds=self.rounds[: i + 1], answer=self.answer if i == last else None)
            for i, r in enumerate(self.rounds)
        )

    @property
    def usage(self) -> Usage:
        """The cost of all rounds together, and of what failed."""
        return sum((r.usage for r in self.rounds), self.spent)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Trace:
        """The inverse of `to_dict`; raises OldTrace, and KeyError or TypeError on another shape or type."""
        rounds = tuple(_round_from_dict(r) for r in raw["rounds"])
        return _typed(cls(**(raw | {"rounds": rounds, "spent": _typed(Usage(**raw.get("spent", {})))})))


def _round_from_dict(raw: dict[str, Any]) -> Round:
    if "response" in raw and "opening" not in raw:
        raise OldTrace("its responses repeat the question, as those of earlier versions of lagkit did")
    passages, logs = (tuple(_typed(Hit(**hit)) for hit in raw[name]) for name in ("passages", "logs"))
    return _typed(Round(**(raw | {"passages": passages, "logs": logs, "usage": _typed(Usage(**raw["usage"]))})))


def _typed(value: T) -> T:
    """`value`, a dataclass, if its fields hold what they declare; raises TypeError otherwise."""
    kind: type = type(value)
    for name, types in _field_types(kind).items():
        if not isinstance(getattr(value, name), types):
            raise TypeError(f"{name!r} of a {type(value).__name__} cannot be {getattr(value, name)!r:.80}")
    return value


@cache
def _field_types(kind: type) -> dict[str, tuple[type, ...]]:
    """What each field but a tuple may hold; a whole number is a float, too."""
    hints = {name: hint for name, hint in get_type_hints(kind).items() if get_origin(hint) is not tuple}
    declared = {name: get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: (*types, int) if float in types else types for name, types in declared.items()}


@dataclass(frozen=True)
class Limits:
    """The authors' hyper-parameters (paper, section 4): what a query brings, and when a run ends.

    min_similarity: logs whose cosine similarity to the query is lower are not used; None, as the authors', uses all.
    best_log: whether logs are shown in the order in which they were found, the best `first`, or the other way round.
    force_answer: whether a question that is not answered when its rounds are used up has to be answered all the same.
    """

    passages: Count = 2
    logs: Count = 3
    max_rounds: Count | None = None
    max_new_tokens: Count = 1024
    batch_size: Count = 16
    min_similarity: Annotated[float, NoSwitch, Field(ge=-1, le=1)] | None = None
    best_log: Literal["first", "last"] = "first"
    force_answer: bool = False
