"""Differences between conditions are paired by question, and their reach stops at the first gap."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lagkit.studies.differences import (
    against_intact,
    against_null,
    attention_reach,
    causal_reach,
    findings,
    heads_apart,
)

HOPS = {f"q{i}": [f"h{i}"] for i in range(12)}
NOISE = np.random.default_rng(0).normal(0, 0.01, 12)


def attention():
    """At 1 back head 0 gives 0.3 more than the null and head 1 as much; at 2 back both less by 0.1."""
    rows = []
    for (name, wobble), back, head in product(zip(HOPS, NOISE, strict=True), (1, 2), (0, 1)):
        more = -0.1 if back == 2 else 0.3 * (head == 0)
        row = {"question_id": name, "back": back, "layer": 0, "head": head, "mass": 0.4 + more + wobble, "null": 0.4}
        rows.append(row)
    return pd.DataFrame(rows)


def test_attention_is_compared_question_by_question():
    found = against_null(attention(), HOPS, ["back"])
    assert found["mean"].to_list() == pytest.approx([0.15 + NOISE.mean(), -0.1 + NOISE.mean()])
    assert found["n"].to_list() == [12, 12]
    assert found.loc[1, "low"] > 0
    assert found.loc[2, "high"] < 0
    whole = against_null(attention(), HOPS)
    assert whole["mean"].item() == pytest.approx(0.025 + NOISE.mean())


def test_heads_are_counted_on_either_side():
    found = heads_apart(attention(), HOPS, "back")
    assert found.loc[1].to_dict() == {"more": 1, "less": 0, "heads": 2}
    assert found.loc[2].to_dict() == {"more": 0, "less": 2, "heads": 2}


def test_conditions_are_compared_over_the_questions_that_have_them():
    rows = [{"question_id": q, "condition": "intact", "gold": -1.0, "right": 1.0} for q in HOPS]
    rows += [
        {"question_id": q, "condition": "1 back", "gold": -3.0 + e, "right": 1.0}
        for q, e in zip(HOPS, NOISE, strict=True)
    ]
    rows += [{"question_id": q, "condition": "2 back", "gold": -1.0, "right": 0.0} for q in ("q3", "q1")]
    found = against_intact(pd.DataFrame(rows), HOPS)
    assert found.loc[("1 back", "gold"), "mean"] == pytest.approx(-2 + NOISE.mean())
    unchanged = found.loc[("1 back", "right")]
    assert unchanged["low"] < unchanged["mean"] == 0 < unchanged["high"]
    assert found.loc[("2 back", "right"), ["mean", "n"]].to_list() == [-1, 2]
    assert causal_reach(found, "gold") == 1
    assert causal_reach(found, "right") == 0


@pytest.mark.parametrize(
    ("low", "reach"), [([0.1, 0.2, 0.1], 3), ([0.1, -0.1, 0.1], 1), ([-0.1, 0.1, 0.1], 0), ([float("nan")], 0)]
)
def test_reach_ends_at_the_first_round_without_a_difference(low, reach):
    assert attention_reach(pd.DataFrame({"low": low}, index=range(1, len(low) + 1))) == reach


@pytest.mark.parametrize(
    ("mean", "shown"),
    [(0.0214, "+0.021"), (-30.3391, "-30.34"), (9.9996, "+10.00"), (2004.3, "+2004"), (20043.0, "+20043")],
)
def test_a_difference_is_told_with_four_digits(mean, shown):
    rows = pd.DataFrame({"mean": mean, "low": mean, "high": mean}, index=["one"])
    [finding] = findings(rows, "{}")
    assert f", {shown} [{shown}, {shown}] of all." in finding
    assert [format(row.mean, row.digits) for row in finding.rows] == [shown]
