"""Intervals of paired differences: they cover what they say they cover, also where questions share hops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lagkit.stats.intervals import mean_interval, paired_interval, paired_intervals, share_interval, tango, verdict
from lagkit.util.errors import DataError


def singly(ids: pd.Index) -> dict[str, tuple[str, ...]]:
    """Hops of questions that share none."""
    return {id: (id,) for id in ids}


def width(values: pd.Series, hops: dict[str, tuple[str, ...]]) -> float:
    found = paired_interval(values * 0, values, hops)
    return found.high - found.low


class Clustered:
    """50 clusters of 1 to 4 questions whose differences share most of their noise."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.member = np.repeat(np.arange(50), rng.integers(1, 5, 50))
        self.ids = pd.Index([f"q{i}" for i in range(len(self.member))])
        self.hops = {q: (str(own),) for q, own in zip(self.ids, self.member, strict=True)}

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=50)[self.member]


class Chained:
    """300 questions of 1 to 4 hops out of 250, which hang together as those of a test world do; hops make the noise."""

    def __init__(self, rng: np.random.Generator) -> None:
        drawn = [rng.choice(250, size=rng.integers(1, 5), replace=False) for _ in range(300)]
        self.ids = pd.Index([f"q{i}" for i in range(300)])
        self.hops = {q: tuple(map(str, own)) for q, own in zip(self.ids, drawn, strict=True)}
        self.shares = np.zeros((300, 250))
        for row, own in zip(self.shares, drawn, strict=True):
            row[own] = 1 / len(own)

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        return self.shares @ rng.normal(size=250)


def pairs(rng: np.random.Generator, design: Clustered | Chained, effect: float) -> tuple[pd.Series, pd.Series]:
    difference = effect + design.noise(rng) + 0.3 * rng.normal(size=len(design.ids))
    a = pd.Series(rng.normal(size=len(difference)), design.ids)
    return a, a + difference


@pytest.mark.parametrize(("design", "too_narrow"), [(Clustered, 0.86), (Chained, 0.88)])
def test_intervals_cover_the_true_difference_as_often_as_they_say(design, too_narrow):
    rng = np.random.default_rng(7)
    made = design(rng)
    drawn = [pairs(rng, made, effect=0.4) for _ in range(400)]
    alone = singly(made.ids)
    covered = {
        how: np.mean([found.low <= 0.4 <= found.high for found in (paired_interval(a, b, hops) for a, b in some)])
        for how, hops, some in (("sharing", made.hops, drawn), ("singly", alone, drawn[:200]))
    }
    assert 0.92 <= covered["sharing"] <= 0.98  # 0.95 with a standard error of 0.011
    assert covered["singly"] < too_narrow


def test_hops_widen_the_interval_when_they_agree_and_leave_it_when_they_do_not():
    rng = np.random.default_rng(3)
    ids = [f"q{i}" for i in range(600)]
    fours = {q: (str(i // 4),) for i, q in enumerate(ids)}
    alike = pd.Series(np.repeat(rng.normal(size=150), 4), index=ids)
    apart = pd.Series(rng.normal(size=600), index=ids)
    assert width(alike, fours) / width(alike, singly(alike.index)) == pytest.approx(2.0, rel=0.05)  # the root of four
    assert width(apart, fours) / width(apart, singly(apart.index)) == pytest.approx(1.0, rel=0.15)


def test_independent_questions_get_the_textbook_interval():
    values = pd.Series([0.0, 1.0, 0.0, -1.0, 1.0], index=list("abcde"))
    found = paired_interval(values * 0, values, singly(values.index))
    half = 2.7764 * values.std() / np.sqrt(5)  # Student's 97.5% quantile for 4 degrees of freedom
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-4)
    assert found.effective == found.n == 5


def test_disjoint_clusters_get_the_cluster_robust_interval():
    values = pd.Series([1.0, 0.9, 0.1, 1.1, 0.0, -1.0], index=list("abcdef"))
    found = paired_interval(values * 0, values, {q: (str(i // 2),) for i, q in enumerate(values.index)})
    off = (values - values.mean()).to_numpy().reshape(3, 2).sum(axis=1)
    half = 4.3027 * np.sqrt((off**2).sum() * 3 / 2) / 6  # 2 degrees of freedom
    assert found.high - found.mean == pytest.approx(half, abs=1e-4)
    assert found.effective == 3


@given(st.lists(st.sets(st.integers(0, 6), max_size=4), min_size=2, max_size=12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_an_interval_is_never_narrower_than_that_of_independent_questions(hops, seed):
    values = pd.Series(np.random.default_rng(seed).integers(-1, 2, len(hops)).astype(float))
    values.index = values.index.astype(str)
    own = {str(i): tuple(map(str, sorted(hop))) for i, hop in enumerate(hops)}
    found = paired_interval(values * 0, values, own)
    if np.isnan(found.low):  # all of them share hops with all
        assert found.effective == 1
    else:
        assert found.high - found.low >= width(values, singly(values.index)) - 1e-9
    assert 1 <= found.effective <= found.n


def test_series_are_paired_by_question_and_not_by_place():
    ids = [f"q{i}" for i in range(40)]
    a = pd.Series(np.arange(40.0), index=ids)
    found = paired_interval(
        a, (a + 0.25).sample(frac=1, random_state=1), {q: (str(i // 4),) for i, q in enumerate(ids)}
    )
    assert (found.mean, found.n, found.effective) == (0.25, 40, 10)
    assert found.low < 0.25 < found.high


def outcomes(
    rng: np.random.Generator, ids: pd.Index, more: float, less: float, copies: int = 1
) -> tuple[pd.Series, pd.Series]:
    """Right and wrong answers of which such shares are turned right, and wrong; `copies` times over."""
    draw = np.tile(rng.random(len(ids) // copies), copies)
    turned, wronged = draw < more, (draw >= more) & (draw < more + less)
    a = np.where(turned, 0.0, np.where(wronged, 1.0, draw > 0.5))
    return pd.Series(a, ids), pd.Series(np.where(turned, 1.0, np.where(wronged, 0.0, a)), ids)


@pytest.mark.parametrize(("n", "more", "less"), [(30, 0.1, 0.1), (90, 0.02, 0.06), (120, 0.01, 0.02), (60, 0.1, 0.0)])
def test_few_discordant_pairs_are_covered_as_often_as_the_interval_says(n, more, less):
    rng = np.random.default_rng(11)
    ids = pd.Index([f"q{i}" for i in range(n)])
    alone = dict.fromkeys(ids, ())
    found = [paired_interval(*outcomes(rng, ids, more, less), alone) for _ in range(600)]
    assert 0.92 <= np.mean([d.low <= more - less <= d.high for d in found]) <= 0.98  # a standard error of 0.009


def test_few_discordant_pairs_in_clusters_that_fall_together_are_covered():
    rng = np.random.default_rng(12)
    hops = {f"{name}{i}": (name,) for i in range(4) for name in (f"q{j}" for j in range(30))}
    ids = pd.Index(hops)
    found = [paired_interval(*outcomes(rng, ids, 0.05, 0.03, copies=4), hops) for _ in range(300)]
    assert np.mean([d.low <= 0.02 <= d.high for d in found]) >= 0.92


def test_few_discordant_pairs_have_tango_s_interval():
    # The worked example of Fagerland, Lydersen and Laake (2014): 1 and 7 discordant pairs of 21.
    assert tango(1 / 21, 7 / 21, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    ids = [f"q{i}" for i in range(21)]
    a, b = (
        pd.Series([float(x) for x in side], ids)
        for side in ([0] + [1] * 7 + [1] + [0] * 12, [1] + [0] * 7 + [1] + [0] * 12)
    )
    found = paired_interval(a, b, singly(a.index))
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_where_no_answer_changes_the_interval_is_that_of_as_many_independent_questions():
    a = pd.Series(1.0, [f"q{i}" for i in range(96)])
    for size in (1, 4):
        found = paired_interval(a, a, {q: (str(i // size),) for i, q in enumerate(a.index)})
        bound = 1.959964**2 / (96 / size + 1.959964**2)
        assert (found.mean, found.low, found.high) == pytest.approx((0.0, -bound, bound), abs=1e-6)


@given(
    st.sampled_from([(0.0, 1.0), (-1.0, 0.0, 1.0), (0.0, 0.4, 0.5, 1.0), (1.0, 2.0, 5.0), (1e-8, 0.3, 7.5)]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 30)), min_size=2, max_size=40),
)
@example((0.0, 1.0), [(0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 1)])  # Wilson's lower bound was rounded above zero
@example((0.0, 0.4, 0.5, 1.0), [(side, 0, n) for side in (0, 1) for n in range(12)])  # 0.4 + 1 - 0.4 is not quite 1
@settings(max_examples=100, deadline=None)
def test_no_interval_is_without_width(values, drawn):
    a, b = (pd.Series([values[row[side] % len(values)] for row in drawn]) for side in (0, 1))
    own = {i: (str(row[2]),) for i, row in enumerate(drawn)}
    for found in (
        paired_interval(a, b, own),
        mean_interval(a, own),
        paired_interval(a, a, own),
        paired_interval(a, a + 1, own),
    ):
        if found.effective > 1:
            assert found.low < found.high
            assert found.low <= found.mean <= found.high
        else:
            assert np.isnan(found.low) or found.low < found.high


def test_small_scores_count_as_shares_of_a_discordant_pair():
    ids = [f"q{i}" for i in range(50)]
    a = pd.Series(0.5, ids)
    b = a.mask(a.index.isin(ids[:4]), 0.75)  # four times a quarter
    found, low_high = paired_interval(a, b, singly(a.index)), tango(1 / 50, 0, 50)
    assert (found.mean, found.low, found.high) == pytest.approx((0.02, *low_high))


@pytest.mark.parametrize(
    ("low", "high", "metric", "said"),
    [
        (-0.032, 0.132, "em", "inconclusive"),
        (-0.004, 0.004, "em", "equal"),
        (-0.03, 0.03, "em", "equal"),
        (0.001, 0.02, "em", "more"),
        (-0.2, -0.1, "f1", "less"),
        (-0.09, 0.09, "rounds", "equal"),
        (-0.09, 0.09, "em", "inconclusive"),
        (float("nan"), float("nan"), "em", "inconclusive"),
    ],
)
def test_what_a_difference_shows(low, high, metric, said):
    assert verdict({"low": low, "high": high}, metric) == said


def test_the_interval_follows_its_level():
    rng = np.random.default_rng(0)
    design = Clustered(rng)
    a, b = pairs(rng, design, effect=0.0)
    wide, narrow = paired_interval(a, b, design.hops), paired_interval(a, b, design.hops, level=0.5)
    assert wide.low < narrow.low < narrow.mean == wide.mean < narrow.high < wide.high


def test_questions_that_all_share_a_hop_give_a_mean_but_no_interval():
    found = paired_interval(pd.Series({"x": 0.0, "y": 0.0}), pd.Series({"x": 1.0, "y": 0.0}), {"x": "h", "y": "h"})
    assert (found.mean, found.n, found.effective) == (0.5, 2, 1)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(
    ("a", "b", "hops", "message"),
    [
        ({"x": 1, "y": 0}, {"x": 1, "z": 0}, {"x": (), "y": (), "z": ()}, r"2 question\(s\) have one value .* 'y'"),
        ({"x": 1, "y": 0}, {"x": 1, "y": np.nan}, {"x": (), "y": ()}, "question 'y' has no value"),
        ({"x": 1, "y": 0}, {"x": 1, "y": 1}, {"x": ()}, r"the hops of 1 question\(s\) are not given, first 'y'"),
        ({}, {}, {}, "no questions to compare"),
    ],
)
def test_misaligned_pairs_are_refused(a, b, hops, message):
    with pytest.raises(DataError, match=message):
        paired_interval(pd.Series(a, dtype=float), pd.Series(b, dtype=float), hops)


def test_a_question_with_two_values_is_refused():
    twice = pd.Series([1.0, 0.0], index=["x", "x"])
    with pytest.raises(DataError, match="question 'x' has two values"):
        paired_interval(twice, twice, {"x": ()})


def test_a_mean_has_the_interval_of_its_difference_from_zero():
    values, hops = pd.Series({"x": 1.0, "y": 0.5, "z": 0.5}), {"x": ("a",), "y": ("b",), "z": ("c",)}
    found = mean_interval(values, hops)
    assert found == paired_interval(pd.Series(0.0, values.index), values, hops)
    assert found.mean == pytest.approx(2 / 3)
    assert found.low < found.mean < found.high


def test_the_interval_of_a_share_is_wilson_s_and_open_on_one_side_at_the_ends():
    alone = {str(i): () for i in range(10)}
    found = share_interval(pd.Series([True] * 8 + [False] * 2, list(alone)), alone)
    # As in Wilson (1927), for 8 of 10.
    assert (found.mean, found.n, found.effective) == (0.8, 10, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    none, all_ = (share_interval(pd.Series(value, list(alone)), alone) for value in (False, True))
    assert (none.mean, none.low, none.high) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert (all_.mean, all_.low, all_.high) == pytest.approx((1, 0.7225, 1), abs=1e-4)


def test_questions_that_share_a_hop_widen_the_interval_of_a_share():
    shares = pd.Series([True] * 8 + [False] * 2, [str(i) for i in range(10)])
    apart, pairs = ({str(i): (str(i // size),) for i in range(10)} for size in (1, 2))
    assert share_interval(shares, pairs).effective == 5
    assert share_interval(shares, pairs).low < share_interval(shares, apart).low


def test_intervals_of_many_pairs_are_those_of_each_whatever_questions_they_have():
    rng, ids = np.random.default_rng(0), [f"q{i}" for i in range(40)]
    hops = {q: (str(i // 3),) for i, q in enumerate(ids)}
    asked = (ids, ids, ids[:20], ids[::-1], ids)
    pairs = {n: [pd.Series(rng.normal(size=len(own)), own) for _ in "ab"] for n, own in enumerate(asked)}
    found = paired_intervals(pairs, hops)
    for n, (a, b) in pairs.items():
        assert tuple(found.loc[n]) == dataclasses.astuple(paired_interval(a, b, hops))
