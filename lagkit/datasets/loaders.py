"""Questions and passages from disk: the folder layout of the LAG paper for MuSiQue, 2WikiMultiHopQA, MMLU-Pro and GPQA.

A data set is a folder with `dev_train.json` (the questions that the log store is built from: *seen*), `dev_test.json`
(*unseen*) and, for question answering, `dev_docs.json` (the passages). `data/README.md` shows the shape of each record.
"""

from __future__ import annotations

import html
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from lagkit.datasets.layouts import LAYOUTS, LETTERS, Layout, trimmed
from lagkit.types import Passage, Question, TaskKind
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.home import laboratory
from lagkit.util.paths import at
from lagkit.util.plainjson import read_json

Split = Literal["seen", "unseen"]
Stratum = Literal["all", "final", "other", "none"]


@dataclass(frozen=True, repr=False)
class Dataset:
    """The questions of both splits and the passages they are answered from (none for multiple choice)."""

    name: str
    kind: TaskKind
    seen: tuple[Question, ...]
    unseen: tuple[Question, ...]
    passages: tuple[Passage, ...] = ()

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those of both splits."""
        return (*self.seen, *self.unseen)

    @property
    def hops(self) -> dict[str, tuple[str, ...]]:
        """Question id -> ids of its hops, of both splits."""
        return hops(self.questions)

    def split(self, name: str) -> tuple[Question, ...]:
        """The questions of `"seen"` or `"unseen"`; raises ConfigError for another name."""
        if name not in ("seen", "unseen"):
            raise ConfigError(f"there is no split {name!r}: choose 'seen' or 'unseen'")
        return self.seen if name == "seen" else self.unseen

    def sample(self, split: str, n: int | None, seed: int) -> tuple[Question, ...]:
        """`n` questions of a split (None: all), drawn by `seed`, in file order; a larger sample holds the smaller.

        Raises ConfigError when the split does not hold `n` questions.
        """
        questions = self.split(split)
        if n is None:
            return questions
        if not 0 <= n <= len(questions):
            held = f"{self.name} has {len(questions)} {split} ones"
            raise ConfigError(f"cannot draw {n} questions: {held}; ask for fewer.")
        order = list(range(len(questions)))
        random.Random(seed).shuffle(order)
        return tuple(questions[i] for i in sorted(order[:n]))

    @property
    def no_strata(self) -> str | None:
        """Why it cannot be told what unseen questions share with seen ones, in a sentence; None if it can."""
        if all(any(question.hops for question in split) for split in (self.seen, self.unseen)):
            return None
        return (
            f"The data set {self.name} names no sub-questions or evidences, so what an unseen question shares with the "
            "logged ones is not known: there are no strata."
        )

    def __repr__(self) -> str:
        sizes = f"{len(self.seen)} seen and {len(self.unseen)} unseen questions, {len(self.passages)} passages"
        return f"Dataset({self.name!r}, {self.kind}: {sizes})"

    def _repr_html_(self) -> str:
        strata = Counter(overlaps(self.seen, self.unseen))
        shares = ", ".join(f"{stratum} {strata[stratum]}" for stratum in get_args(Stratum))
        rows = {
            "kind": "multiple choice" if self.kind == "choice" else "question answering",
            "seen questions": len(self.seen),
            "unseen questions": len(self.unseen),
            "… by hops shared with the seen ones": "not known" if self.no_strata else shares,
            "passages": len(self.passages),
        }
        cells = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in rows.items())
        return f"<table><caption>{html.escape(self.name)}</caption>{cells}</table>"


# Registered loaders (`lagkit.register`): from a folder to its data set, by the name of the layout.
LOADERS: dict[str, Callable[[Path], Dataset]] = {}


def load(folder: Path | str, dataset: str | None = None) -> Dataset:
    """Read a data folder; `dataset` names its record shape (a key of `LAYOUTS`, or a registered loader).

    By default that is the folder's name. Raises DataError for a missing folder or file, for text that is not JSON or
    repeats a key, for a record of another shape (naming file, record and key), and for a question id that occurs twice;
    ConfigError for an unknown `dataset`.
    """
    folder = at(folder)
    if not folder.is_dir():
        raise DataError(
            f"there is no data folder {folder}: give the path of a folder that holds dev_train.json and dev_test.json "
            f"(README.md in {laboratory() / 'data'} says where to get them, and sample beside it comes with lagkit)"
        )
    name = folder.resolve().name if dataset is None else dataset
    if name in LOADERS:
        return _checked(LOADERS[name](folder), name)
    if name not in LAYOUTS:
        raise ConfigError(f"no data layout is called {name!r}: give dataset= one of {', '.join((*LAYOUTS, *LOADERS))}")
    layout = LAYOUTS[name]
    passages = _passages(folder / "dev_docs.json", layout.document) if layout.document else ()
    known = frozenset(passage.id for passage in passages)
    ids: dict[str, str] = {}
    seen, unseen = (_questions(folder / file, layout, known, ids) for file in ("dev_train.json", "dev_test.json"))
    return Dataset(name, layout.kind, seen, unseen, passages)


def _checked(data: Dataset, name: str) -> Dataset:
    """What a registered loader gave; raises DataError where it is no data set, or one that cannot be worked on."""
    if not isinstance(data, Dataset):
        raise DataError(f"the loader {name!r} gave a {type(data).__name__}: let it give a datasets.loaders.Dataset")
    for question in data.questions:
        if not isinstance(question, Question):
            raise DataError(f"the loader {name!r} gave a {type(question).__name__} for a question: give a Question")
        if wrong := _wrong(question, data.kind):
            raise DataError(f"the loader {name!r} gave the question {question.id!r} {wrong}")
    if twice := [id for id, count in Counter(question.id for question in data.questions).items() if count > 1]:
        raise DataError(f"the loader {name!r} gave two questions the id {twice[0]!r}: give each its own")
    if data.kind == "qa" and not data.passages:
        raise DataError(f"the loader {name!r} gave no passages, which question answering searches")
    return data


def _wrong(question: Question, kind: TaskKind) -> str:
    """What would end a run, or score each answer wrongly, of a question that a registered loader gave; else empty."""
    if not (isinstance(question.id, str) and isinstance(question.text, str)):
        return "an id or a text that is none: give each as a str"
    answers = question.answers
    if not isinstance(answers, tuple | list) or not answers or not all(isinstance(a, str) and a for a in answers):
        return f"the answers {answers!r}: give a tuple of one or more texts"  # of a str, each letter would be one
    if question.kind != kind:
        return f"the kind {question.kind!r}: give that of the data set, {kind!r}"
    if kind == "choice":
        if not isinstance(question.choices, tuple | list) or not 0 < len(question.choices) <= len(LETTERS):
            return f"other choices than a tuple of 1 to {len(LETTERS)}"
        if not {*answers} <= {*LETTERS[: len(question.choices)]}:
            return f"the answers {answers!r}: give letters of its {len(question.choices)} choices"
    return ""


def overlap(seen: Iterable[Question], question: Question) -> Stratum:
    """How much of a question's gold reasoning the questions of a log store share, by hop id.

    `"all"` of its hops, the `"final"` one (but not all), only an `"other"` one, or `"none"`, also without hops. For
    2Wiki's comparisons the final hop is the last evidence triple.
    """
    return overlaps(seen, [question])[0]


def overlaps(seen: Iterable[Question], questions: Iterable[Question]) -> list[Stratum]:
    """`overlap` of each of the questions."""
    shared = {hop.id for other in seen for hop in other.hops}
    return [stratum_of([hop.id in shared for hop in question.hops]) for question in questions]


def stratum_of(shared: Sequence[bool]) -> Stratum:
    """The stratum of a question by which of its hops, in order, are shared."""
    if not any(shared):
        return "none"
    return "all" if all(shared) else "final" if shared[-1] else "other"


def hops(questions: Iterable[Question]) -> dict[str, tuple[str, ...]]:
    """Question id -> ids of its hops: questions that share one are not independent of each other."""
    return {question.id: tuple(hop.id for hop in question.hops) for question in questions}


def numbered(hops: Mapping[str, Collection[str]]) -> dict[str, list[int]]:
    """The same hops by number: results tell which questions share one, and repeat no words of the data."""
    numbers: dict[str, int] = {}
    return {id: [numbers.setdefault(hop, len(numbers)) for hop in own] for id, own in hops.items()}


def _questions(path: Path, layout: Layout, passages: frozenset[str], ids: dict[str, str]) -> tuple[Question, ...]:
    """Read one split; `ids` (question id -> file) goes from split to split, as an id may occur in neither twice."""
    records = _parse(path, list[layout.record])  # type: ignore[name-defined]  # a type that is made here
    questions = tuple(record.read(passages) for record in records)
    for question in questions:
        if question.id in ids:
            raise DataError(
                f"{path}: the question id {question.id!r} occurs a second time (first in {ids[question.id]})"
            )
        ids[question.id] = path.name
    return questions


def _passages(path: Path, document: Any) -> tuple[Passage, ...]:
    """2Wiki's passages are `{title: text}` and named by their title; MuSiQue's are `{id: {title, content}}`."""
    return tuple(
        Passage(trimmed(key), trimmed(key), trimmed(value))
        if isinstance(value, str)
        else Passage(key, value.title, value.content)
        for key, value in _parse(path, dict[str, document]).items()
    )


def _parse(path: Path, shape: Any) -> Any:
    """The validated content of a JSON file; raises DataError, which names the file, the record and the key."""
    raw = read_json(path, DataError)
    try:
        # Strict as JSON is: of Python's values, a list would be no tuple.
        return TypeAdapter(shape).validate_json(json.dumps(raw))
    except ValidationError as problem:
        first = problem.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        where = _where(raw, first["loc"])
        raise DataError(f"{path}{where}: {reason} (data/README.md shows the layouts)") from None


def _where(raw: Any, loc: tuple[int | str, ...]) -> str:
    """`loc` is the path that pydantic reports: record number or passage id, then keys inside it."""
    if not loc:
        return ""
    name = f"passage {loc[0]!r}"
    if isinstance(loc[0], int):
        record = raw[loc[0]]
        ids = [record[key] for key in ("_id", "id", "question_id") if isinstance(record, dict) and key in record]
        name = f"record {loc[0]}" + (f" (id {ids[0]!r})" if ids else "")
    keys = ".".join(str(key) for key in loc[1:])
    return f", {name}" + (f", key {keys!r}" if keys else "")
