"""Intervals of paired differences between questions that are not independent of each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from lagkit.errors import DataError


@dataclass(frozen=True)
class Difference:
    """A mean difference over `n` questions with its interval, NaN where there is no second independent question.

    `effective`: n^2 over the number of ordered pairs that share a hop, themselves included; `n` if none do, and the
    number of clusters if the questions fall into clusters of one size.
    """

    mean: float
    low: float
    high: float
    n: int
    effective: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_interval(
    a: pd.Series, b: pd.Series, hops: Mapping[str, Collection[str]], *, level: float = 0.95
) -> Difference:
    """The mean of `b - a` over questions, with an interval that holds though questions share sub-questions.

    `a` and `b` are values by question id, in any order; `hops` is question id -> ids of its hops. Questions that share
    a sub-question go right or wrong together, so taking them for independent makes intervals too narrow. Grouping them
    into clusters is no way out where hops chain nearly all questions into one. So every pair that shares a hop counts
    as dependent, in whatever degree the data show, and no other pair: the variance of the mean is the sum of e_i e_j
    over these pairs, e being deviations from the mean (for disjoint clusters, the cluster-robust variance; for
    independent questions, the textbook one), never less than that of independent questions. Quantiles are Student's,
    with `effective - 1` degrees of freedom.

    Raises DataError unless both series hold the same ids, each once, without gaps, and `hops` knows them all.
    """
    _check_pairs(a, b, hops)
    difference = b.reindex(a.index).to_numpy(float) - a.to_numpy(float)
    sharing = _sharing([hops[i] for i in a.index])
    n, pairs = len(difference), int(sharing.sum())
    mean, effective = float(difference.mean()), n * n / pairs
    low = high = float("nan")
    if pairs < n * n:
        off = difference - mean
        # Dividing by n^2 alone would be biased down, since the deviations are from the same questions' mean.
        variance = max(off @ sharing @ off / (n * n - pairs), off @ off / (n * n - n))
        half = float(t.ppf((1 + level) / 2, max(effective - 1, 1)) * np.sqrt(variance))
        low, high = mean - half, mean + half
    return Difference(mean, low, high, n, effective)


def mean_interval(values: pd.Series, hops: Mapping[str, Collection[str]], *, level: float = 0.95) -> Difference:
    """The mean of `values` by question id, with an interval as in `paired_interval`; none wide if all are equal."""
    return paired_interval(values * 0.0, values, hops, level=level)


def share_interval(holds: pd.Series, hops: Mapping[str, Collection[str]], *, level: float = 0.95) -> Difference:
    """The share of questions of which `holds` is true, with Wilson's interval for `effective` independent ones.

    For shares that may be 0 or 1, where `mean_interval` would be none wide; questions that share a hop are taken to
    stand or fall together, so it is rather too wide. Raises DataError as `paired_interval` does.
    """
    found = mean_interval(holds.astype(float), hops, level=level)
    share, n, z = found.mean, found.effective, float(norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Difference(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), found.n, n)


def _sharing(hops: list[Collection[str]]) -> NDArray[np.float64]:
    """1 where two questions share a hop, and on the diagonal: `[questions, questions]`."""
    number: dict[str, int] = {}
    cells = [(i, number.setdefault(hop, len(number))) for i, own in enumerate(hops) for hop in own]
    holds = np.zeros((len(hops), len(number)), np.float32)
    if cells:
        holds[tuple(zip(*cells, strict=True))] = 1
    return ((holds @ holds.T > 0) | np.eye(len(hops), dtype=bool)).astype(float)


def _check_pairs(a: pd.Series, b: pd.Series, hops: Mapping[str, Collection[str]]) -> None:
    for values in (a, b):
        if values.index.has_duplicates:
            raise DataError(f"question {values.index[values.index.duplicated()][0]!r} has two values: one is needed")
        if values.isna().any():
            raise DataError(f"question {values.index[values.isna()][0]!r} has no value: only pairs can be compared")
    if len(a) == 0:
        raise DataError("there are no questions to compare")
    if len(alone := a.index.symmetric_difference(b.index)):
        raise DataError(
            f"{len(alone)} question(s) have one value and not two, first {alone[0]!r}: compare the same ones"
        )
    if unknown := [i for i in a.index if i not in hops]:
        raise DataError(
            f"the hops of {len(unknown)} question(s) are not given, first {unknown[0]!r}: pass those of all"
        )
