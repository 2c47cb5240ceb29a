"""Prompts as data: YAML templates and worked examples, through the model's own chat template."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lagkit.actions import without_tags
from lagkit.errors import ConfigError
from lagkit.model import LM
from lagkit.plainyaml import load_yaml
from lagkit.types import Passage, Question, TaskKind

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Prompt:
    """The templates of one kind of task; `$names` are filled in. `examples` are worked turns shown before the task."""

    name: str
    kind: TaskKind
    system: str
    user: str
    opening: str
    notes: str
    distil_system: str
    distil_user: str
    passage: str = ""
    information: str = ""
    examples: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def load(cls, name: str) -> Prompt:
        """Read `lagkit/prompts/<name>.yaml`; raises ConfigError for an unknown name or key."""
        return _load(name)

    @classmethod
    def of(cls, kind: TaskKind, wording: str) -> Prompt:
        """The prompt for a kind of task: `plain`, or another wording of it; raises ConfigError where there is none."""
        return _load(kind if wording == "plain" else f"{kind}_{wording}")

    @property
    def hash(self) -> str:
        """Identifies the wording, for manifests."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def user_turn(self, question: Question, passages: Sequence[Passage], *, previous: str = "", notes: str = "") -> str:
        """The user's turn: notes from logs if any, passages or information so far, and the question."""
        task = self._fill(
            self.user,
            question=question.text,
            passages="\n".join(
                self._fill(self.passage, number=i, title=p.title, text=p.text) for i, p in enumerate(passages, 1)
            ),
            choices="\n".join(f"({LETTERS[i]}) {choice}" for i, choice in enumerate(question.choices)),
            information=self._fill(self.information, previous=previous) if previous else "",
        ).strip()
        return f"{self._fill(self.notes, notes=notes)}\n\n{task}" if notes else task

    def open_turn(self, question: Question) -> str:
        """The words with which the assistant's turn is opened for the model; a tag in the question is none of it."""
        return self._fill(self.opening, question=without_tags(question.text))

    def distil_turn(self, question: Question, logs: str) -> str:
        """The user's turn that asks for notes on earlier work (Dynamic Cheatsheet, arXiv 2504.07952)."""
        return self._fill(self.distil_user, logs=logs, question=question.text)

    def head(self) -> list[dict[str, str]]:
        """The messages that every question shares: the system message and the worked examples."""
        messages = [{"role": "system", "content": self.system}]
        for raw in self.examples:
            question = Question("", raw["question"], (), self.kind, tuple(raw.get("choices", ())))
            passages = [Passage("", **p) for p in raw.get("passages", ())]
            opening = self.open_turn(question)
            response = f"{opening} {raw['response']}" if opening else raw["response"]
            messages.append(
                {"role": "user", "content": self.user_turn(question, passages, previous=raw.get("previous", ""))}
            )
            messages.append({"role": "assistant", "content": response})
        return messages

    @staticmethod
    def _fill(template: str, **values: Any) -> str:
        return string.Template(template).substitute(values)


def split_chat(lm: LM, head: Sequence[dict[str, str]], turns: Sequence[dict[str, str]]) -> tuple[str, str]:
    """A conversation as text in two parts: what every question shares, and the rest with the assistant's turn opened.

    The head ends where the template ends a turn. A template that cannot show the head alone (some know no system
    message) leaves only the BOS token in it.
    """
    whole = lm.chat([*head, *turns], open_turn=True)
    shared = lm.chat(head, open_turn=False)
    if not shared or not whole.startswith(shared):
        bos = lm.tokenizer.bos_token or ""
        shared = bos if whole.startswith(bos) else ""
    return shared, whole[len(shared) :]


@cache
def _load(name: str) -> Prompt:
    folder = files(__package__)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))
        raise ConfigError(f"Unknown prompt {name!r}: there are {', '.join(known)}.")
    raw = load_yaml(path.read_text(encoding="utf-8"), f"Prompt {name}.yaml")
    try:
        return Prompt(name=name, **{**raw, "examples": tuple(raw["examples"])})
    except TypeError as error:
        raise ConfigError(f"Prompt {name}.yaml has a wrong key: {error}.") from error
