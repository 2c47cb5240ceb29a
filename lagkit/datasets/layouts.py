"""The record shapes of the four data sets, and how a record becomes a `Question` (`data/README.md` shows them)."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lagkit.types import Hop, Question, TaskKind

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# White space, and what is not seen either: zero-width spaces and byte order marks.
_UNSEEN = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff"


def trimmed(text: str) -> str:
    """Text without outer white space: some data sets have it on the right option alone."""
    return text.strip(_UNSEEN)


Text = Annotated[str, AfterValidator(trimmed)]


class Record(BaseModel):
    """A record is read strictly (no number passes for a string); keys that lagkit does not use are ignored."""

    model_config = ConfigDict(strict=True)


class Step(Record):
    id: int
    question: Text
    answer: Text
    document_id: str | None = None


class Musique(Record):
    id: str
    question: Text
    answer: Text
    answer_aliases: list[Text]
    question_decomposition: list[Step]

    def read(self, passages: frozenset[str]) -> Question:
        hops = tuple(
            Hop(str(step.id), step.question, step.answer, step.document_id if step.document_id in passages else None)
            for step in self.question_decomposition
        )
        answers = tuple(dict.fromkeys([self.answer, *self.answer_aliases]))
        return Question(self.id, self.question, answers, hops=hops, category=self.id.split("__")[0])


class Wikihop(Record):
    id: str = Field(alias="_id")
    type: str
    question: Text
    answer: Text
    evidences: list[tuple[Text, Text, Text]]
    supporting_facts: list[tuple[Text, int]]

    def read(self, passages: frozenset[str]) -> Question:
        titles = [title for title, _ in self.supporting_facts]
        hops = []
        for i, triple in enumerate(self.evidences):
            title = _supporting_title(triple[0], i, titles, aligned=len(titles) == len(self.evidences))
            hops.append(
                Hop(_triple_id(triple), " >> ".join(triple[:2]), triple[2], title if title in passages else None)
            )
        return Question(self.id, self.question, (self.answer,), hops=tuple(hops), category=self.type, f1="hotpot")


def _triple_id(triple: tuple[str, str, str]) -> str:
    """By names and not by `evidences_id`, which a third of the records leave empty: one id for every record."""
    return " | ".join(" ".join(unicodedata.normalize("NFKC", name).casefold().split()) for name in triple)


def _supporting_title(subject: str, i: int, titles: Sequence[str], *, aligned: bool) -> str | None:
    """2Wiki lists one title for each triple, in order; where the counts differ, the title that names the subject."""
    if aligned:
        return titles[i]
    return next((title for title in titles if subject in (title, re.sub(r" \([^()]*\)$", "", title))), None)


class Mmlupro(Record):
    question_id: int
    question: Text
    options: list[Text] = Field(max_length=len(LETTERS))
    answer: str
    category: str

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> Mmlupro:
        if self.answer not in list(LETTERS[: len(self.options)]):
            raise ValueError(f"'answer' is {self.answer!r}, not a letter of its {len(self.options)} options")
        return self

    def read(self, passages: frozenset[str]) -> Question:
        choices = tuple(self.options)
        answers = _letters(choices, LETTERS.index(self.answer))
        return Question(str(self.question_id), self.question, answers, "choice", choices, category=self.category)


class Gpqa(Record):
    question: Text
    choices: list[Text] = Field(max_length=len(LETTERS))
    answer: Text

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Gpqa:
        if self.answer not in self.choices:
            raise ValueError("'answer' is not the text of any of its choices")
        return self

    def read(self, passages: frozenset[str]) -> Question:
        answers = _letters(self.choices, self.choices.index(self.answer))
        digest = hashlib.sha256(json.dumps([self.question, self.choices]).encode()).hexdigest()
        return Question(f"gpqa-{digest[:16]}", self.question, answers, "choice", tuple(self.choices))


def _letters(choices: Sequence[str], right: int) -> tuple[str, ...]:
    """The letter of the right option, and those of options that read the same: they are as right."""
    same = [LETTERS[i] for i, choice in enumerate(choices) if choice == choices[right]]
    return tuple(dict.fromkeys([LETTERS[right], *same]))


class Document(Record):
    title: Text
    content: Text


class Layout(NamedTuple):
    """The shape of a data set: its record, and what a passage is written as (None: no passages)."""

    kind: TaskKind
    record: type[Record]
    document: type[Document] | type[str] | None


LAYOUTS: Mapping[str, Layout] = {
    "musique": Layout("qa", Musique, Document),
    "wikihop": Layout("qa", Wikihop, str),
    "mmlupro": Layout("choice", Mmlupro, None),
    "gpqa": Layout("choice", Gpqa, None),
    "sample": Layout("qa", Musique, Document),
}
