"""Scores over streams of tasks: each task is answered before it is logged, so every answer counts.

Several orders of the same questions are not independent of each other: values are averaged over the orders first, and
intervals are those of paired differences between questions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pandas as pd

from lagkit.intervals import mean_interval, paired_interval

Hops = Mapping[str, Collection[str]]
FOUND = ("none that helps", "only right ones", "some wrong one")


def by_question(
    results: pd.DataFrame, references: pd.DataFrame, metric: str, places: tuple[int, int] | None = None
) -> pd.DataFrame:
    """A row for each question that came at one of `places` (after the first number, up to the second; None: all).

    results, references: as `online.Online` gives them. A column for each condition and reference: the mean of `metric`
    over the orders in which the question came there.
    """
    first, last = places or (0, results["place"].max())
    part = results[(results["place"] > first) & (results["place"] <= last)]
    online = part.pivot_table(index="question_id", columns="condition", values=metric, aggfunc="mean", sort=False)
    fixed = references.pivot(index="question_id", columns="condition", values=metric)
    return pd.concat([online[part["condition"].unique()], fixed.loc[online.index]], axis=1).astype(float)


def differences(table: pd.DataFrame, hops: Hops, baseline: str = "no_logs") -> pd.DataFrame:
    """Each column of `by_question` against one of them: a row per condition, as in `intervals.Difference`."""
    others = [name for name in table if name != baseline]
    rows = {name: asdict(paired_interval(table[baseline], table[name], hops)) for name in others}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("condition")


def curve(
    results: pd.DataFrame, references: pd.DataFrame, metric: str, hops: Hops, windows: int, baseline: str = "no_logs"
) -> pd.DataFrame:
    """The stream in `windows` parts of equal length: a row per window and condition, references included.

    Columns: `condition`, `first` and `last` place, `mean`, `low`, `high`, and `difference`, `difference_low`,
    `difference_high` to the baseline on the same questions (0 for itself).
    """
    edges = np.linspace(0, results["place"].max(), windows + 1).round().astype(int)
    rows = []
    for first, last in pairwise(edges):
        table = by_question(results, references, metric, (first, last))
        for name, values in table.items():
            alone, apart = mean_interval(values, hops), paired_interval(table[baseline], values, hops)
            row = {"condition": name, "first": first + 1, "last": last}
            row |= {"mean": alone.mean, "low": alone.low, "high": alone.high}
            rows.append(row | {"difference": apart.mean, "difference_low": apart.low, "difference_high": apart.high})
    return pd.DataFrame(rows)


def by_errors(results: pd.DataFrame, references: pd.DataFrame, metric: str, hops: Hops) -> pd.DataFrame:
    """Do wrong logs make wrong answers? Tasks by what they found: one row per condition and group of `FOUND`.

    Only logs that share a hop with the task count here. Columns: `answers`, `online` and `no_logs` (means on the same
    questions), and the paired difference of the two as in `intervals.Difference`.
    """
    found = np.select([results["wrong_helpful"] > 0, results["helpful"] > 0], FOUND[:0:-1], default=FOUND[0])
    rows = {}
    for condition, own in results.assign(found=found).groupby("condition", sort=False):
        for group in FOUND:
            part = own[own["found"] == group]
            if part.empty:
                continue
            table = by_question(part, references, metric)
            apart = asdict(paired_interval(table["no_logs"], table[condition], hops))
            rows[condition, group] = {"answers": len(part), **table[[condition, "no_logs"]].mean(), **apart}
            rows[condition, group]["online"] = rows[condition, group].pop(condition)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["condition", "found"])
