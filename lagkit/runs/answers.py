"""Answers in a journal: which traces count, and which questions have to be asked (again)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from lagkit.logs.store import Store
from lagkit.model.prompts.actions import without_reasoning
from lagkit.runs import fingerprints
from lagkit.runs.journal import Basis, Journal
from lagkit.stats import metrics
from lagkit.types import Question, Trace
from lagkit.util.progress import warn

Logs = Callable[[str], str | None]  # question id -> digest of the logs in its reach; None where that is not known


def in_reach(store: Store | None, exclude: Mapping[str, Collection[str]] | None = None) -> Logs:
    """Digests of the logs of a store that a question may retrieve; `exclude` as in `Agent`."""
    if store is None:
        return lambda _: ""
    held = frozenset(store.ids)

    @cache
    def digest(barred: frozenset[str]) -> str:
        return fingerprints.of_logs(held - barred)

    return lambda question: digest(frozenset((exclude or {}).get(question, ())))


class Answers:
    """Answers to some questions in a journal: `found`, by question id, and `todo`, the questions to ask.

    The last trace of a question counts if the question and the logs in its reach have not changed since. It is scored
    by the current gold answers. Transient failures are in `found` and in `todo`.
    """

    def __init__(self, journal: Journal, questions: Iterable[Question], logs: Logs) -> None:
        self._journal, self._questions = journal, {question.id: question for question in questions}
        self._bases = {id: Basis(fingerprints.of_question(q), logs(id)) for id, q in self._questions.items()}
        self.read()

    def read(self) -> None:
        """Read the journal again: another process may have written."""
        self.found: dict[str, Trace] = {}
        others = set()
        for trace, basis in self._journal.entries():
            wanted = self._bases.get(trace.question_id)
            if wanted and wanted.question == basis.question and wanted.logs in (None, basis.logs):
                self._put(trace)
            else:
                others.add(trace.question_id)
        self.todo = {id: q for id, q in self._questions.items() if id not in self.found or self.found[id].passing}
        self._failed = sum(id in self.found for id in self.todo)
        self._outdated = len(others & self.todo.keys() - self.found.keys())

    def tell(self) -> None:
        """Warn how many questions are asked again, and why."""
        about = f"of {len(self._questions)} questions in {self._journal.path.stem}"
        if self._failed:
            warn(f"{self._failed} {about} failed for reasons that may have passed: they are asked again.")
        if self._outdated:
            warn(
                f"{self._outdated} {about} were answered as they are no longer asked, or with other logs: asked again."
            )

    def add(self, trace: Trace) -> None:
        """Append an answer to the journal."""
        trace = self._put(trace)
        self._journal.append(trace, self._bases[trace.question_id])

    def _put(self, trace: Trace) -> Trace:
        question = self._questions[trace.question_id]
        self.found[question.id] = trace = replace(trace, correct=metrics.is_right(question, trace.answer))
        return trace


def result_row(question: Question, trace: Trace) -> dict[str, Any]:
    """Outcome of one question: scores, rounds, whether it abstained (gave no tagged answer) or failed, and its cost.

    A last response that names the right option outside its reasoning counts in `accuracy_flexible` alone.
    """
    last = without_reasoning(trace.rounds[-1].response, quotes=False) if trace.rounds and not trace.error else ""
    return {
        "question_id": question.id,
        "answer": trace.answer,
        **metrics.score(question, trace.answer, last),
        "rounds": len(trace.rounds),
        "abstained": trace.answer is None and trace.error is None,
        "confidence": trace.confidence,
        "failed": trace.error is not None,
        "error": trace.error,
        **{name: getattr(trace.usage, name) for name in metrics.COSTS},
    }
