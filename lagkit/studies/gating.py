"""Gates on reuse: logs only from a similarity on, and only where the model is not less sure of its answer with them.

Confidence is the mean log-probability of an answer's tokens (`Trace.confidence`), in nats per token. A gate on it is
applied to two runs of the same questions that have ended, one without logs and one with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from lagkit.stats.intervals import Difference, Hops, paired_interval, paired_intervals, wilson
from lagkit.stats.metrics import COSTS
from lagkit.stats.wording import judged
from lagkit.studies.transfer import ALL
from lagkit.types import Trace
from lagkit.util.errors import DataError

_FEWEST = 5  # right answers, and wrong ones, from which an area is told

# The columns of `gated` that a table shows.
SHOWN = ["right", "rounds", "prefilled", "injected", "generated"]

# The margins at which confidence is not asked: it never falls by so much, or always does.
BACKUP = math.inf  # the answer without logs is taken only where logs leave none
LAST_RESORT = -math.inf  # logs are used only where there is no answer without them


@dataclass(frozen=True)
class Gate:
    """Condition for taking the answer with logs.

    min_similarity: logs that are less similar to the query are not used, in any round (`ALL`: none is). margin: None
    takes the answer with logs whatever it is. With a number the question is answered twice, with logs and without: an
    answer beats none, and of two answers the one with logs is taken, unless its confidence is lower than the other's by
    more than `margin` (of unknown ones it is equal). At `BACKUP` it may fall as it likes, at `LAST_RESORT` no rise is
    enough.
    """

    min_similarity: float = ALL
    margin: float | None = None

    def __str__(self) -> str:
        similar = "all logs" if self.min_similarity <= ALL else f"logs from {self.min_similarity:g} on"
        if self.margin is None:
            return similar
        rules = {BACKUP: "else without", LAST_RESORT: "where none without", 0.0: "if confidence does not fall"}
        return f"{similar}, {rules.get(self.margin, f'if confidence falls by {self.margin:g} at most')}"


def takes_logs(without: Trace, with_logs: Trace, margin: float) -> bool:
    """Whether a gate of that margin takes the answer with logs; what is taken has one if either run has."""
    if without.answer is None or with_logs.answer is None:
        return without.answer is None
    if without.confidence is None or with_logs.confidence is None:
        return margin >= 0
    return without.confidence - with_logs.confidence <= margin


def gated(without: Mapping[str, Trace], with_logs: Mapping[str, Trace], margin: float | None) -> pd.DataFrame:
    """Outcome of a gate's margin on two runs of the same questions: a row each, by its id.

    Columns: `logs`, whether the answer with logs was taken; `answered`; `right`; `rounds` and `metrics.COSTS`, of all
    runs that the gate needs. Raises DataError if the runs hold different questions, or if confidence is asked and no
    answer of a run has one.
    """
    if without.keys() != with_logs.keys():
        raise DataError("The runs without logs and with them hold different questions: gate runs of the same ones.")
    if margin is not None and math.isfinite(margin):
        _check_told(without.values(), "without")
        _check_told(with_logs.values(), "with")
    rows = {}
    for id, after in with_logs.items():
        before = without[id]
        logs = margin is None or takes_logs(before, after, margin)
        taken, runs = after if logs else before, _needed(before, after, margin)
        rows[id] = {
            "logs": logs,
            "answered": taken.answer is not None,
            "right": bool(taken.correct),
            "rounds": sum(len(run.rounds) for run in runs),
            **{cost: sum(getattr(run.usage, cost) for run in runs) for cost in COSTS},
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _needed(without: Trace, with_logs: Trace, margin: float | None) -> list[Trace]:
    """The runs that had to be made."""
    if margin is None or (margin == BACKUP and with_logs.answer is not None):
        return [with_logs]
    if margin == LAST_RESORT and without.answer is not None:
        return [without]
    return [without, with_logs]


def choose_gates(right: Mapping[Gate, float]) -> dict[str, Gate]:
    """The best gate of each kind: `all logs`, `similar logs`, `confident answers` (all logs, and a margin), `both`.

    right: the share of right answers of each candidate, `Gate()` among them. Of equally good gates it is the one of the
    lowest similarity, then the largest margin.
    """
    order = sorted(
        right, key=lambda gate: (-right[gate], gate.min_similarity, gate.margin is not None, -(gate.margin or 0.0))
    )
    return {
        "all logs": Gate(),
        "similar logs": next(gate for gate in order if gate.margin is None),
        "confident answers": next(gate for gate in order if gate.min_similarity == ALL),
        "both": order[0],
    }


def confidences(without: Mapping[str, Trace], with_logs: Mapping[str, Trace]) -> pd.DataFrame:
    """Confidence by question: `sure_without`, `sure_with_logs`, and `change`, the second less the first; NaN:
    unknown."""
    rows = {id: (without[id].confidence, trace.confidence) for id, trace in with_logs.items()}
    columns = ["sure_without", "sure_with_logs"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)
    return table.assign(change=table["sure_with_logs"] - table["sure_without"])


def discrimination(outcomes: pd.DataFrame, hops: Hops) -> pd.DataFrame:
    """Area under the ROC curve of confidence for right answers: a row for each kind of answers.

    outcomes: as `Transfer.outcomes` gives them, with the columns of `confidences`. `change, right without`: whether
    confidence changes otherwise where logs cost the right answer. Columns: how many `answers` have a confidence, the
    share `right`, the `median` of confidence or its change, and the area as `auc` gives it (`mean`, `low`, `high`,
    ...).
    """
    parts = {
        "without logs": (outcomes, "sure_without", "without"),
        "with logs": (outcomes, "sure_with_logs", "with_logs"),
        **{f"with logs, {kind}": (own, "sure_with_logs", "with_logs") for kind, own in outcomes.groupby("kind")},
        "change, right without": (outcomes[outcomes["without"]], "change", "with_logs"),
    }
    rows = {}
    for name, (part, score, right) in parts.items():
        told = part.dropna(subset=[score])
        facts = {"answers": len(told), "right": told[right].mean(), "median": told[score].median()}
        rows[name] = facts | asdict(auc(told[score], told[right], hops))
    return pd.DataFrame.from_dict(rows, orient="index")


def against_chance(told: pd.DataFrame) -> pd.DataFrame:
    """`discrimination` as a table: `answers`, `right`, `median`, the `AUC` with its interval, and the `verdict`."""
    table = told[["answers", "right", "median"]].assign(AUC="", verdict="")
    for key, row in told.dropna(subset=["mean"]).iterrows():
        table.loc[key, "AUC"] = f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        chance = row[["low", "high"]] - 0.5
        table.loc[key, "verdict"] = judged(chance, "auc", "better than chance", "worse than chance")
    return table


def findings(told: pd.DataFrame) -> list[str]:
    """A sentence for each row of `discrimination` that has an area; one where none has."""
    rows = against_chance(told.dropna(subset=["mean"]))
    if rows.empty:
        return ["Does confidence tell right answers from wrong ones: there are too few of one kind to say."]
    return [
        f"Does confidence tell, {what}: AUC {row['AUC']} of {row['answers']:.0f} ({row['verdict']})."
        for what, row in rows.iterrows()
    ]


def applied(rows: Mapping[tuple[str, str], pd.DataFrame], base: str, metric: str, hops: Hops) -> pd.DataFrame:
    """Gain of each gate over the use `base` of the same store's logs, or over `no_logs`, paired by question.

    rows: `gated` by store and use; `no_logs` has the store `""`. Index `store`, `policy` (the use) and `metric`;
    columns as in `intervals.Difference`.
    """
    pairs = {
        (store, use, metric): (rows[("" if base == "no_logs" else store), base]["right"], part["right"])
        for (store, use), part in rows.items()
        if store
    }
    return paired_intervals(pairs, hops, ["store", "policy", "metric"])


def auc(score: pd.Series, right: pd.Series, hops: Hops) -> Difference:
    """Area under the ROC curve: how often a right answer scores above a wrong one, ties counting half; 0.5 is chance.

    Series by question id, without gaps. The interval is DeLong's, from each question's part in the area, widened for
    questions that share a hop as `paired_interval` does; Wilson's, of as many as the rarer side has, where the area is
    0 or 1. All NaN where fewer than 5 answers are right, or wrong.
    """
    values, good, n = score.to_numpy(float), right.reindex(score.index).to_numpy(bool), len(score)
    if min(good.sum(), n - good.sum()) < _FEWEST:
        return Difference(math.nan, math.nan, math.nan, n, math.nan)
    rarer = min(good.sum(), n - good.sum()) / n
    wins = (np.sign(values[good][:, None] - values[~good][None, :]) + 1) / 2
    area, parts = wins.mean(), np.empty(n)
    parts[good], parts[~good] = wins.mean(1) - area, wins.mean(0) - area
    share = np.where(good, good.mean(), 1 - good.mean())
    # Of the deviations, so that turned scores have the turned interval.
    deviations = pd.Series(parts / share, score.index)
    found = paired_interval(deviations * 0.0, deviations, hops)
    low, high = area + found.low, area + found.high
    if area in (0, 1):
        low, high = wilson(float(area), found.effective * rarer)
    return Difference(float(area), low, high, n, found.effective)


def _check_told(traces: Iterable[Trace], which: str) -> None:
    answered = [trace for trace in traces if trace.answer is not None]
    if answered and all(trace.confidence is None for trace in answered):
        raise DataError(
            f"No answer {which} logs tells how sure the model was: answer the questions again, in a new folder, "
            "with a model that tells the log-probabilities of its tokens."
        )
