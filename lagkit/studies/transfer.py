"""Negative transfer: stores of known composition, answers with and without them, and a threshold on similarity.

By gold reasoning, a log is *helpful* to a question if its question shares a hop with it, *contradicting* if it tells
such a hop otherwise (it was made when the world was another), *irrelevant* if they share none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import pandas as pd

from lagkit.datasets import loaders as data
from lagkit.policy import Variant
from lagkit.runs.config import Split
from lagkit.runs.experiment import Experiment
from lagkit.stats.intervals import Hops, mean_interval, paired_interval
from lagkit.studies import asking
from lagkit.types import Question, Trace
from lagkit.util.errors import ConfigError, DataError

Kind = Literal["contradicting", "helpful", "irrelevant"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ALL = -1.0  # no cosine similarity is lower: the threshold at which every log is used


@dataclass(frozen=True)
class Mix:
    """Composition of a store, in shares of the logged questions; a larger share contains a smaller one.

    removed: logs out of the reach of every question that shares a hop with them. changed: logs that gave way to those
    of the same questions in the changed world. Raises ConfigError for shares that are negative or add up to more than
    1.
    """

    removed: float = 0.0
    changed: float = 0.0

    def __post_init__(self) -> None:
        if min(self.removed, self.changed) < 0 or self.removed + self.changed > 1:
            raise ConfigError(
                f"A mix has removed={self.removed} and changed={self.changed}: give shares that add up to at most 1."
            )


UNCHANGED = Mix()


class Transfer:
    """A run, the logs of its world and of one in which some facts are changed, and what questions make of them.

    The changed world, in `changed-SHARE` of the run's folder, is None for data that are no test world. No question
    finds its own log, so the answers to log-store questions are leave-one-out. `changed_facts`: the share of the facts
    that differ. Raises ConfigError for a share outside 0..1, DataError for data that name no hops.
    """

    def __init__(self, run: Experiment, changed_facts: float = 0.5) -> None:
        if run.data.no_strata:
            raise DataError(f"{run.data.no_strata} So helpful logs cannot be told from irrelevant ones.")
        self.run, self.changed_facts = run, changed_facts
        self.changed = None
        if run.config.data.world is not None:
            world = {**run.config.data.world, "contradicted": changed_facts}
            self.changed = Experiment(run.config.derived(f"changed-{changed_facts:g}", world=world))

    def build(self) -> None:
        """Build and encode the logs of both worlds; what is there stays. The changed run's store holds them all."""
        self.run.build()
        self.run.encode()
        if self.changed is None:
            return
        self.changed.lm, self.changed.embedder = self.run.lm, self.run.embedder
        # Before those of the changed world: equal scores come oldest first, and shall do so as in the run's store.
        self.changed.build(after=self.run)
        self.changed.encode()

    def questions(self, split: Split) -> tuple[Question, ...]:
        """The questions that are answered: all logged ones, or the run's unseen ones."""
        return self.run.log_questions if split == "seen" else self.run.questions("unseen")

    def answers(self, policy: str, split: Split, mix: Mix = UNCHANGED, min_similarity: float = ALL) -> dict[str, Trace]:
        """Traces by question id, under a policy, with the logs of a mix that are similar enough; `build` comes first.

        What was answered earlier is read. Raises ConfigError for a mix with a changed world where there is none.
        """
        questions, variant = self.questions(split), Variant.parse(policy)
        if variant.policy is None:
            journal = "log" if (policy, split) == ("no_logs", "seen") else f"{policy}.{split}"
            return {trace.question_id: trace for trace in asking.answers(self.run, policy, journal, questions)}
        if mix.changed and self.changed is None:
            raise ConfigError("Only test worlds can be changed: leave `changed` at 0 for other data.")
        limits = variant.limits(self.run.config.limits)
        if min_similarity > ALL:
            limits = replace(limits, min_similarity=min_similarity)
        barred = {question.id: self._out_of_reach(question, mix) for question in questions}
        journal = self._journal(policy, split, mix, min_similarity)
        with (self.changed or self.run).store() as store:
            traces = asking.answers(self.run, policy, journal, questions, store, limits=limits, exclude=barred)
        return {trace.question_id: trace for trace in traces}

    def outcomes(self, policy: str, split: Split, mix: Mix = UNCHANGED, min_similarity: float = ALL) -> pd.DataFrame:
        """Effect of logs on each question: a row each, by its id.

        Columns: `stratum`, the question's overlap with the (other) logged ones; whether it is right `without` and
        `with_logs`; `kind`, the first of `KINDS` that a log it found is of (None where it found none); `best`, the
        highest similarity of a log of that kind.
        """
        before, after = self.answers("no_logs", split), self.answers(policy, split, mix, min_similarity)
        rows = {}
        for question in self.questions(split):
            best: dict[Kind, float] = {}
            for hit in (hit for round in after[question.id].rounds for hit in round.logs):
                kind = kind_of(question, self._logged[hit.id])
                best[kind] = max(hit.score, best.get(kind, ALL))
            most = next((kind for kind in KINDS if kind in best), None)
            rows[question.id] = {
                "stratum": data.overlap([q for q in self.run.log_questions if q.id != question.id], question),
                "without": bool(before[question.id].correct),
                "with_logs": bool(after[question.id].correct),
                "kind": most,
                "best": best[most] if most else float("nan"),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def sweep(self, policy: str, thresholds: Sequence[float], mix: Mix = UNCHANGED) -> pd.DataFrame:
        """Thresholds on the log-store split, leave-one-out: a row each, `ALL` first.

        Columns: `right`, the share of right answers; `positive` and `negative` transfer; the paired difference in right
        answers to using all logs, as in `intervals.Difference`.
        """
        hops = data.hops(self.questions("seen"))
        found = {threshold: self.outcomes(policy, "seen", mix, threshold) for threshold in (ALL, *thresholds)}
        rows = {}
        for threshold, outcomes in found.items():
            moved = transfer(outcomes, hops)["mean"]
            gain = paired_interval(found[ALL]["with_logs"], outcomes["with_logs"], hops)
            rows[threshold] = {"right": outcomes["with_logs"].mean(), **moved[["positive", "negative"]], **asdict(gain)}
        rows[ALL] |= {"low": float("nan"), "high": float("nan")}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("threshold")

    @cached_property
    def _places(self) -> list[tuple[Question, str | None, str | None]]:
        """Logged questions, the ids of their logs and of those in the changed world (None: there is none).

        In the order in which they are removed; they are changed from the other end.
        """
        with self.run.store() as store:
            own = {trace.question: trace.id for trace in store.traces()}
        changed = {trace.question: trace.id for trace in self.changed.logs} if self.changed else {}
        places = [(q, own.get(q.text), changed.get(q.text)) for q in self.run.log_questions]
        random.Random(f"mix {self.run.config.data.seed}").shuffle(places)
        return places

    @cached_property
    def _logged(self) -> Mapping[str, Question]:
        """The question of each log, as it is answered in the log's world."""
        retold = {q.text: q for q in self.changed.log_questions} if self.changed else {}
        of_changed = {changed: retold[question.text] for question, _, changed in self._places if changed}
        return of_changed | {own: question for question, own, _ in self._places if own}

    def _out_of_reach(self, question: Question, mix: Mix) -> set[str]:
        """The logs that a question cannot find: in each place stands one of two, or none."""
        excluded: set[str | None] = set()
        last = len(self._places) - round(mix.changed * len(self._places))
        for number, (logged, own, changed) in enumerate(self._places):
            standing = own if number < last else changed
            removed = number < round(mix.removed * len(self._places))
            if logged.id == question.id or (removed and kind_of(question, logged) != "irrelevant"):
                standing = None
            excluded |= {own, changed} - {standing}
        return {log for log in excluded if log is not None}

    def _journal(self, policy: str, split: Split, mix: Mix, min_similarity: float) -> str:
        """The answers of unseen questions with the logs as they are, are the run's own."""
        parts = [policy, "unseen" if split == "unseen" else "leave-one-out"]
        parts += [f"removed-{mix.removed:g}"] if mix.removed else []
        parts += [f"changed-{mix.changed:g}-of-{self.changed_facts:g}"] if mix.changed else []
        parts += [f"min-{min_similarity:g}"] if min_similarity > ALL else []
        return ".".join(parts)


def kind_of(question: Question, logged: Question) -> Kind:
    """Relation of the log of `logged` to a question, by the hops of their gold reasoning."""
    told = {hop.id: hop.answer for hop in logged.hops}
    agree = [told[hop.id] == hop.answer for hop in question.hops if hop.id in told]
    return "irrelevant" if not agree else "helpful" if all(agree) else "contradicting"


def transfer(outcomes: pd.DataFrame, hops: Hops) -> pd.DataFrame:
    """Shares of questions wrong without logs and right with them (`positive`), the other way round (`negative`), and
    the first less the second (`net`): columns as in `intervals.Difference`."""
    before, after = outcomes["without"], outcomes["with_logs"]
    found = {
        "positive": mean_interval((after & ~before).astype(float), hops),
        "negative": mean_interval((before & ~after).astype(float), hops),
        "net": paired_interval(before, after, hops),
    }
    return pd.DataFrame({name: asdict(difference) for name, difference in found.items()}).T


def choose(sweep: pd.DataFrame) -> float:
    """The threshold with the most right answers; of equal ones the lowest, which interferes least."""
    return float(sweep["right"].sort_index().idxmax())
