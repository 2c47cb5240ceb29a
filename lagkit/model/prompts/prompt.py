"""Prompts as data: YAML templates and worked examples, through the model's own chat template."""

from __future__ import annotations

import hashlib
import json
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

from lagkit.model.prompts.actions import STOP_STRINGS, without_tags
from lagkit.model.prompts.untrusted import marks
from lagkit.types import Passage, Question, TaskKind
from lagkit.util.errors import ConfigError
from lagkit.util.plainyaml import load_yaml

if TYPE_CHECKING:
    from lagkit.model.lm import LM

LETTERS = string.ascii_uppercase
WORDING = "examples"  # small models need worked examples


@dataclass(frozen=True)
class PassageTemplates:
    """A passage as the model reads it, and as it is embedded."""

    shown: str = ""
    indexed: str = "$title\n$text"


@dataclass(frozen=True)
class NotesTemplates:
    """Notes from logs, as the model reads them, and how they are written (Dynamic Cheatsheet, arXiv 2504.07952).

    log: a log as whoever writes notes reads it. system, request: the messages that ask for notes. tokens: the most that
    notes may take; None leaves it to the limits.
    """

    shown: str = "$notes"
    log: str = "$question\n$response"
    system: str = ""
    request: str = "$logs"
    tokens: int | None = None


@dataclass(frozen=True)
class Prompt:
    """The templates of one kind of task; `$names` are filled in.

    information: the previous response as the next round shows it. stops: whether the end of an action ends a
    generation, or only an end token does. grouped: whether what a query brings when it is asked again stands with what
    it brought before, or behind all that was found since. examples: worked turns shown before the task. first: the
    worked task with which they begin; see `for_question`.
    """

    name: str
    kind: TaskKind
    system: str
    user: str
    information: str = ""
    opening: str = ""
    passages: PassageTemplates = PassageTemplates()
    notes: NotesTemplates = NotesTemplates()
    stops: bool = True
    grouped: bool = False
    examples: tuple[Mapping[str, Any], ...] = ()
    first: int = 0

    @staticmethod
    @cache
    def load(name: str) -> Prompt:
        """Read `<name>.yaml`, which stands beside this file; raises ConfigError for an unknown name or key."""
        folder = files(__package__)
        path = folder / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))
            raise ConfigError(f"Unknown prompt {name!r}: there are {', '.join(known)}.")
        raw = load_yaml(path.read_text(encoding="utf-8"), f"Prompt {name}.yaml")
        try:
            parts = {
                "passages": PassageTemplates(**raw.get("passages", {})),
                "notes": NotesTemplates(**raw.get("notes", {})),
                "examples": tuple(raw.get("examples", ())),
            }
            return Prompt(name=name, **(raw | parts))
        except TypeError as error:
            raise ConfigError(f"Prompt {name}.yaml has a wrong key: {error}.") from error

    @classmethod
    def of(cls, kind: TaskKind, wording: str = WORDING) -> Prompt:
        """The prompt for a kind of task: `plain`, or another wording of it; raises ConfigError where there is none."""
        return cls.load(kind if wording == "plain" else f"{kind}_{wording}")

    @property
    def hash(self) -> str:
        """Identifies the wording, for manifests, whatever the groups in which its templates stand."""
        words = {key: value for key, value in asdict(self).items() if key not in ("passages", "notes")}
        words |= {"passage": self.passages.shown, "indexed": self.passages.indexed, "notes": self.notes.shown}
        words |= {"log": self.notes.log, "notes_tokens": self.notes.tokens}
        words |= {"distil_system": self.notes.system, "distil_user": self.notes.request}
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings that end a generation."""
        return STOP_STRINGS[self.kind] if self.stops else ()

    @property
    def tasks(self) -> list[list[Mapping[str, Any]]]:
        """The worked tasks: the examples by their questions, the rounds of one question together."""
        return [list(rounds) for _, rounds in groupby(self.examples, key=lambda raw: raw["question"])]

    @property
    def rotations(self) -> list[Prompt]:
        """This prompt with the worked tasks beginning at each of them in turn; itself alone if there are none."""
        return [replace(self, first=first) for first in range(len(self.tasks) or 1)]

    def for_question(self, id: str) -> Prompt:
        """The rotation for the question with this id: a small model tends to answer in the form of the last example."""
        rotations = self.rotations
        return rotations[zlib.crc32(id.encode("utf-8", "surrogatepass")) % len(rotations)]

    def user_turn(self, question: Question, passages: Sequence[Passage], *, previous: str = "", notes: str = "") -> str:
        """The user's turn: notes from logs if any, passages or information so far, and the question."""
        shown = (_fill(self.passages.shown, number=i, title=p.title, text=p.text) for i, p in enumerate(passages, 1))
        task = _fill(
            self.user,
            question=question.text,
            passages="\n".join(shown),
            choices="\n".join(f"({LETTERS[i]}) {choice}" for i, choice in enumerate(question.choices)),
            information=_fill(self.information, previous=previous) if previous else "",
        ).strip()
        return f"{_fill(self.notes.shown, notes=notes)}\n\n{task}" if notes else task

    def open_turn(self, question: Question) -> str:
        """The words with which the assistant's turn is opened for the model; a tag in the question is none of it."""
        return _fill(self.opening, question=without_tags(question.text))

    def told(self, question: str, response: str) -> str:
        """A log as whoever writes notes reads it."""
        return _fill(self.notes.log, question=question, response=response)

    def embedded(self, passage: Passage) -> str:
        """The text by which a passage is found."""
        return _fill(self.passages.indexed, title=passage.title, text=passage.text).strip()

    def distil_turn(self, question: Question, logs: str) -> str:
        """The user's turn that asks for notes on earlier work."""
        return _fill(self.notes.request, logs=logs, question=question.text)

    def head(self) -> list[dict[str, str]]:
        """The messages that questions share: the system message, if any, and the worked examples."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        tasks = self.tasks
        for raw in chain.from_iterable(tasks[self.first :] + tasks[: self.first]):
            question = Question("", raw["question"], (), self.kind, tuple(raw.get("choices", ())))
            passages = [Passage("", **p) for p in raw.get("passages", ())]
            opening = self.open_turn(question)
            turn = self.user_turn(question, passages, previous=raw.get("previous", ""))
            response = f"{opening} {raw['response']}" if opening else raw["response"]
            messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": response}]
        return messages


def _fill(template: str, **values: Any) -> str:
    return string.Template(template).substitute(values)


def split_chat(lm: LM, head: Sequence[dict[str, str]], turns: Sequence[dict[str, str]]) -> tuple[str, str]:
    """A conversation as text in two parts: what every question shares, and the rest with the assistant's turn opened.

    The head ends where the template ends its last turn. Where the template puts the head's words into the question's
    turn (some know no system message), or there is no head, only the BOS token is shared. Raises ConfigError for a
    template that writes the head otherwise for some questions, or does not show where it ends.
    """
    whole = lm.chat([*head, *turns], open_turn=True)
    if not head:
        bos = lm.tokenizer.bos_token or ""
        return (bos, whole.removeprefix(bos)) if whole.startswith(bos) else ("", whole)
    try:
        alone = lm.chat(head, open_turn=False)
    except ConfigError:  # some templates refuse a chat without a question
        alone = ""
    shared = alone if alone and whole.startswith(alone) else _shared(lm, head, alone)
    if not whole.startswith(shared):
        raise ConfigError(f"The chat template of {lm.name} writes the head of a prompt otherwise for some questions.")
    return shared, whole[len(shared) :]


def _shared(lm: LM, head: Sequence[dict[str, str]], alone: str) -> str:
    """What stands of the head in front of any question, where that is not the head `alone`.

    Some templates write the last turn of a chat otherwise than the same turn with others behind it (Qwen3), or refuse a
    chat without a question (Qwen3.5). Behind the head's last words stands what ends them in `alone`, or a question.
    """
    ask = [{"role": "user", "content": words} for words in ("0?", "1?")]
    one, other = (lm.chat([*head, turn], open_turn=True) for turn in ask)
    common = one[: next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)]
    if alone and common.startswith(alone):
        return alone
    last = lm.plain(head[-1]["content"]).strip()
    before, found, behind = common.rpartition(last)
    for turn, words in ((alone, last), (lm.chat(ask[:1], open_turn=False), "0?")):
        closing = turn.rpartition(words)[2]
        if found and closing and behind.startswith(closing):
            return before + found + closing
    if found and any(mark in behind for mark in marks(lm.tokenizer)):
        raise ConfigError(
            f"The chat template of {lm.name} does not show where the head of a prompt ends, which all questions share: "
            "give its tokenizer another chat_template."
        )
    bos = lm.tokenizer.bos_token or ""
    return bos if common.startswith(bos) else ""
