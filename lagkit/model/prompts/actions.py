"""The only parser of the tags by which a model says what it does next, and of where they stand in its response.

A tag counts where the model acts: not where it reasons (between `<think>` and `</think>`, for one), and not where a
sentence quotes it in backticks.
"""

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

# The mark that opens a section of reasoning and the one that closes it, as templates of thinking models have them.
REASONING = {
    "<think>": "</think>",  # DeepSeek-R1, Qwen3, GLM-4.5, SmolLM3, MiniMax-M2
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",  # EXAONE Deep, Gemini
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi-VL
    "<|begin_of_thought|>": "<|end_of_thought|>",  # OpenThinker
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A Reasoning
    "<|channel|>analysis<|message|>": "<|end|>",  # gpt-oss
    "<|channel>": "<channel|>",  # Gemma 4
}

_TAGS = re.compile(rf"<({'|'.join(_NAMES)})>(.*?)</\1>", re.DOTALL)
_OPENING = re.compile(rf"<({'|'.join(_NAMES)})>")
_EMPTY = re.compile(rf"<({'|'.join(_NAMES)})>\s*</\1>")
_SEARCH_TAG: dict[TaskKind, str] = {"qa": "keywords", "choice": "subquestion"}


def _any(words: Sequence[str]) -> str:
    return "|".join(map(re.escape, words))


# A section that is not closed lasts to the end. A closing mark without an opening one ends what has been said so far,
# since some templates open the reasoning themselves; `<|end|>` ends other turns, too. A quote has words before it or
# behind it: some models put an answer on a line of its own in backticks.
_QUOTE = rf"`(?:{_any([*TAGS, *REASONING, *REASONING.values()])})[^`\n]*"
_SECTION = "|".join(rf"{re.escape(first)}.*?(?:{re.escape(last)}|\Z)" for first, last in REASONING.items())
_CLOSING = _any([last for last in REASONING.values() if last != "<|end|>"])
_ASIDE, _ASIDE_SO_FAR = (
    re.compile(
        rf"(?P<quote>(?<=\S) ?{_QUOTE}{end}|{_QUOTE}`(?= ?\w))|(?P<section>{_SECTION})|(?P<closing>{_CLOSING})",
        re.DOTALL,
    )
    for end in ("`", r"(?:`|\Z)")
)
_HIDDEN = "\ud800"  # a lone surrogate, which no tokenizer gives and no reply is let in with
_OPENED = re.compile(rf"(?:{_any([*REASONING])})\s*\Z")


@dataclass(frozen=True)
class Action:
    """What a response asks for: `answer` ends the run with `text`, `search` makes `text` the next query."""

    kind: Literal["answer", "search"]
    text: str


def parse(response: str, task: TaskKind) -> Action:
    """The action of a response: its last non-empty answer, or else a search.

    Question answering searches for the last keywords, multiple choice for all sub-questions, joined without duplicates;
    without any tag for the whole response, but for reasoning.
    """
    found = [(m[1], text) for m in _tagged(response) if (text := _words(m[2]))]
    answers = [text for tag, text in found if tag == "ans"]
    if answers:
        return Action("answer", answers[-1])
    searches = [text for tag, text in found if tag == _SEARCH_TAG[task]]
    if not searches:
        return Action("search", without_reasoning(response))
    return Action("search", searches[-1] if task == "qa" else " ".join(dict.fromkeys(searches)))


def _tagged(response: str) -> Iterator[re.Match[str]]:
    """Matches of `_TAGS` in the `_masked` response, in linear time: no end is sought behind the last of its name."""
    acting, at = _masked(response), 0
    last = {name: acting.rfind(f"</{name}>") for name in _NAMES}
    for opening in _OPENING.finditer(acting):
        behind = at <= opening.start() and opening.end() <= last[opening[1]]
        if behind and (found := _TAGS.match(acting, opening.start())):
            at = found.end()
            yield found


def action_spans(response: str) -> list[tuple[int, int]]:
    """Character spans `[start, stop)` of all tagged actions, tags included, in order."""
    return [found.span() for found in _tagged(response)]


def without_reasoning(response: str, *, quotes: bool = True) -> str:
    """A response without its sections of reasoning and, unless `quotes`, without the tags that it quotes; stripped."""
    return _words(_masked(response, quotes=not quotes))


def unclosed(response: str) -> str:
    """The mark that would close the reasoning in which a response ends; empty if it does not end in reasoning."""
    last = max(_ASIDE.finditer(response), key=lambda m: m.end(), default=None)
    if last is None or not last["section"] or last.end() < len(response):
        return ""
    closing = next(end for start, end in REASONING.items() if last[0].startswith(start))
    return "" if last[0].endswith(closing) else closing


def opened(prompt: str) -> str:
    """The mark that opens reasoning, with the white space behind it, if a prompt ends with one; else empty."""
    mark = _OPENED.search(prompt)
    return mark[0] if mark else ""


def end_of_action(text: str, stop: Sequence[str], before: str = "") -> int | None:
    """Where the first stop string of `text` ends; None if there is none. before: what the turn says before `text`.

    A stop string in reasoning, in a quote or in an empty pair of tags, which only names them, ends nothing.
    """
    acting = _masked(before + text, _ASIDE_SO_FAR)[len(before) :]
    acting = _EMPTY.sub(lambda m: _HIDDEN * len(m[0]), acting)
    return min((acting.index(s) + len(s) for s in stop if s in acting), default=None)


def cut(text: str, stop: Sequence[str]) -> str:
    """`text` up to its `end_of_action`; all of it if there is none."""
    return text[: end_of_action(text, stop)]


def without_tags(text: str) -> str:
    """A text of the question for the model's own turn: its tags and marks are broken by a space, `< ans>`."""
    for tag in (*TAGS, *REASONING, *REASONING.values()):
        text = text.replace(tag, f"{tag[0]} {tag[1:]}")
    return text


def answer_span(response: str) -> tuple[int, int] | None:
    """Character span `[start, stop)` of the answer that `parse` finds, without its tags; None if there is none."""
    spans = [m.span(2) for m in _tagged(response) if m[1] == "ans" and _words(m[2])]
    return spans[-1] if spans else None


def before_action(response: str) -> str:
    """A response up to its last opening tag, finished or not; all if there is none. Open reasoning is closed."""
    acting = _masked(response)
    start = max(acting.rfind(tag) for tag in (OPEN_ANSWER, "<keywords>", "<subquestion>"))
    said = response if start < 0 else response[:start]
    return said + unclosed(said)


def last_action_span(response: str) -> tuple[int, int]:
    """Character span `[start, stop)` of the last tagged action, tags included; the whole response if it has none."""
    spans = action_spans(response)
    return spans[-1] if spans else (0, len(response))


def _masked(response: str, aside: re.Pattern[str] = _ASIDE, *, quotes: bool = True) -> str:
    """A response with `_HIDDEN` for each character of its reasoning and, with `quotes`, of quoted tags; same length."""
    masked, closed = list(response), 0
    for m in aside.finditer(response):
        start = closed if m["closing"] else m.start()
        if quotes or not m["quote"]:
            masked[start : m.end()] = _HIDDEN * (m.end() - start)
        closed = m.end() if m["closing"] else closed
    return "".join(masked)


def _words(masked: str) -> str:
    return masked.replace(_HIDDEN, "").strip()
