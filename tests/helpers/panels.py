"""A store of two logs for the widgets, the questions that they answer, and what a model says to these."""

from __future__ import annotations

from concurrent.futures import Future
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


def loaded(value: T) -> Future[T]:
    """What would be loaded in the background, and is there at once."""
    found: Future[T] = Future()
    found.set_result(value)
    return found
