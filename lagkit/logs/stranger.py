"""Another context in the place of a log's own, token for token: controls for what kept tokens carry of theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from lagkit.types import Trace
from lagkit.util.errors import NoStranger

# Says nothing of any log, in words that the testbed's tokenizer has.
FILLER = "Write down the facts. Answer the question. Nothing is missing.\n\n"
_LOOKED_AT = 32  # logs of which the longest serves where none is long enough

Span = tuple[int, int]
Words = tuple[str, Sequence[int], Sequence[Span]]  # a text, its token ids, and the characters of each


class Logs(Protocol):
    """Logs by id: a store, or a dict of traces."""

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, log: str, /) -> Trace: ...


def find(trace: Trace, logs: Logs, length: Callable[[Trace], int]) -> Trace:
    """The log whose context stands in for that of `trace`, drawn by the log's id.

    length: of a log's context, in characters. The log shares no step with `trace`, and its context is as long or
    longer; else it is the longest of the first ones that are drawn. A log that is added later takes its place only
    where it is drawn earlier. Raises NoStranger.
    """
    own, wanted = _marks(trace), length(trace)

    def order(log: str) -> bytes:
        return hashlib.sha256(f"{trace.id} {log}".encode()).digest()

    others = (logs[log] for log in sorted(logs, key=order) if log != trace.id)
    unlike = (other for other in others if length(other) and not own & _marks(other))
    drawn: list[Trace] = []
    for other in islice(unlike, _LOOKED_AT):
        drawn.append(other)
        if length(other) >= wanted:
            break
    if not drawn:
        raise NoStranger(
            f"No other log can lend its context to log {trace.id}: each has a question, search, passage, log or answer "
            "in common with it, or nothing before what is kept. Add logs of other questions, or choose encode=filler."
        )
    return max(drawn, key=length)


def last(words: Words, count: int) -> Words:
    """The last `count` tokens of a text, which is repeated until it has as many."""
    text, ids, spans = words
    times = -(-count // len(ids))
    moved = [(start + i * len(text), stop + i * len(text)) for i in range(times) for start, stop in spans][-count:]
    first = moved[0][0]
    return (text * times)[first:], ([*ids] * times)[-count:], [(start - first, stop - first) for start, stop in moved]


def _marks(trace: Trace) -> set[tuple[str, str]]:
    """What two logs that share a step have in common: a question, a search, what either found, or the answer.

    A fact that both found in passages they have from the same one, where each is told once.
    """
    searched = [trace.question, *(round_.query for round_ in trace.rounds)]
    found = {("passage", hit.id) for round_ in trace.rounds for hit in round_.passages}
    found |= {("log", hit.id) for round_ in trace.rounds for hit in round_.logs} | {("log", trace.id)}
    said = {("words", " ".join(words.casefold().split())) for words in (*searched, trace.answer or "")}
    return found | {mark for mark in said if mark[1]} | {("question", trace.question_id)}
