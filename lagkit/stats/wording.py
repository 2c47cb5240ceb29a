"""Differences in words: the interval, the verdict, and both in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import pandas as pd

from lagkit.stats import intervals
from lagkit.stats.metrics import require_differences


class Told(NamedTuple):
    """One difference as a table shows it: about what, the verdict, and numbers in `unit` with the format `digits`."""

    what: str
    verdict: str
    mean: float
    low: float
    high: float
    unit: str
    digits: str


class Finding(str):
    """A sentence on differences, which are its `rows`."""

    rows: tuple[Told, ...]

    def __new__(cls, text: str, *rows: Told) -> Self:
        """The sentence `text`, which tells `rows`."""
        finding = super().__new__(cls, text)
        finding.rows = rows
        return finding


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, whole ones with all of theirs; empty where it is missing."""
    if value != value:
        return ""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if value == 0:
        return "0"  # also of what is rounded from below
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def judged(row: Mapping[str, float] | pd.Series, metric: str, more: str = "more", less: str = "less") -> str:
    """Verdict on a difference in words: `more`, `equal within 3 points`, `inconclusive`; as `intervals.verdict`.

    What is clear of zero and yet within the margin is said to be small.
    """
    size, found = intervals.margin(metric).words, intervals.verdict(row, metric)
    if found == "equal":
        return f"equal within {size}"
    if found == "inconclusive":
        return found
    small = f", but by less than {size}" if intervals.within(row, metric) else ""
    return (more if found == "more" else less) + small


def interval(row: Mapping[str, float] | pd.Series, metric: str) -> str:
    """Mean and interval; scores in points of 100. Without a second independent question there is no interval."""
    scale, digits = (1, 2) if metric == "rounds" else (100, 1)
    mean, low, high = (f"{scale * row[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if row["low"] == row["low"] else f"{mean} [no interval]"


def measured(row: Mapping[str, float] | pd.Series, unit: str, digits: str) -> str:
    """The verdict, the mean and its interval, in a unit that begins with the name of its margin (`nats`)."""
    mean, low, high = (format(row[name], f"+{digits}") for name in ("mean", "low", "high"))
    return f"{judged(row, unit.split()[0])}, {mean} [{low}, {high}] {unit}"


def as_row(what: str, row: Mapping[str, float] | pd.Series, metric: str, verdict: str = "") -> Told:
    """A row of `metrics.compare` for a table; scores in points. verdict: in place of `judged`."""
    scale, digits = (1, "+.2f") if metric == "rounds" else (100, "+.1f")
    mean, low, high = (scale * float(row[name]) for name in ("mean", "low", "high"))
    unit = metric if metric == "rounds" else f"points of {metric.upper() if len(metric) < 3 else metric}"
    return Told(what, verdict or judged(row, metric), mean, low, high, unit, digits)


def difference(
    name: str, row: Mapping[str, float] | pd.Series, metric: str, baseline: str = "no_logs", front: str = ""
) -> Finding:
    """A sentence on a row of `metrics.compare`, with words in front of it: more, less, equal, or inconclusive."""
    what = f"{front}`{name}` against `{baseline}`"
    told = as_row(what, row, metric)
    return Finding(f"{what}: {told.verdict} ({interval(row, metric)} {told.unit}).", told)


def sentences(differences: pd.DataFrame, baseline: str = "no_logs") -> list[Finding]:
    """One `difference` for each row, whose index has the levels `policy` and `metric`.

    The labels of other levels stand in front, those of `split` as "Unseen questions:". Raises DataError for a table
    that has other rows.
    """
    require_differences(differences)
    found = []
    for key, row in differences.iterrows():
        labels = dict(zip(differences.index.names, key, strict=True))
        policy, metric = str(labels.pop("policy")), str(labels.pop("metric"))
        front = ", ".join(f"{label} questions" if level == "split" else str(label) for level, label in labels.items())
        front = f"{front[:1].upper()}{front[1:]}: " if front else ""
        found.append(difference(policy, row, metric, baseline, front))
    return found
