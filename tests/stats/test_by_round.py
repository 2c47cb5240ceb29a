"""A run read at smaller limits of rounds gives what a run with that limit gives."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.stats.by_round import curve, differences, limited, to_ceiling
from lagkit.views.lab import open_run

#         question: (right, rounds) without logs, and with them
TRUTH = {
    "a": ((1, 1), (1, 1)),
    "b": ((1, 3), (1, 2)),
    "c": ((1, 4), (1, 2)),
    "d": ((0, 4), (0, 1)),
    "e": ((0, 4), (0, 4)),
}
HOPS = {question: (question,) for question in TRUTH}


def results():
    rows = []
    for place, policy in enumerate(("no_logs", "kv")):
        for question, truth in TRUTH.items():
            right, rounds = truth[place]
            abstained = question == "e"
            row = {"policy": policy, "split": "unseen", "question_id": question, "em": float(right), "rounds": rounds}
            answer = None if abstained else "an answer"
            rows.append({**row, "answer": answer, "abstained": abstained, "failed": False, "seconds": 1.0})
    return pd.DataFrame(rows)


def test_an_answer_counts_from_the_round_on_in_which_it_was_given():
    table = curve(results(), HOPS, range(1, 5)).pivot(index="rounds", columns="policy", values="mean")
    assert table["no_logs"].tolist() == pytest.approx([0.2, 0.2, 0.4, 0.6])
    assert table["kv"].tolist() == pytest.approx([0.2, 0.6, 0.6, 0.6])


def test_intervals_hold_their_means():
    table = curve(results(), HOPS, [2, 3])
    assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()


def test_what_came_too_late_is_an_abstention():
    early = limited(results().query("policy == 'no_logs'"), 2).set_index("question_id")
    assert early["abstained"].to_dict() == {"a": False, "b": True, "c": True, "d": True, "e": True}
    assert early["answer"].isna().to_dict() == early["abstained"].to_dict()
    assert early["rounds"].tolist() == [1, 2, 2, 2, 2]
    assert "seconds" not in early


def test_a_failure_in_a_later_round_would_not_have_happened():
    failed = results().query("question_id == 'b' and policy == 'no_logs'").assign(em=float("nan"), failed=True)
    assert limited(failed, 4)["failed"].tolist() == [True]
    # Three rounds went well: with a limit of three, the fourth would not have been tried.
    [row] = limited(failed, 3).to_dict("records")
    assert (row["failed"], row["abstained"]) == (False, True)


def test_differences_are_at_the_same_limit():
    table = differences(results(), HOPS, [1, 2, 4])
    assert table["policy"].unique().tolist() == ["kv"]
    assert table["mean"].tolist() == pytest.approx([0.0, 0.4, 0.0])


def test_rounds_needed_to_reach_what_the_baseline_reaches_in_the_end():
    table = to_ceiling(results(), HOPS, 4)
    assert table["rounds"].to_dict() == {"no_logs": 4, "kv": 2}
    assert table.loc["kv", "mean"] == 0.0
    assert table.loc["kv", "low"] <= 0.0 <= table.loc["kv", "high"]


def test_a_share_of_the_ceiling_is_reached_sooner():
    assert to_ceiling(results(), HOPS, 4, share=0.3)["rounds"].to_dict() == {"no_logs": 1, "kv": 1}
    assert to_ceiling(results(), HOPS, 4, share=0.6)["rounds"].to_dict() == {"no_logs": 3, "kv": 2}


def test_a_ceiling_that_is_never_reached_is_missing():
    worse = results()
    worse.loc[worse["policy"] == "kv", "em"] = 0.0
    assert to_ceiling(worse, HOPS, 4)["rounds"].isna().to_dict() == {"no_logs": False, "kv": True}


def test_a_real_run_with_the_smaller_limit_says_the_same(tmp_path):
    world = {"entities": 90, "log_questions": 6, "unseen_questions": 8, "hops": [1, 2, 3]}
    asked = {"world": world, "policies": ("no_logs",), "splits": ("unseen",), "embedder": "hash"}
    long, short = (
        open_run("testbed", tmp_path / str(limit), max_rounds=limit, **asked).run().set_index("question_id")
        for limit in (4, 2)
    )
    told = limited(long.reset_index(), 2).set_index("question_id").loc[short.index]
    for column in ("em", "f1", "rounds", "abstained"):
        assert told[column].tolist() == short[column].tolist()
    assert 0 < told["abstained"].sum() < 8
    assert not long["abstained"].all()
