"""Scores over streams of tasks: averaged over the orders first, with intervals of paired differences of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pandas as pd

from lagkit.stats.intervals import Hops, paired_interval, paired_intervals

FOUND = ("none helps", "those that help are right", "one that helps is wrong")


def by_question(
    results: pd.DataFrame, references: pd.DataFrame, metric: str, places: tuple[int, int] | None = None
) -> pd.DataFrame:
    """The mean of `metric` over the orders in which a question came at one of `places` (first < place <= last; None:
    all).

    results, references: as `online.Online` gives them. A row for each question, a column for each condition and
    reference.
    """
    first, last = places or (0, results["place"].max())
    part = results[(results["place"] > first) & (results["place"] <= last)]
    online = part.pivot_table(index="question_id", columns="condition", values=metric, aggfunc="mean", sort=False)
    fixed = references.pivot(index="question_id", columns="condition", values=metric)
    return pd.concat([online[part["condition"].unique()], fixed.loc[online.index]], axis=1).astype(float)


def compare(
    results: pd.DataFrame,
    references: pd.DataFrame,
    hops: Hops,
    metrics: Sequence[str],
    baselines: Sequence[str],
    places: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Conditions and references against each of `baselines`, paired by question: a row per baseline, condition,
    metric."""
    tables = {metric: by_question(results, references, metric, places) for metric in metrics}
    pairs = {
        (baseline, name, metric): (table[baseline], table[name])
        for baseline in baselines
        for name in tables[metrics[0]]
        for metric, table in tables.items()
        if name != baseline
    }
    return paired_intervals(pairs, hops, ["baseline", "condition", "metric"])


def curve(results: pd.DataFrame, references: pd.DataFrame, metric: str, hops: Hops, windows: int) -> pd.DataFrame:
    """The stream in `windows` parts of equal length: a row per part and condition, references included.

    Columns: `condition`, `first` and `last` place, `mean`, `low`, `high`: the interval is that of the paired difference
    to `no_logs`, laid around the mean.
    """
    edges = np.linspace(0, results["place"].max(), windows + 1).round().astype(int)
    rows = []
    for first, last in pairwise(edges):
        table = by_question(results, references, metric, (first, last))
        for name, values in table.items():
            apart, base = paired_interval(table["no_logs"], values, hops), table["no_logs"].mean()
            row = {"condition": name, "first": first + 1, "last": last, "mean": values.mean()}
            rows.append({**row, "low": base + apart.low, "high": base + apart.high})
    return pd.DataFrame(rows)


def by_errors(results: pd.DataFrame, references: pd.DataFrame, metric: str, hops: Hops) -> pd.DataFrame:
    """Answers by the correctness of the helpful logs that a task found: one row per condition and group of `FOUND`.

    Columns: `answers`, `online` and `no_logs` (means on the same questions), and their paired difference as in
    `intervals.Difference`.
    """
    found = np.select([results["wrong_helpful"] > 0, results["helpful"] > 0], FOUND[:0:-1], default=FOUND[0])
    rows = {}
    for condition, own in results.assign(found=found).groupby("condition", sort=False):
        for group in (group for group in FOUND if group in set(own["found"])):
            part = own[own["found"] == group]
            table = by_question(part, references, metric)
            apart = paired_interval(table["no_logs"], table[condition], hops)
            means = {"online": table[condition].mean(), "no_logs": table["no_logs"].mean()}
            rows[condition, group] = {"answers": len(part), **means, **asdict(apart)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["condition", "found"])
