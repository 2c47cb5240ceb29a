"""Tasks that come one by one: each is answered with the logs of those before it, and then logged, right or wrong.

A stream is what its journal says: which logs are kept follows from the traces in it and a rule.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lagkit.logs.encode import Encoder, kept_text
from lagkit.logs.index import Vectors
from lagkit.logs.store import Store
from lagkit.runs.answers import result_row
from lagkit.runs.experiment import Experiment
from lagkit.runs.fingerprints import of_question
from lagkit.runs.journal import Basis, Journal
from lagkit.stats import metrics
from lagkit.studies import asking
from lagkit.studies.transfer import kind_of
from lagkit.types import Question, Trace
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.progress import progress, warn


@dataclass(frozen=True)
class Rule:
    """Rule by which a store keeps incoming logs; without limits all of them.

    dedup: a log whose key is at least so similar (cosine) to that of a stored one is not added. cap: the most logs; the
    least recalled makes room for the next one, of equally recalled ones the oldest. Raises ConfigError for a cap below
    1.
    """

    dedup: float | None = None
    cap: int | None = None

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise ConfigError(f"A store cannot be capped at {self.cap} logs: give at least 1, or None for no cap.")

    def __str__(self) -> str:
        parts = [f"{name}-{value:g}" for name, value in vars(self).items() if value is not None]
        return ".".join(parts) or "append"


class Kept:
    """The logs that a rule keeps, oldest first, and how often each was recalled: in how many tasks it was retrieved."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.logs: dict[str, tuple[Trace, Vectors]] = {}
        self.recalls: Counter[str] = Counter()

    def take(self, trace: Trace, vector: Vectors) -> None:
        """Count what a task recalled, and log it unless it failed; `vector` [dim] is the embedding of its key."""
        self.recalls.update(recalled(trace))
        least = self.rule.dedup
        doubled = least is not None and any(float(np.dot(other, vector)) >= least for _, other in self.logs.values())
        if trace.error or doubled:
            return
        if len(self.logs) == self.rule.cap:
            gone = min(self.logs, key=lambda log: self.recalls[log])
            del self.logs[gone], self.recalls[gone]
        self.logs[trace.id] = (trace, vector)

    def judge(self, store: Store) -> None:
        """Remove from a store what is judged otherwise there, by gold answers that have changed."""
        kept = {log: trace.correct for log, (trace, _) in self.logs.items()}
        store.delete([log.id for log in store.traces() if log.correct != kept.get(log.id, log.correct)])

    def write(self, store: Store) -> None:
        """Bring a store to hold these logs and no others; what it holds already stays as it is."""
        held = set(store.ids)
        if gone := held - self.logs.keys():
            store.delete(gone)
        for log, (trace, vector) in self.logs.items():
            if log not in held:
                store.add(trace, vector)


class Step(NamedTuple):
    """A task of a stream: its trace, and what the store then held: `logs`, of which `right` ones."""

    trace: Trace
    logs: int
    right: int


class Online:
    """A run's log-store and unseen questions as streams, answered under one policy, in `online/` of the run's folder.

    Each rule and order has its own journal and store. Raises ConfigError as `asking.of_traces`.
    """

    def __init__(self, run: Experiment, policy: str) -> None:
        self.run, self.name = run, policy
        variant, self.policy = asking.of_traces(policy)
        self.limits = variant.limits(run.config.limits)
        seen, unseen = run.log_questions, run.questions("unseen")
        self.questions = (*seen, *unseen)
        self._asked = {question.id: question for question in self.questions}
        self._splits = {q.id: "seen" for q in seen} | {q.id: "unseen" for q in unseen}

    def order(self, number: int) -> tuple[Question, ...]:
        """The questions as they come in order `number`: a seeded shuffle, and with the next odd number its reverse."""
        drawn = list(self.questions)
        random.Random(f"stream {self.run.config.data.seed} {number // 2}").shuffle(drawn)
        return tuple(drawn[::-1] if number % 2 else drawn)

    def folder(self, rule: Rule, number: int) -> Path:
        """Folder of a stream: `traces.jsonl`, its journal, and `store/` as it is after the last task."""
        name = f"{self.name}.{rule}.{len(self.questions)}-tasks.order-{number}"
        return self.run.out / "online" / name.replace("/", "-")

    def stream(self, rule: Rule, number: int) -> list[Step]:
        """Answer the tasks that are not answered yet, one by one; all steps, those of earlier sessions included.

        A task that finds the store empty is answered without logs. One that failed for a reason that may have passed,
        or was worded otherwise, is asked again, and so is all that came after. Raises DataError if the journal holds
        other tasks than the order begins with.
        """
        order, book = self.order(number), Journal(self.folder(rule, number) / "traces.jsonl")
        with self.run.writing(), self.run.store(folder=self.folder(rule, number) / "store", write=True) as store:
            answered, kept = self._answered(book, order), Kept(rule)
            steps = [self._logged(trace, kept) for trace in answered]
            kept.judge(store)
            kept.write(store)  # a kill may have come between a task and this
            label = f"Stream: {rule}, order {number}"
            for question in progress(order[len(answered) :], label):
                trace = self._answer(question, store)
                book.append(trace, Basis(of_question(question)))
                steps.append(self._logged(trace, kept))
                kept.write(store)
        return steps

    def _answered(self, book: Journal, order: Sequence[Question]) -> list[Trace]:
        """The tasks whose answers count. One that was asked again takes the place of its answer and all after that."""
        places = {question.id: place for place, question in enumerate(order)}
        begun: list[tuple[Question, Trace, Basis]] = []
        for trace, basis in book.entries():
            place = places.get(trace.question_id, len(order))
            if place > len(begun):
                raise DataError(
                    f"{book.path} is not the beginning of its stream: delete its folder, and it starts anew."
                )
            begun[place:] = [(order[place], trace, basis)]
        counting = list(takewhile(lambda one: one[2].question == of_question(one[0]) and not one[1].passing, begun))
        if again := len(begun) - len(counting):
            warn(
                f"{book.path.parent.name}: task {len(counting) + 1} failed for a reason that may have passed, or is "
                f"worded otherwise now; from it on {again} tasks are asked again."
            )
        return [replace(trace, correct=metrics.is_right(q, trace.answer)) for q, trace, _ in counting]

    def _answer(self, question: Question, store: Store) -> Trace:
        agent = self.run.agent(self.policy if len(store) else None, self.name, store, limits=self.limits)
        [trace] = agent.run([question])
        return replace(trace, correct=metrics.is_right(question, trace.answer))

    def _logged(self, trace: Trace, kept: Kept) -> Step:
        # One by one, as they came: a batch might be embedded a little differently.
        kept.take(trace, self.run.embedder.documents([trace.key])[0])
        return Step(trace, len(kept.logs), sum(bool(log.correct) for log, _ in kept.logs.values()))

    def results(self, rules: Mapping[str, Rule], orders: int) -> pd.DataFrame:
        """One row per condition (a name of `rules`), order and task.

        Columns: `condition`, `order`, `place` (from 1), `split`, those of `answers.result_row`; `logs` in the store
        after the task, of which `right_logs`; and of the logs that it found, those that share a hop with it
        (`helpful`), and of these the wrong ones (`wrong_helpful`).
        """
        rows = []
        for condition, rule in rules.items():
            for number in range(orders):
                steps = self.stream(rule, number)
                logged = {step.trace.id: step.trace for step in steps}
                for place, (task, logs, right) in enumerate(steps, 1):
                    row = {"condition": condition, "order": number, "place": place, **self._row(task)}
                    question, found = self._asked[task.question_id], [logged[log] for log in recalled(task)]
                    helps = [log for log in found if kind_of(question, self._asked[log.question_id]) == "helpful"]
                    row |= {"logs": logs, "right_logs": right, "helpful": len(helps)}
                    rows.append(row | {"wrong_helpful": sum(not log.correct for log in helps)})
        return pd.DataFrame(rows)

    def references(self) -> pd.DataFrame:
        """The same questions without logs, and with the run's own store: a row per question and `condition`.

        In the `static` store, a log-store question does not find its own log. Columns: `condition`, `split`, those of
        `answers.result_row`.
        """
        answers = {"no_logs": self._without_logs, "static": self._static}
        rows = [{"condition": name, **self._row(trace)} for name, traces in answers.items() for trace in traces]
        return pd.DataFrame(rows)

    def stores(self, rules: Mapping[str, Rule], orders: int) -> pd.DataFrame:
        """State of the stores after the last task: a row per condition, means over its orders; `static` last.

        Columns: `logs`; the shares of these that are `right`, and that a task `recalled`; `bytes`, of the KV in the
        store (a stream encodes a log when it is first recalled), or of the text that the policy keeps.
        """
        rows = {}
        for condition, rule in rules.items():
            ends = []
            for number in range(orders):
                tasks = [step.trace for step in self.stream(rule, number)]
                with self.run.store(folder=self.folder(rule, number) / "store") as store:
                    ends.append(self._state(store, tasks))
            rows[condition] = pd.DataFrame(ends).mean()
        tasks = self._static
        with self.run.store() as store:
            rows["static"] = self._state(store, tasks)
        return pd.DataFrame(rows).T.rename_axis("condition")

    @cached_property
    def _without_logs(self) -> list[Trace]:
        logged = asking.answers(self.run, "no_logs", "log", self.run.log_questions)
        return logged + asking.answers(self.run, "no_logs", "no_logs.unseen", self.run.questions("unseen"))

    @cached_property
    def _static(self) -> list[Trace]:
        self.run.build()
        self.run.encode()
        run, name, unseen = self.run, self.name, self.run.questions("unseen")
        with run.store() as store:
            own = {trace.question_id: {trace.id} for trace in store.traces()}
            logged = asking.answers(run, name, f"{name}.leave-one-out", run.log_questions, store, exclude=own)
            return logged + asking.answers(run, name, f"{name}.unseen", unseen, store)

    def _row(self, trace: Trace) -> dict[str, Any]:
        return {"split": self._splits[trace.question_id], **result_row(self._asked[trace.question_id], trace)}

    def _state(self, store: Store, tasks: Iterable[Trace]) -> pd.Series:
        used, logs = set().union(*map(recalled, tasks)), list(store.traces())
        if self.policy.inject == "kv":
            size = store.summary()["bytes"].get(Encoder(self.run.local_lm, self.run.prompt).key(self.policy), 0)
        else:
            size = sum(len(kept_text(log, self.policy.keep).encode()) for log in logs)
        right, useful = sum(bool(log.correct) for log in logs), sum(log.id in used for log in logs)
        shares = {"right": right / len(logs), "recalled": useful / len(logs)}
        return pd.Series({"logs": len(logs), **shares, "bytes": size}, dtype=float)


def recalled(task: Trace) -> set[str]:
    """The ids of the logs that a task retrieved in any round."""
    return {hit.id for round_ in task.rounds for hit in round_.logs}
