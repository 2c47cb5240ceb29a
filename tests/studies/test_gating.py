"""Gates on similarity and confidence: which of two answers is taken, what both cost, and what confidence can tell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.studies.gating import (
    BACKUP,
    LAST_RESORT,
    Gate,
    auc,
    choose_gates,
    confidences,
    discrimination,
    gated,
    takes_logs,
)
from lagkit.types import Round, Trace, Usage
from lagkit.util.errors import DataError

SURE = st.floats(-20, 0)
MARGINS = st.floats(-5, 5)


def trace(confidence: float | None, answer: str | None = "x", right: bool = False, rounds: int = 1) -> Trace:
    """A run of one question: each of its rounds prefills 10 tokens, injects 3 and generates 2."""
    cost = Usage(10, 3, 2, 0.5)
    return Trace("q", "?", "", (Round("", "", usage=cost),) * rounds, answer, correct=right, confidence=confidence)


NOTHING = trace(None, answer=None, rounds=5)
_REST = {"right": st.booleans(), "rounds": st.integers(1, 5)}
TOLD = st.one_of(st.just(NOTHING), st.builds(trace, SURE, **_REST))
TRACES = st.one_of(TOLD, st.builds(trace, st.none(), **_REST))


def one(without: Trace, with_logs: Trace, margin: float | None) -> dict:
    return gated({"q": without}, {"q": with_logs}, margin).loc["q"].to_dict()


@pytest.mark.parametrize(
    ("without", "with_logs", "margin", "logs"),
    [
        (-0.3, -0.2, 0.0, True),
        (-0.3, -0.3, 0.0, True),
        (-0.3, -0.4, 0.0, False),
        (-0.25, -0.5, 0.25, True),
        (-0.25, -0.5, 0.2, False),
        (-0.5, -0.25, -0.25, True),
        (-0.5, -0.25, -0.3, False),
        (0.0, -9.0, BACKUP, True),
        (-9.0, 0.0, LAST_RESORT, False),
        (None, -0.4, 0.0, True),
        (-0.4, None, -0.1, False),
    ],
)
def test_of_two_answers_that_with_logs_is_taken_unless_confidence_falls_by_more_than_the_margin(
    without, with_logs, margin, logs
):
    assert takes_logs(trace(without), trace(with_logs), margin) is logs


@given(TOLD, TOLD, MARGINS)
def test_a_gate_answers_if_and_only_if_a_run_does_and_an_answer_beats_none(without, with_logs, margin):
    row = one(without, with_logs, margin)
    assert row["answered"] == (without.answer is not None or with_logs.answer is not None)
    assert row["right"] <= (bool(without.correct) or bool(with_logs.correct))
    if without.answer is None or with_logs.answer is None:
        assert row["logs"] == (without.answer is None)


@given(TRACES, TRACES, MARGINS, MARGINS)
def test_a_larger_margin_takes_logs_wherever_a_smaller_one_does(without, with_logs, one_margin, other):
    less, more = sorted((one_margin, other))
    taken = [takes_logs(without, with_logs, margin) for margin in (LAST_RESORT, less, more, BACKUP)]
    assert taken == sorted(taken)


@given(TRACES, TRACES)
def test_without_end_the_margin_gives_the_answers_of_one_run_and_the_other_only_where_it_has_none(without, with_logs):
    first = {BACKUP: with_logs, LAST_RESORT: without}
    second = {BACKUP: without, LAST_RESORT: with_logs}
    for margin in first:
        had, rest = first[margin], second[margin]
        row = one(without, with_logs, margin)
        assert row["right"] == bool((had if had.answer is not None else rest).correct)
        made = [had] if had.answer is not None else [had, rest]
        assert row["rounds"] == sum(len(run.rounds) for run in made)


def test_a_margin_pays_for_both_runs_and_no_margin_for_that_with_logs():
    without, with_logs = trace(-0.1, right=True, rounds=3), trace(-0.2, rounds=2)
    both = {"rounds": 5, "prefilled": 50, "injected": 15, "generated": 10, "seconds": 2.5}
    assert one(without, with_logs, 0.0) == {"logs": False, "answered": True, "right": True, **both}
    assert one(without, with_logs, 0.5) == {"logs": True, "answered": True, "right": False, **both}
    single = {"rounds": 2, "prefilled": 20, "injected": 6, "generated": 4, "seconds": 1.0}
    assert one(without, with_logs, None) == {"logs": True, "answered": True, "right": False, **single}
    assert one(without, NOTHING, None)["answered"] is False


def test_runs_that_cannot_be_gated_are_refused():
    known, unknown = {"q": trace(-0.1)}, {"q": trace(None)}
    with pytest.raises(DataError, match="hold different questions"):
        gated({"p": trace(-0.1)}, known, 0.0)
    with pytest.raises(DataError, match="No answer with logs tells how sure the model was: answer the questions again"):
        gated(known, unknown, 0.0)
    with pytest.raises(DataError, match="No answer without logs tells"):
        gated(unknown, known, 0.0)
    for margin in (None, BACKUP, LAST_RESORT):
        assert len(gated(known, unknown, margin)) == 1
    assert not gated({"q": NOTHING}, {"q": NOTHING}, 0.0)["answered"].any()


def test_each_kind_of_gate_is_the_best_of_its_own_and_of_equal_ones_that_which_interferes_least():
    right = {
        Gate(): 0.5,
        Gate(0.4): 0.6,
        Gate(0.5): 0.6,
        Gate(margin=BACKUP): 0.5,
        Gate(margin=0.1): 0.55,
        Gate(margin=0.0): 0.55,
        Gate(0.4, 0.1): 0.6,
        Gate(0.5, 0.0): 0.7,
        Gate(0.5, 0.1): 0.7,
    }
    assert choose_gates(right) == {
        "all logs": Gate(),
        "similar logs": Gate(0.4),
        "confident answers": Gate(margin=0.1),
        "both": Gate(0.5, 0.1),
    }
    assert set(choose_gates(dict.fromkeys(reversed(right), 0.5)).values()) == {Gate()}


def test_gates_tell_what_they_do():
    assert [
        str(gate)
        for gate in (
            Gate(),
            Gate(0.5),
            Gate(0.5, 0.01),
            Gate(margin=0.0),
            Gate(margin=BACKUP),
            Gate(margin=LAST_RESORT),
        )
    ] == [
        "all logs",
        "logs from 0.5 on",
        "logs from 0.5 on, if confidence falls by 0.01 at most",
        "all logs, if confidence does not fall",
        "all logs, else without",
        "all logs, where none without",
    ]


def test_confidences_are_told_side_by_side_and_missing_where_there_is_no_answer():
    without = {"a": trace(-0.5), "b": trace(-0.25), "c": NOTHING}
    with_logs = {"a": trace(-0.25), "b": NOTHING, "c": trace(-0.5)}
    table = confidences(without, with_logs)
    expected = {
        "sure_without": [-0.5, -0.25, math.nan],
        "sure_with_logs": [-0.25, math.nan, -0.5],
        "change": [0.25, math.nan, math.nan],
    }
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected, index=["a", "b", "c"]))


def series(values: list[float]) -> pd.Series:
    return pd.Series(values, [f"q{i}" for i in range(len(values))])


def alone(n: int) -> dict[str, tuple[str, ...]]:
    return {f"q{i}": (str(i),) for i in range(n)}


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=10, max_size=30))
def test_the_area_is_the_share_of_pairs_in_which_the_right_answer_scores_higher(pairs):
    score, right = series([float(value) for value, _ in pairs]), series([good for _, good in pairs])
    area = auc(score, right, alone(len(pairs)))
    good, bad = score[right.astype(bool)], score[~right.astype(bool)]
    if min(len(good), len(bad)) < 5:
        assert math.isnan(area.mean)
        assert area.n == len(pairs)
        return
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in good for b in bad]
    assert area.mean == pytest.approx(np.mean(wins))
    assert area.low <= area.mean <= area.high
    flipped = auc(-score, right, alone(len(pairs)))
    assert (flipped.mean, flipped.high) == pytest.approx((1 - area.mean, 1 - area.low))


def test_the_interval_of_an_area_is_delong_s_and_wider_where_questions_share_hops():
    rng = np.random.default_rng(0)
    right = series([*([True] * 60), *([False] * 40)])
    score = series([*rng.normal(0.5, 1, 60), *rng.normal(0, 1, 40)])
    area = auc(score, right, alone(100))
    wins = (score.to_numpy()[:60, None] > score.to_numpy()[None, 60:]).astype(float)
    delong = wins.mean(1).var(ddof=1) / 60 + wins.mean(0).var(ddof=1) / 40
    assert (area.high - area.low) / 2 == pytest.approx(1.984 * math.sqrt(delong), rel=0.01)
    twice = pd.concat([score, score.rename("{}'".format)]), pd.concat([right, right.rename("{}'".format)])
    shared = {id: (id.strip("q'"),) for id in twice[0].index}
    doubled = auc(*twice, shared)
    assert doubled.effective == 100
    assert doubled.high - doubled.low == pytest.approx(area.high - area.low, rel=0.01)


def test_what_confidence_tells_is_told_by_kind_of_answers():
    n = 24
    outcomes = pd.DataFrame(
        {
            "without": [True] * 18 + [False] * 6,
            "with_logs": [True] * 12 + [False] * 6 + [True] * 6,
            "kind": ["helpful"] * 12 + ["contradicting"] * 12,
            "sure_without": [-0.1] * 18 + [-0.9] * 5 + [math.nan],
            "sure_with_logs": [-0.1] * 12 + [-0.2] * 6 + [-0.3] * 6,
        },
        index=[f"q{i}" for i in range(n)],
    )
    outcomes["change"] = outcomes["sure_with_logs"] - outcomes["sure_without"]
    table = discrimination(outcomes, alone(n))
    assert table["answers"].to_dict() == {
        "without logs": 23,
        "with logs": 24,
        "with logs, contradicting": 12,
        "with logs, helpful": 12,
        "change, right without": 18,
    }
    assert table["right"].to_list() == pytest.approx([18 / 23, 18 / 24, 0.5, 1.0, 12 / 18])
    assert table["mean"].to_list() == pytest.approx([1.0, 12 / 18, 0.0, math.nan, 1.0], nan_ok=True)
    assert table["median"].to_list() == pytest.approx([-0.1, -0.15, -0.25, -0.1, 0.0])


def test_an_answer_that_failed_is_none():
    failed = replace(NOTHING, error="ContextTooLong: too long")
    assert takes_logs(trace(-3.0), failed, BACKUP) is False
    assert takes_logs(failed, trace(-3.0), LAST_RESORT) is True


def test_an_area_of_one_is_as_uncertain_as_the_few_that_it_rests_on():
    score = pd.Series([float(i) for i in range(45)], [f"q{i}" for i in range(45)])
    found = auc(score, score >= 40, alone(45))  # five right answers, each surer than all forty wrong ones
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(5 / (5 + 1.959964**2))
