"""Intervals of paired differences between questions that are not independent of each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

from lagkit.util.errors import DataError

_FEW = 10  # so many questions that differ from the others tell how much they vary; fewer do not

Hops = Mapping[str, Collection[str]]  # question id -> ids of its hops
Verdict = Literal["more", "less", "equal", "inconclusive"]


@dataclass(frozen=True)
class Margin:
    """An equivalence margin: a difference of at most `size` either way makes none in practice. words: size and unit."""

    size: float
    words: str


POINTS = Margin(0.03, "3 points")  # of scores, and of all other shares
MARGINS = {
    "rounds": Margin(0.1, "0.1 rounds"),
    "nats": Margin(0.01, "0.01 nats"),
    "log10": Margin(float(np.log10(1.1)), "a factor of 1.1"),
}


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


def paired_interval(a: pd.Series, b: pd.Series, hops: Hops, *, level: float = 0.95) -> Difference:
    """The mean of `b - a` over questions, with an interval that holds though questions share sub-questions.

    `a` and `b` are values by question id, in any order. Questions that share a hop go right or wrong together, and hops
    chain nearly all questions into one cluster. So every pair that shares a hop counts as dependent, in whatever degree
    the data show: the variance of the mean is the sum of e_i e_j over these pairs, e being deviations from the mean
    (for disjoint clusters, the cluster-robust variance), never less than that of independent questions. Quantiles are
    Student's, with `effective - 1` degrees of freedom.

    Where fewer than ten differences are not the commonest one, deviations tell too little of the variance. There the
    interval is Tango's score interval for paired proportions, of `effective` independent questions: for outcomes of 0
    and 1 (fewer than ten discordant pairs) always, for other values if most of the differences are equal. These count
    as shares of a discordant pair, whose difference is the range of the values seen, and at least 1: no variable within
    such bounds varies more, so the interval is rather too wide. If `a` equals `b`, it is +-z^2 / (effective + z^2),
    times that range.

    Raises DataError unless both series hold the same ids, each once, without gaps, and `hops` knows them all.
    """
    return _interval(a, b, hops, level, _shared_by(hops))


def _interval(
    a: pd.Series, b: pd.Series, hops: Hops, level: float, shared: Callable[[tuple[Any, ...]], NDArray[np.float64]]
) -> Difference:
    """As `paired_interval`. shared: `_sharing` of questions by their ids."""
    _check_pairs(a, b, hops)
    values = np.stack([a.to_numpy(float), b.reindex(a.index).to_numpy(float)])
    difference = values[1] - values[0]
    sharing = shared(tuple(a.index))
    n, pairs = len(difference), int(sharing.sum())
    mean, effective = float(difference.mean()), n * n / pairs
    low = high = float("nan")
    if pairs == n * n:
        return Difference(mean, low, high, n, effective)
    if _sparse(difference, binary=set(values.flat) <= {0.0, 1.0}):
        unit = max(1.0, float(np.ptp(values)))
        more, less = (float(side.clip(0).mean()) / unit for side in (difference, -difference))
        low, high = (unit * bound for bound in tango(more, less, effective, level))
        # Rounding must not put the mean outside.
        return Difference(mean, min(low, mean), max(high, mean), n, effective)
    off = difference - mean
    # Dividing by n^2 alone would be biased down, since the deviations are from the same questions' mean.
    variance = max(off @ sharing @ off / (n * n - pairs), off @ off / (n * n - n))
    half = float(t.ppf((1 + level) / 2, max(effective - 1, 1)) * np.sqrt(variance))
    return Difference(mean, mean - half, mean + half, n, effective)


def paired_intervals(
    pairs: Mapping[Any, tuple[pd.Series, pd.Series]], hops: Hops, names: Sequence[str] = (), *, level: float = 0.95
) -> pd.DataFrame:
    """`paired_interval` of each pair: a row each, by its key (with levels of `names`); columns as in `Difference`."""
    shared = _shared_by(hops)
    rows = [asdict(_interval(a, b, hops, level, shared)) for a, b in pairs.values()]
    if len(names) > 1:
        index = pd.MultiIndex.from_tuples(list(pairs), names=names)
    else:
        index = pd.Index(list(pairs), name=names[0] if names else None)
    return pd.DataFrame(rows, index, columns=[field.name for field in fields(Difference)])


def mean_interval(values: pd.Series, hops: Hops) -> Difference:
    """The mean of `values` by question id, with an interval as in `paired_interval`.

    Where all values are 0 or 1, and fewer than ten are one of the two, it is that of `share_interval`.
    """
    if len(values) and set(values) <= {0.0, 1.0} and _sparse(values.to_numpy(float), binary=True):
        return share_interval(values, hops)
    return paired_interval(values * 0.0, values, hops)


def share_interval(holds: pd.Series, hops: Hops) -> Difference:
    """The share of questions of which `holds` is true, with Wilson's interval for `effective` independent ones.

    For shares that may be 0 or 1; questions that share a hop are taken to stand or fall together, so it is rather too
    wide. Raises DataError as `paired_interval` does.
    """
    found = paired_interval(holds * 0.0, holds.astype(float), hops)
    low, high = wilson(found.mean, found.effective)
    return Difference(found.mean, low, high, found.n, found.effective)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of `n` independent cases, of 95%."""
    z = float(norm.ppf(0.975))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # Rounding must not put the share outside.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def tango(more: float, less: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of a difference of paired proportions (Statistics in Medicine 17, 1998, 891-908).

    more, less: the shares of the `n` pairs that are discordant either way; the difference is the first less the second.
    """
    z, found = float(norm.ppf((1 + level) / 2)), more - less

    def excess(delta: float) -> float:
        """Squared distance of the difference found from `delta`, less what chance allows if `delta` is true."""
        b = (2 - found) * delta - more - less
        root = np.sqrt(max(0.0, b * b + 8 * less * delta * (1 - delta)))
        other = (root - b) / 4  # the likeliest share of pairs for `less` if `delta` is true
        return float((found - delta) ** 2 - z * z / n * (2 * other + delta * (1 - delta)))

    near = 1e-9  # from the difference itself, where chance may allow nothing
    low = brentq(excess, -1.0, found - near) if found > near - 1 else -1.0
    high = brentq(excess, found + near, 1.0) if found < 1 - near else 1.0
    return float(low), float(high)


def margin(metric: str) -> Margin:
    """The equivalence margin of a metric, or of a unit of `MARGINS`."""
    return MARGINS.get(metric, POINTS)


def verdict(row: Mapping[str, float] | pd.Series, metric: str) -> Verdict:
    """Verdict on a difference with `low` and `high`.

    `more` or `less` if its interval is clear of zero; else `equal` if that lies within the metric's margin; else, and
    without an interval, `inconclusive`.
    """
    if row["low"] > 0 or row["high"] < 0:
        return "more" if row["low"] > 0 else "less"
    return "equal" if within(row, metric) else "inconclusive"


def within(row: Mapping[str, float] | pd.Series, metric: str) -> bool:
    """True if the interval of a difference lies within the metric's margin."""
    size = margin(metric).size
    return bool(-size <= row["low"] and row["high"] <= size)


def _sparse(values: NDArray[np.float64], *, binary: bool) -> bool:
    """True if fewer than ten values are not the commonest one, which is that of most unless outcomes are binary.

    Values that differ by rounding, such as 1.4 - 0.4 and 1, are one.
    """
    rounded = np.round(values / (np.abs(values).max() or 1.0), 12)
    common = int(np.unique(rounded, return_counts=True)[1].max())
    return len(values) - common < _FEW and (binary or 2 * common > len(values))


def _shared_by(hops: Hops) -> Callable[[tuple[Any, ...]], NDArray[np.float64]]:
    """`_sharing` of questions by their ids; the last one is kept, for the next pair most often has the same ids."""
    return lru_cache(maxsize=1)(lambda ids: _sharing([hops[i] for i in ids]))


def _sharing(hops: list[Collection[str]]) -> NDArray[np.float64]:
    """1 where two questions share a hop, and on the diagonal: `[questions, questions]`."""
    number: dict[str, int] = {}
    cells = [(i, number.setdefault(hop, len(number))) for i, own in enumerate(hops) for hop in own]
    holds = np.zeros((len(hops), len(number)), np.float32)
    if cells:
        holds[tuple(zip(*cells, strict=True))] = 1
    return ((holds @ holds.T > 0) | np.eye(len(hops), dtype=bool)).astype(float)


def _check_pairs(a: pd.Series, b: pd.Series, hops: Hops) -> None:
    for values in (a, b):
        if values.index.has_duplicates:
            raise DataError(f"question {values.index[values.index.duplicated()][0]!r} has two values: one is needed")
        if values.isna().any():
            raise DataError(f"question {values.index[values.isna()][0]!r} has no value: only pairs can be compared")
    if len(a) == 0:
        raise DataError("there are no questions to compare")
    if not a.index.equals(b.index) and len(alone := a.index.symmetric_difference(b.index)):
        raise DataError(
            f"{len(alone)} question(s) have one value and not two, first {alone[0]!r}: compare the same ones"
        )
    if unknown := [i for i in a.index if i not in hops]:
        raise DataError(
            f"the hops of {len(unknown)} question(s) are not given, first {unknown[0]!r}: pass those of all"
        )
