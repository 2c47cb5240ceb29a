"""The only parser of the tags by which a model says what it does next, and of where they stand in its response."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lagkit.types import TaskKind

# What ends a generation: everything after the first finished action would be ignored anyway. Sub-questions may
# come in numbers, so they don't.
STOP_STRINGS: dict[TaskKind, tuple[str, ...]] = {"qa": ("</ans>", "</keywords>"), "choice": ("</ans>",)}

OPEN_ANSWER, CLOSE_ANSWER = "<ans>", "</ans>"

_NAMES = ("ans", "keywords", "subquestion")
TAGS = tuple(tag for name in _NAMES for tag in (f"<{name}>", f"</{name}>"))

_TAGS = re.compile(rf"<({'|'.join(_NAMES)})>(.*?)</\1>", re.DOTALL)
_OPENING = re.compile(rf"<({'|'.join(_NAMES)})>")
_SEARCH_TAG: dict[TaskKind, str] = {"qa": "keywords", "choice": "subquestion"}


@dataclass(frozen=True)
class Action:
    """What a response asks for: `answer` ends the run with `text`, `search` makes `text` the next query."""

    kind: Literal["answer", "search"]
    text: str


def parse(response: str, task: TaskKind) -> Action:
    """Read the action of a response; without any tag the whole response is the next query.

    The last non-empty answer wins over every search. Question answering searches for the last keywords;
    multiple choice for all sub-questions, joined without duplicates.
    """
    found = [(m[1], m[2].strip()) for m in _tagged(response) if m[2].strip()]
    answers = [text for tag, text in found if tag == "ans"]
    if answers:
        return Action("answer", answers[-1])
    searches = [text for tag, text in found if tag == _SEARCH_TAG[task]]
    if not searches:
        return Action("search", response.strip())
    return Action("search", searches[-1] if task == "qa" else " ".join(dict.fromkeys(searches)))


def _tagged(response: str) -> Iterator[re.Match[str]]:
    """What `_TAGS` matches, in time linear in the response: no end is looked for behind the last one of its name."""
    at, last = 0, {name: response.rfind(f"</{name}>") for name in _NAMES}
    for opening in _OPENING.finditer(response):
        behind = at <= opening.start() and opening.end() <= last[opening[1]]
        if behind and (found := _TAGS.match(response, opening.start())):
            at = found.end()
            yield found


def action_spans(response: str) -> list[tuple[int, int]]:
    """Character spans `[start, stop)` of all tagged actions, tags included, in order."""
    return [found.span() for found in _tagged(response)]


def cut(text: str, stop: Sequence[str]) -> str:
    """`text` up to its first stop string, with it; all of it if there is none."""
    ends = [text.index(s) + len(s) for s in stop if s in text]
    return text[: min(ends)] if ends else text


def close(text: str, stop: Sequence[str]) -> str:
    """`text` with the stop string that an endpoint has cut off: that of `stop` which closes the tag left open last."""
    opened = {s: text.rfind(s.replace("</", "<", 1)) for s in stop}
    last = max(stop, key=lambda s: opened[s], default="")
    return text + last if last and opened[last] > text.rfind(last) else text


def without_tags(text: str) -> str:
    """A text whose tags are broken by a space, `< ans>`, so that they are not read as what the model says.

    For words of the question that stand in the model's own turn.
    """
    for tag in TAGS:
        text = text.replace(tag, f"< {tag[1:]}")
    return text


def answer_span(response: str) -> tuple[int, int] | None:
    """Character span `[start, stop)` of the answer that `parse` finds, without its tags; None if there is none."""
    spans = [m.span(2) for m in _tagged(response) if m[1] == "ans" and m[2].strip()]
    return spans[-1] if spans else None


def before_action(response: str) -> str:
    """A response up to its last opening tag, whether the action is finished or not; all of it if there is no tag."""
    start = max(response.rfind(tag) for tag in (OPEN_ANSWER, "<keywords>", "<subquestion>"))
    return response if start < 0 else response[:start]


def last_action_span(response: str) -> tuple[int, int]:
    """Character span `[start, stop)` of the last tagged action, tags included; the whole response if it has none."""
    spans = action_spans(response)
    return spans[-1] if spans else (0, len(response))
