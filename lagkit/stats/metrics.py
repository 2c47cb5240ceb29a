"""Scores of single answers, tables over a run, and differences between policies with their intervals.

A table of results has one row per policy, split and question: `policy`, `split`, `question_id`, `answer`, the scores
(`em` and `f1`, for 2Wiki also `f1_hotpot`, or `accuracy` and `accuracy_flexible`: see `score`), `rounds`, `abstained`,
`failed`, `error`, the tokens `prefilled`, `injected` and `generated`, `seconds`, and the `cost` of a model behind an
API.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import pandas as pd

from lagkit.datasets.letters import choice_letter, stated_letter
from lagkit.stats.intervals import Hops, paired_intervals
from lagkit.types import Question
from lagkit.util.errors import ConfigError, DataError

SCORES = ("em", "f1", "f1_hotpot", "accuracy", "accuracy_flexible")
# Registered scores (`lagkit.register`): from a question, its answer (None: none) and the last response to 0.0 .. 1.0.
METRICS: dict[str, Callable[[Question, str | None, str], float]] = {}
COSTS = ("prefilled", "injected", "generated", "seconds")
_VERDICTS = {"yes", "no", "noanswer"}


def normalize(text: str) -> str:
    """SQuAD's normal form: lower case, without ASCII punctuation and English articles, single spaces."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 when the prediction equals any answer in normal form, else 0.0; None (no answer was given) scores 0.0."""
    return float(prediction is not None and normalize(prediction) in map(normalize, answers))


def f1(prediction: str | None, answers: Sequence[str]) -> float:
    """SQuAD's F1: harmonic mean of the precision and recall of words in normal form, the best over `answers`.

    None scores 0.0. Where either side has no words left, 1.0 if neither has and else 0.0, as in SQuAD 2.
    """
    if prediction is None:
        return 0.0
    return max(_f1(normalize(prediction).split(), normalize(answer).split()) for answer in answers)


def f1_hotpot(prediction: str | None, answers: Sequence[str]) -> float:
    """F1 by HotpotQA's rule, which 2WikiMultiHopQA took over: `yes`, `no` and `noanswer` must match exactly.

    A text that holds one of them among other words scores nothing against it, and it scores nothing against any other
    text. Where neither side has words, 0.0.
    """
    said = normalize(prediction or "")
    golds = [gold for gold in map(normalize, answers) if said == gold or not _VERDICTS & {said, gold}]
    return max((f1(said, [gold]) for gold in golds), default=0.0) if said else 0.0


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    return 2 * (Counter(predicted) & Counter(gold)).total() / (len(predicted) + len(gold))


def score(question: Question, answer: str | None, response: str = "") -> dict[str, float]:
    """The scores of a tagged answer, None if there is none, by the kind of question.

    `em` and `f1` (SQuAD's), and `f1_hotpot` where the data set is scored by that rule; for multiple choice `accuracy`,
    of the letter that the answer gives as it was asked for, and `accuracy_flexible`, of the letter that the answer, or
    failing that the last response, gives in any usual form. So a question that abstained may be right by the second.
    Registered metrics follow. Raises ConfigError for one that gives no number from 0 to 1.
    """
    scores = _usual(question, answer, response)
    for name, metric in METRICS.items():
        value = metric(question, answer, response)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"The metric {name} gave {value!r}: a score is a number from 0 to 1.")
        scores[name] = float(value)
    return scores


def _usual(question: Question, answer: str | None, response: str) -> dict[str, float]:
    if question.kind == "qa":
        scores = {"em": exact_match(answer, question.answers), "f1": f1(answer, question.answers)}
        return scores | ({"f1_hotpot": f1_hotpot(answer, question.answers)} if question.f1 == "hotpot" else {})
    strict, flexible = (choice_letter(answer, len(question.choices), strict=s) for s in (True, False))
    return {
        "accuracy": float(strict in question.answers),
        "accuracy_flexible": float((flexible or stated_letter(response, len(question.choices))) in question.answers),
    }


def is_right(question: Question, answer: str | None) -> bool:
    """True if the answer is an exact match, or for multiple choice the right letter (strict)."""
    scores = _usual(question, answer, "")
    return (scores["em"] if question.kind == "qa" else scores["accuracy"]) == 1.0


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """One row per policy and split, in order of first appearance.

    Columns: `n`, the mean scores (a failed question scores 0), mean `rounds`, `abstention` (the share of questions left
    without an answer), `failures` (their number), and per question the mean tokens `prefilled`, `injected` and
    `generated`, `seconds`, and `cost` if the results have it. Raises DataError when a column is missing.
    """
    _require(results, ("policy", "split", "question_id", "rounds", "abstained", "failed", *COSTS))
    groups = _scored(results).groupby(["policy", "split"], sort=False)
    means = groups[[*scores_in(results), "rounds"]].mean()
    counts = groups.agg(abstention=("abstained", "mean"), failures=("failed", "sum"))
    costs = [*COSTS, *(["cost"] if "cost" in results else [])]
    return pd.concat([groups.size().rename("n"), means, counts, groups[costs].mean()], axis=1)


def compare(results: pd.DataFrame, hops: Hops, baseline: str = "no_logs", *, level: float = 0.95) -> pd.DataFrame:
    """Each policy against the baseline: one row per policy, split and metric (the scores and `rounds`).

    Columns as in `Difference`; a failed question scores 0. Raises ConfigError when the results do not hold the
    baseline, DataError when a policy answered other questions than it.
    """
    _require(results, ("policy", "split", "question_id", "rounds"))
    pairs = {}
    for split, part in _scored(results).groupby("split", sort=False):
        by_policy = {name: own.set_index("question_id") for name, own in part.groupby("policy", sort=False)}
        if baseline not in by_policy:
            raise ConfigError(
                f"no results of the baseline {baseline!r} on {split} questions: run it too, or name another"
            )
        for policy, own in by_policy.items():
            for metric in (*scores_in(results), "rounds") if policy != baseline else ():
                base = by_policy[baseline][metric]
                pairs[policy, split, metric] = base, own[metric]
    return paired_intervals(pairs, hops, ["policy", "split", "metric"], level=level)


def first_score(results: pd.DataFrame) -> str:
    """The score that stands for all in a sentence or a figure: EM, or accuracy."""
    return next(name for name in SCORES if name in results)


def scores_in(results: pd.DataFrame) -> list[str]:
    """The scores that a table has, the registered ones last."""
    return [name for name in (*SCORES, *METRICS) if name in results]


def apart(differences: pd.DataFrame) -> pd.DataFrame:
    """Rows of differences (index: ..., metric) without those of F1 where F1 says throughout what EM says.

    Raises DataError for a table that has other rows.
    """
    require_differences(differences)
    metric = differences.index.get_level_values("metric")
    if not {"em", "f1"} <= {*metric}:
        return differences
    em, f1 = (differences["mean"].xs(name, level="metric") for name in ("em", "f1"))
    return differences[metric != "f1"] if f1.equals(em.reindex(f1.index)) else differences


def require_differences(table: pd.DataFrame) -> None:
    """Raise DataError for a table that `compare` did not make."""
    if "metric" not in table.index.names or "mean" not in table:
        raise DataError("This table has no paired differences: give what `run.compare()` returns.")


def _scored(results: pd.DataFrame) -> pd.DataFrame:
    """A failed question may lack a score; counting it as 0 keeps failures from raising the mean."""
    return results.assign(**{name: results[name].fillna(0.0) for name in scores_in(results)})


def _require(results: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in results]
    if missing or not scores_in(results):
        raise DataError(f"results lack the column(s) {', '.join(missing or ['em or accuracy'])}")
