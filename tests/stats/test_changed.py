"""Flips are counted question by question, and never hidden by a mean."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.stats.changed import OUTCOMES, counts, outcomes, turned
from lagkit.util.errors import ConfigError

#            q:  1    2    3    4
BEFORE = [1.0, 0.0, 1.0, 0.0]
AFTER = [1.0, 1.0, 0.0, 0.0]


def results(score: str = "em") -> pd.DataFrame:
    rows = []
    for policy, values in (("kv", AFTER), ("no_logs", BEFORE)):
        for number, value in enumerate(values, 1):
            row = {"policy": policy, "split": "unseen", "question_id": f"q{number}", score: value}
            rows.append({**row, "answer": f"{policy} {number}", "rounds": number + (policy == "no_logs")})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("score", ["em", "accuracy"])
def test_each_question_has_its_outcome(score):
    table = outcomes(results(score)).set_index("question_id")
    assert table["outcome"].to_dict() == {
        "q1": "both right",
        "q2": "wrong to right",
        "q3": "right to wrong",
        "q4": "both wrong",
    }
    assert table.loc["q2", ["answer_before", "answer"]].tolist() == ["no_logs 2", "kv 2"]
    assert table.loc["q2", ["rounds_before", "rounds"]].tolist() == [3, 2]


def test_a_zero_mean_difference_still_shows_two_flips():
    assert sum(AFTER) == sum(BEFORE)
    assert counts(results()).loc[("kv", "unseen")].to_dict() == {
        "both right": 1,
        "wrong to right": 1,
        "right to wrong": 1,
        "both wrong": 1,
    }


def test_an_outcome_that_did_not_occur_counts_zero():
    assert counts(results().query("question_id == 'q1'")).loc[("kv", "unseen")].tolist() == [1, 0, 0, 0]


def test_a_question_that_one_of_both_lacks_is_left_out():
    table = outcomes(results().drop(index=0))
    assert table["question_id"].tolist() == ["q2", "q3", "q4"]


def test_another_baseline_is_compared_with():
    table = outcomes(results(), "kv").set_index("question_id")
    assert (table["policy"] == "no_logs").all()
    assert table["outcome"]["q2"] == "right to wrong"
    assert turned(results(), baseline="kv")["question_id"].tolist() == ["q2", "q3"]
    assert counts(results(), baseline="kv").index.tolist() == [("no_logs", "unseen")]
    with pytest.raises(ConfigError, match="no results of 'kv2' to compare with: run it too, or name another"):
        outcomes(results(), "kv2")


def test_columns_of_counts_are_named():
    assert (counts(results()).columns.name, [*counts(results())]) == ("outcome", [*OUTCOMES])


def test_without_the_baseline_there_is_nothing_to_compare():
    with pytest.raises(ConfigError, match=r"no results of 'no_logs' to compare with: run it too"):
        outcomes(results().query("policy == 'kv'"))
