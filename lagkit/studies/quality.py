"""Quality of logs: stores of some of a run's logs, by the share of wrong ones, and by filters.

A log is right if its answer is, and wrong if it has another answer or none. Filters do without the gold answers.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import cached_property

import pandas as pd

from lagkit.datasets.letters import choice_letter
from lagkit.datasets.loaders import hops, overlaps
from lagkit.policy import Variant
from lagkit.runs.experiment import Experiment
from lagkit.runs.fingerprints import of_logs
from lagkit.stats import metrics
from lagkit.stats.intervals import share_interval
from lagkit.studies import asking
from lagkit.types import Passage, Question, Trace
from lagkit.util.errors import ConfigError, DataError

FILTERS = ("answered", "agreement", "supported", "confidence")
CHOICES = ("all", "right", "wrong", *FILTERS)
SURE = 0.5  # the share of the logs with an answer that `confidence` keeps


def forced(run: Experiment) -> Experiment:
    """The run whose logs were made by an agent that has to answer in the end, in the folder `forced` of `run`."""
    return Experiment(run.config.derived("forced", force_answer=True))


class Logs:
    """The logs of a run, and what the unseen questions make of some of them.

    asked: the run whose questions are answered, and in whose folder the answers are kept, by which logs there are; by
    default `run` itself. second: the variant without logs under which the log questions are answered again for the
    filter `agreement`; by default a passage more. Raises ConfigError for one that reuses logs, or is no variant.
    """

    def __init__(self, run: Experiment, asked: Experiment | None = None, second: str = "") -> None:
        self.run, self.asked = run, asked or run
        self.second = Variant.parse(second or f"no_logs+passages={run.config.limits.passages + 1}")
        if self.second.policy:
            raise ConfigError(f"The second run of the log questions is without logs, and {second!r} is not.")

    def build(self) -> None:
        """Build and encode the logs; what is there stays."""
        self.run.lm, self.run.embedder, self.run.passages = self.asked.lm, self.asked.embedder, self.asked.passages
        self.run.build()
        self.run.encode()

    @cached_property
    def traces(self) -> dict[str, Trace]:
        """The logs by their ids, in the order in which the store holds them."""
        with self.run.store() as store:
            return {trace.id: trace for trace in store.traces()}

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each log: `question_id`, `right`, `answered`, `kind` (right, wrong answer or no answer),
        `confidence`, `rounds`, and the number of `hops` of its question."""
        asked = self._questions
        rows = {
            id: {
                "question_id": trace.question_id,
                "right": bool(trace.correct),
                "answered": trace.answer is not None,
                "kind": "right" if trace.correct else "no answer" if trace.answer is None else "wrong answer",
                "confidence": trace.confidence,
                "rounds": len(trace.rounds),
                "hops": len(asked[trace.question_id].hops),
            }
            for id, trace in self.traces.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").astype({"confidence": float}).rename_axis("log")

    def results(self, policy: str, logs: Collection[str], label: str = "") -> pd.DataFrame:
        """The unseen questions, answered under a policy with these logs (ids) alone: as `metrics.compare` takes them.

        `label` stands in the place of the policy's name. Raises ConfigError as `asking.of_traces`.
        """
        questions = self.asked.questions("unseen")
        asking.of_traces(policy)  # only to refuse other policies: `answers` takes any
        with self.run.store() as store:
            out_of_reach = set(store.ids) - set(logs)
            journal = f"{policy}.unseen"
            if out_of_reach or self.run is not self.asked:
                journal += f".only-{len(logs)}-{of_logs(logs)}"
            exclude = dict.fromkeys((question.id for question in questions), out_of_reach)
            traces = asking.answers(self.asked, policy, journal, questions, store, exclude=exclude)
        return asking.scored(questions, traces, policy=label or policy, split="unseen")

    def without(self) -> pd.DataFrame:
        """The unseen questions, answered without logs."""
        questions = self.asked.questions("unseen")
        traces = asking.answers(self.asked, "no_logs", "no_logs.unseen", questions)
        return asking.scored(questions, traces, policy="no_logs", split="unseen")

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of a right and a wrong log whose questions have as many hops, in drawn order; DataError without any."""
        wrong_of: dict[str, str] = {}
        for _, same in self.table.loc[self._order].groupby("hops"):
            wrong_of |= zip(same.index[same["right"]], same.index[~same["right"]], strict=False)
        if not wrong_of:
            raise DataError(
                f"{self.table['right'].sum()} of {len(self.table)} logs are right, and none of them belongs to a "
                "question of as many hops as a wrong one's: build more logs (log_questions)."
            )
        return [(log, wrong_of[log]) for log in self._order if log in wrong_of]

    def mixture(self, share: float) -> list[str]:
        """A log of each of the `pairs`, the wrong one in this share of them; ConfigError for one outside 0..1."""
        if not 0 <= share <= 1:
            raise ConfigError(f"A share of wrong logs lies between 0 and 1, and {share} does not.")
        bad = round(share * len(self.pairs))
        return [wrong if place < bad else right for place, (right, wrong) in enumerate(self.pairs)]

    def reach(self, logs: Collection[str]) -> float:
        """The share of unseen questions that share a hop with the question of one of these logs; NaN without hops."""
        if self.asked.data.no_strata:
            return float("nan")
        told = [self._questions[self.traces[log].question_id] for log in logs]
        strata = overlaps(told, self.asked.questions("unseen"))
        return 1 - strata.count("none") / len(strata)

    def at_random(self, number: int) -> list[str]:
        """Logs drawn at random by the run's seed; a larger number contains a smaller one."""
        return self._order[:number]

    def keep(self, choice: str) -> list[str]:
        """The ids of the logs that a choice (of `CHOICES`) keeps. Raises ConfigError for one that is `unusable`.

        right, wrong: by the gold answers. agreement: the second run gave the same answer. supported: its words stand in
        a passage that the log has read. confidence: the half of the logs with an answer that were the surest of it.
        """
        if why := self.unusable(choice):
            raise ConfigError(why)
        table = self.table
        match choice:
            case "all":
                kept = table.index
            case "wrong":
                kept = table.index[~table["right"]]
            case "right" | "answered":
                kept = table.index[table[choice]]
            case "confidence":
                sure = table["confidence"].dropna().sort_values(ascending=False, kind="stable")
                kept = table.index[table.index.isin(sure.index[: round(SURE * len(sure))])]
            case _:
                holds = self._agrees if choice == "agreement" else self._supported
                kept = [log for log, trace in self.traces.items() if holds(trace)]
        return list(kept)

    def unusable(self, choice: str) -> str:
        """Reason why the run cannot apply a choice, in a sentence; empty if it can."""
        if choice not in CHOICES:
            return f"There is no filter {choice!r}: use one of {', '.join(CHOICES)}."
        kind, limits = self.run.data.kind, self.run.config.limits
        if choice == "supported" and kind == "choice":
            return "Multiple choice retrieves no passages, so none can support an answer: the filter is left out."
        if choice == "confidence" and self.table["confidence"].notna().sum() < 2:
            return "The logs do not tell how probable their answers were: build them anew to filter by confidence."
        same = self.second.limits(limits) == limits
        if choice == "agreement" and (same or (kind == "choice" and set(self.second.changes) <= {"passages"})):
            return f"{self.second.name} would only repeat the first run: name another second one to filter by it."
        return ""

    @cached_property
    def again(self) -> dict[str, Trace]:
        """The second run of the log questions, by question id; what was answered earlier is read."""
        traces = asking.answers(self.run, self.second.name, f"{self.second.name}.log", self.run.log_questions)
        return {trace.question_id: trace for trace in traces}

    def _agrees(self, log: Trace) -> bool:
        question = self._questions[log.question_id]
        return same_answer(question, log.answer, self.again[question.id].answer)

    def _supported(self, log: Trace) -> bool:
        read, passages = {hit.id for round in log.rounds for hit in round.passages}, self.run.passages
        return passages is not None and any(says(passages.passage(id), log.answer) for id in read)

    @cached_property
    def _questions(self) -> dict[str, Question]:
        return {question.id: question for question in self.run.log_questions}

    @cached_property
    def _order(self) -> list[str]:
        """The logs in the order in which they are drawn; by their questions, so that two runs draw the same ones."""
        place = list(self._questions)
        random.Random(f"quality {self.run.config.data.seed}").shuffle(place)
        by_question = {trace.question_id: id for id, trace in self.traces.items()}
        return [by_question[id] for id in place if id in by_question]


def same_answer(question: Question, first: str | None, second: str | None) -> bool:
    """True if both are answers, and the same in normal form; for multiple choice, if they name one option."""
    if question.kind == "choice":
        first, second = (choice_letter(text, len(question.choices), strict=False) for text in (first, second))
    return first is not None and second is not None and metrics.normalize(first) == metrics.normalize(second)


def says(passage: Passage, answer: str | None) -> bool:
    """True if the words of an answer stand in a passage or its title, one after another, in normal form."""
    words = metrics.normalize(answer or "")
    return bool(words) and f" {words} " in f" {metrics.normalize(f'{passage.title} {passage.text}')} "


def by_share(logs: Logs, policies: Sequence[str], shares: Sequence[float]) -> pd.DataFrame:
    """Unseen questions by the share of wrong logs: a row for each `policy`, `share` and `metric`.

    Further columns: `reach` as of `Logs.reach`, and those of `against`, compared with `no_logs`.
    """
    base, rows = logs.without(), []
    for policy in policies:
        for share in shares:
            mixture = logs.mixture(share)
            found = against(logs, base, logs.results(policy, mixture)).assign(reach=logs.reach(mixture))
            rows += [{"policy": policy, "share": share, "metric": metric, **row} for metric, row in found.iterrows()]
    return pd.DataFrame(rows)


def against(logs: Logs, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Two results for the same unseen questions: by metric, the means `value` (after) and `base` (before), and the
    paired difference."""
    both = pd.concat([before.assign(policy="before"), after.assign(policy="after")])
    found = metrics.compare(both, hops(logs.asked.questions("unseen")), "before").droplevel(["policy", "split"])
    means = {name: results[list(found.index)].mean() for name, results in (("value", after), ("base", before))}
    return found.assign(**means)


def judge(logs: Logs, choices: Sequence[str]) -> pd.DataFrame:
    """Precision and recall of choices for right logs: a row for each choice and metric.

    Columns: `kept`, their number, and the share as in `intervals.share_interval`; a choice that keeps nothing has no
    precision. Raises DataError if no log is right.
    """
    shared, rows = hops(logs.run.log_questions), {}
    right = logs.table.set_index("question_id")["right"]
    for choice in choices:
        kept = pd.Series(logs.table.index.isin(logs.keep(choice)), right.index)
        for metric, values in (("precision", right[kept]), ("recall", kept[right])):
            if len(values) or metric == "recall":
                rows[choice, metric] = {"kept": int(kept.sum()), **asdict(share_interval(values, shared))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["filter", "metric"])


def gains(logs: Logs, policy: str, choices: Sequence[str]) -> pd.DataFrame:
    """Unseen questions with the logs that each choice (`filter`) keeps, `against` all logs and as many at random."""
    every = logs.results(policy, logs.keep("all"))
    rows: dict[tuple[str, str], pd.DataFrame] = {}
    for choice in choices:
        kept = logs.keep(choice)
        own, drawn = logs.results(policy, kept), logs.results(policy, logs.at_random(len(kept)))
        rows[choice, "all logs"] = against(logs, every, own)
        rows[choice, "as many at random"] = against(logs, drawn, own)
    return pd.concat(rows, names=["filter", "against"])
