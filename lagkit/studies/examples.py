"""Questions as they meet logs: what a model reads in its first round, the nearest log, and one of somebody else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lagkit.runs.experiment import Experiment
from lagkit.types import Question, Trace
from lagkit.util.errors import DataError


@dataclass(frozen=True)
class Case:
    """A question, its first user turn, the log that it is shown, and another log, drawn at random."""

    question: Question
    user_turn: str
    log: Trace
    stranger: Trace


@dataclass(frozen=True)
class Meeting:
    """An unseen question in its first round: its user turn, and the logs that it finds, best first."""

    question: Question
    user_turn: str
    logs: tuple[Trace, ...]


def revisit(run: Experiment, n: int, *, rounds: int = 2) -> list[Case]:
    """Questions of `n` logs that are right and have at least `rounds` rounds (or of all, if fewer), with their own log.

    The run's logs must be built. Strangers are drawn among logs with as many rounds where there are any. Raises
    DataError when there is no such log.
    """
    logs = run.logs
    asked = {question.id: question for question in run.log_questions}
    right = [log for log in logs if log.correct and log.question_id in asked]
    long = [log for log in right if sum(bool(round_.response) for round_ in log.rounds) >= rounds]
    if not long:
        raise DataError(
            f"None of {len(logs)} logs is right and has {rounds} rounds: build more, or allow fewer rounds."
        )
    drawn = random.Random(run.config.data.seed).sample(long, min(n, len(long)))
    questions, draw = [asked[log.question_id] for log in drawn], random.Random(run.config.data.seed)
    turns = first_turns(run, questions)
    return [Case(q, t, log, _stranger(log, logs, draw)) for q, t, log in zip(questions, turns, drawn, strict=True)]


def first_turns(run: Experiment, questions: Sequence[Question]) -> list[str]:
    """First user turn of each question: the passages that the question itself finds, and the question."""
    if run.passages is None:
        return [run.prompt.user_turn(question, []) for question in questions]
    index, k, vectors = run.passages, run.config.limits.passages, run.embedder.queries([q.text for q in questions])
    found = [[index.passage(hit.id) for hit in index.search(vector[None], k)[0]] for vector in vectors]
    return [run.prompt.user_turn(*asked) for asked in zip(questions, found, strict=True)]


def meetings(run: Experiment, n: int, logs: int = 0) -> list[Meeting]:
    """The first `n` unseen questions, each with its nearest `logs` (0: as many as the run shows) of those built."""
    questions = run.questions("unseen")[:n]
    vectors = run.embedder.queries([question.text for question in questions])
    with run.store() as store:
        hits = store.search(vectors, k=logs or run.config.limits.logs)
        found = [tuple(store.get(hit.id) for hit in own) for own in hits]
    return [Meeting(*parts) for parts in zip(questions, first_turns(run, questions), found, strict=True)]


def meet(run: Experiment, n: int) -> list[Case]:
    """The first `n` unseen questions, each with its nearest log; otherwise as `revisit`."""
    draw, logs = random.Random(run.config.data.seed), run.logs
    met = meetings(run, n, 1)
    return [Case(one.question, one.user_turn, one.logs[0], _stranger(one.logs[0], logs, draw)) for one in met]


def _stranger(log: Trace, logs: Sequence[Trace], draw: random.Random) -> Trace:
    others = [other for other in logs if other.question_id != log.question_id and other.rounds]
    alike = [other for other in others if len(other.rounds) == len(log.rounds)]
    if not others:
        raise DataError("There is one log only: build more, to have another one to compare with.")
    return draw.choice(alike or others)
