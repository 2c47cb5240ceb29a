"""Texts that search are embedded as queries, texts that are found as documents: an embedder may tell them apart.

The nightly's gates cannot see a swap, since the testbed's embedder gives a text one vector in either role.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from lagkit.agent.loop import Agent
from lagkit.logs.holding import hold
from lagkit.logs.index import Vectors
from lagkit.logs.retrieve import HashEmbedder
from lagkit.runs.experiment import Experiment
from lagkit.studies.online import Online, Rule
from tests.helpers import lms

POLICY = "text_last_round_user_turn"
SIZES = {"policies": ("no_logs", POLICY), "splits": ("unseen",), "log_questions": 3, "unseen_questions": 2}
Texts = dict[str, set[str]]


class Noting(HashEmbedder):
    """Notes which texts it embedded in which role."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Texts = {"queries": set(), "documents": set()}

    def queries(self, texts: Sequence[str]) -> Vectors:
        self.asked["queries"].update(texts)
        return super().queries(texts)

    def documents(self, texts: Sequence[str]) -> Vectors:
        self.asked["documents"].update(texts)
        return super().queries(texts)


def embedded(out: Path) -> tuple[Texts, Texts]:
    """What a run and an online stream embed in which role, and what they should."""
    embedder, lm = Noting(), lms.new_lm(lms.ActingLM)
    run = Experiment(lms.small_run(out, lm, **SIZES).config, lm=lm, embedder=embedder)
    run.run()
    streamed = [step.trace for step in Online(run, POLICY).stream(Rule(), 0)]
    answered = [t for book in (out / "traces").glob("*.jsonl") for t in run.journal(book.stem).traces()]
    return embedder.asked, {
        "queries": {round_.query for trace in (*answered, *streamed) for round_ in trace.rounds},
        "documents": {f"{p.title}\n{p.text}".strip() for p in run.data.passages}
        | {trace.key for trace in (*run.logs, *streamed)},
    }


def test_what_searches_is_a_query_and_what_is_found_a_document(tmp_path):
    found, wanted = embedded(tmp_path)
    assert found == wanted


@pytest.mark.parametrize("swapped", ["agent", "logs"])
def test_a_swap_that_is_planted_is_seen(tmp_path, monkeypatch, swapped):
    if swapped == "agent":
        init = Agent.__init__
        monkeypatch.setattr(
            Agent,
            "__init__",
            lambda self, *given, embedder, **how: init(
                self,
                *given,
                embedder=SimpleNamespace(name=embedder.name, dim=embedder.dim, queries=embedder.documents),
                **how,
            ),
        )
    else:
        monkeypatch.setattr(
            "lagkit.runs.experiment.holding.hold",
            lambda store, logs, ours, embed: hold(store, logs, ours, embed.__self__.queries),
        )
    found, wanted = embedded(tmp_path)
    assert found != wanted
