"""Logs for the widgets, two or three, the question that they help with, and what a model says to it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from lagkit.logs.retrieve import HashEmbedder
from tests.helpers.lms import qa, short_prompt, trace_of

T = TypeVar("T")
PROMPT, EMBEDDER = short_prompt(), HashEmbedder()
QUESTION = qa("Where does the Danube end?", "Black Sea")
SEARCH, ANSWER = "Not told. <keywords>Danube</keywords>", "It is told. <ans>Black Sea</ans>"
TRACES = (
    trace_of("It ends in <ans>Sea</ans>", question="Where does the Danube end?", id="q1"),
    trace_of("Hm. <keywords>x</keywords>", "<ans>Ice</ans>", question="What is <b>cold</b>?", id="q2"),
)
JUDGED = (
    replace(trace_of("In the <ans>Sea</ans>", question="Where does the Danube end?", id="q1"), correct=False),
    replace(trace_of(SEARCH, "<ans>Ice</ans>", question="What is cold?", id="q2"), correct=True, answer="Ice"),
    trace_of("Hm.", "Hm.", "Hm.", question="What is warm?", id="q3"),
)


def loaded(value: T) -> Future[T]:
    """What would be loaded in the background, and is there at once."""
    found: Future[T] = Future()
    found.set_result(value)
    return found
