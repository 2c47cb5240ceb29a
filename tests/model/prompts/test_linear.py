"""A megabyte of text, however it is made up, is read in seconds by all that takes text from a model or from data."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lagkit.datasets import letters
from lagkit.datasets.layouts import _supporting_title
from lagkit.logs.encode import kept_text
from lagkit.model.prompts import actions
from lagkit.model.prompts.untrusted import breaker
from lagkit.stats import metrics
from lagkit.types import Round, Trace
from lagkit.util.markdown import literal
from lagkit.util.secrets import scrub
from lagkit.views.widgets.pages import kept_html, trace_html

# Seconds for each length: what is linear takes a fraction of them; what is quadratic takes more, up to hours.
SIZES = [(50_000, 0.2), pytest.param(1_000_000, 5.0, marks=pytest.mark.slow)]

PIECES = ("<ans>", "<keywords><ans>", "</ans>", "<ans></ans>", "<ans>x</ans>", "<subquestion>a</subquestion>")
PIECES += (
    "<think>",
    "</think>",
    "<think></think>",
    " `<ans>",
    "answer is ",
    "answer: (",
    "(A",
    "(A)",
    "a ",
    " (",
    " ",
    "\n",
    "*",
    "1",
    "://a@",
    "://",
    "<|x|",
    "`",
)
STOP = actions.STOP_STRINGS["qa"]


def trace(text: str) -> Trace:
    return Trace("q", text, text, (Round("query", text, text),), text)


READERS: dict[str, Callable[[str], object]] = {
    "parse": lambda text: actions.parse(text, "qa"),
    "parse a choice": lambda text: actions.parse(text, "choice"),
    "cut": lambda text: actions.cut(text, STOP),
    "unclosed": actions.unclosed,
    "without_reasoning": actions.without_reasoning,
    "without_tags": actions.without_tags,
    "answer_span": actions.answer_span,
    "before_action": actions.before_action,
    "last_action_span": actions.last_action_span,
    "kept_text": lambda text: kept_text(trace(text), "last_action"),
    "choice_letter": lambda text: letters.choice_letter(text, 4, strict=False),
    "normalize": metrics.normalize,
    "f1": lambda text: metrics.f1(text, ["a b"]),
    "scrub": scrub,
    "literal": literal,
    "breaker": breaker(["<|x|>", "<<"]),
    "title": lambda text: _supporting_title("a", 0, [text], aligned=False),
    "trace_html": lambda text: trace_html(trace(text)),
    "kept_html": lambda text: kept_html(trace(text), "text_last_round"),
}


@pytest.mark.parametrize(("size", "seconds"), SIZES)
@pytest.mark.parametrize("reader", READERS)
def test_a_long_text_is_read_in_no_time(reader, size, seconds):
    for piece in PIECES:
        text = piece * (size // len(piece))
        for spelled in (f"{text}x", f"<ans>answer is {text}"):
            began = time.process_time()
            READERS[reader](spelled)
            assert time.process_time() - began < seconds, (piece, spelled[:20])


def test_what_stands_in_tags_is_found_as_a_plain_pattern_finds_it():
    text = "<ans><keywords>a</ans></keywords><ans>b<ans></ans><subquestion><ans>"
    assert [text[start:stop] for start, stop in actions.action_spans(text)] == [
        "<ans><keywords>a</ans>",
        "<ans>b<ans></ans>",
    ]
