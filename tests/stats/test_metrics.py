"""Scores against hand-computed values; the bootstrap against simulations whose true difference is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.stats.intervals import tango
from lagkit.stats.metrics import compare, exact_match, f1, f1_hotpot, is_right, normalize, score, summarize
from lagkit.types import Question
from lagkit.util.errors import ConfigError, DataError

QA = Question("q", "Where was Marie Curie born?", ("Warsaw", "Warszawa"))
CHOICE = Question("c", "Which is a river?", ("B",), "choice", ("the Alps", "the Danube", "Vienna"))


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("The  Baltic Sea.", ["baltic sea"], 1.0),
        ("an apple", ["Apple"], 1.0),
        ("theatre", ["the atre"], 0.0),  # articles are whole words
        ("I. M. Pei", ["I M Pei"], 1.0),
        ("well-known", ["wellknown"], 1.0),  # SQuAD deletes punctuation, it does not make a space of it
        ("TORUŃ", ["Toruń"], 1.0),
        ("Torun", ["Toruń"], 0.0),  # letters keep their accents
        ("“Warsaw”", ["Warsaw"], 0.0),  # only ASCII punctuation is removed
        ("Moldau", ["Vltava", "Moldau"], 1.0),
        ("", ["Warsaw"], 0.0),
        ("the", [""], 1.0),
        (None, ["Warsaw"], 0.0),
        (None, [""], 0.0),
    ],
)
def test_exact_match(prediction, answers, expected):
    assert exact_match(prediction, answers) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the Baltic Sea", ["Baltic Sea"], 1.0),
        ("into the Baltic Sea", ["Baltic Sea"], 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # precision 2/3, recall 1
        ("Sea", ["Baltic Sea"], 2 * 1 * 0.5 / 1.5),
        ("sea sea sea", ["Black Sea"], 2 * (1 / 3) * 0.5 / (1 / 3 + 0.5)),  # a word counts as often as both hold it
        ("Danube", ["Vistula"], 0.0),
        ("River Severn in Wales", ["Severn", "River Severn"], 2 * 0.5 * 1 / 1.5),  # the better alias
        ("", ["Warsaw"], 0.0),
        ("a", ["the"], 1.0),
        (None, ["the"], 0.0),
    ],
)
def test_f1(prediction, answers, expected):
    assert f1(prediction, answers) == pytest.approx(expected)


@given(st.text(max_size=30), st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_f1_is_at_least_exact_match_and_symmetric(prediction, answers):
    assert exact_match(prediction, answers) <= f1(prediction, answers) <= 1.0
    assert f1(prediction, answers[:1]) == f1(answers[0], [prediction])


@given(st.text(max_size=40))
def test_normal_form_loses_case_outer_space_and_punctuation(text):
    assert normalize(f" {normalize(text)}! ") == normalize(normalize(text))
    assert exact_match(text, [text]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "answers", "hotpot", "squad"),
    [
        ("yes", ["Yes."], 1.0, 1.0),
        ("Yes, both are rivers", ["yes"], 0.0, 2 * 0.25 / 1.25),  # precision 1/4, recall 1
        ("no answer", ["no"], 0.0, 2 / 3),
        ("noanswer", ["noanswer"], 1.0, 1.0),
        ("yes", ["yes and no"], 0.0, 0.5),
        ("No", ["No", "none"], 1.0, 1.0),
        ("into the Baltic Sea", ["Baltic Sea", "yes"], 0.8, 0.8),  # as SQuAD's where neither is a verdict
        ("the", ["a"], 0.0, 1.0),  # no words
        (None, ["the"], 0.0, 0.0),
    ],
)
def test_hotpot_s_f1_takes_a_yes_only_for_itself(prediction, answers, hotpot, squad):
    assert f1_hotpot(prediction, answers) == pytest.approx(hotpot)
    assert f1(prediction, answers) == pytest.approx(squad)


def test_score_depends_on_the_kind_of_task():
    assert score(QA, "in Warszawa") == {"em": 0.0, "f1": pytest.approx(2 / 3)}
    assert score(QA, None) == {"em": 0.0, "f1": 0.0}
    assert score(CHOICE, "(B)") == {"accuracy": 1.0, "accuracy_flexible": 1.0}
    assert score(CHOICE, "B.") == {"accuracy": 0.0, "accuracy_flexible": 1.0}
    assert score(CHOICE, None) == {"accuracy": 0.0, "accuracy_flexible": 0.0}
    assert score(CHOICE, None, "The answer is (B)") == {"accuracy": 0.0, "accuracy_flexible": 1.0}
    assert score(CHOICE, "(A)", "The answer is (B): <ans>(A)</ans>") == {"accuracy": 0.0, "accuracy_flexible": 0.0}
    yes = Question("q", "Are both rivers?", ("yes",), f1="hotpot")
    assert score(yes, "yes, both") == {"em": 0.0, "f1": pytest.approx(2 / 3), "f1_hotpot": 0.0}
    assert [is_right(QA, "the Warsaw"), is_right(QA, "in Warsaw"), is_right(CHOICE, "(B)"), is_right(CHOICE, "B")] == [
        True,
        False,
        True,
        False,
    ]


def results(**columns) -> pd.DataFrame:
    """Two policies, two questions each; the last row failed and so has no score."""
    table = {
        "policy": ["no_logs", "no_logs", "kv", "kv"],
        "split": "unseen",
        "question_id": ["x", "y", "y", "x"],
        "answer": ["Warsaw", None, "Elbe", None],
        "em": [1.0, 0.0, 1.0, np.nan],
        "f1": [1.0, 0.0, 1.0, np.nan],
        "rounds": [2, 8, 1, 3],
        "abstained": [False, True, False, False],
        "failed": [False, False, False, True],
        "error": [None, None, None, "ContextTooLong: 9,000 tokens"],
        "prefilled": [100, 300, 50, 150],
        "injected": [0, 0, 40, 60],
        "generated": [10, 90, 20, 0],
        "seconds": [1.0, 3.0, 0.5, 0.5],
    }
    return pd.DataFrame({**table, **columns})


def test_summary_counts_a_failed_question_as_wrong():
    table = summarize(results())
    assert list(table.index) == [("no_logs", "unseen"), ("kv", "unseen")]
    assert table.loc[("no_logs", "unseen")].to_dict() == {
        "n": 2, "em": 0.5, "f1": 0.5, "rounds": 5.0, "abstention": 0.5, "failures": 0,
        "prefilled": 200.0, "injected": 0.0, "generated": 50.0, "seconds": 2.0,
    }  # fmt: skip
    assert table.loc[("kv", "unseen")].to_dict() == {
        "n": 2, "em": 0.5, "f1": 0.5, "rounds": 2.0, "abstention": 0.0, "failures": 1,
        "prefilled": 100.0, "injected": 50.0, "generated": 10.0, "seconds": 0.5,
    }  # fmt: skip


def test_summary_of_multiple_choice_has_both_accuracies():
    rows = results(accuracy=[1.0, 0.0, 0.0, 0.0], accuracy_flexible=[1.0, 1.0, 0.0, 1.0]).drop(columns=["em", "f1"])
    table = summarize(rows)
    assert table["accuracy"].tolist() == [0.5, 0.0]
    assert table["accuracy_flexible"].tolist() == [1.0, 0.5]
    assert "em" not in table


def test_summary_names_the_missing_column():
    with pytest.raises(DataError, match=r"lack the column\(s\) seconds"):
        summarize(results().drop(columns="seconds"))
    with pytest.raises(DataError, match="em or accuracy"):
        summarize(results().drop(columns=["em", "f1"]))


APART = {"x": ("a", "b"), "y": ("c",)}


def test_compare_pairs_by_question_and_not_by_row():
    table = compare(results(), APART)
    assert list(table.index) == [("kv", "unseen", "em"), ("kv", "unseen", "f1"), ("kv", "unseen", "rounds")]
    em, rounds = table.loc[("kv", "unseen", "em")], table.loc[("kv", "unseen", "rounds")]
    # x: 0 - 1 = -1, y: 1 - 0 = +1; rounds x: 3 - 2 = +1, y: 1 - 8 = -7
    assert (em["mean"], em["n"], em["effective"], rounds["mean"]) == (0.0, 2, 2, -3.0)
    # Two values at a distance of 8: Student's quantile for one degree of freedom times half the distance.
    assert rounds["low"] == pytest.approx(-3 - 4 * 12.706, abs=1e-2)
    assert (em["low"], em["high"]) == pytest.approx(tango(0.5, 0.5, 2))  # right answers are counted


def test_compare_takes_the_level_of_its_intervals():
    usual, wide = compare(results(), APART), compare(results(), APART, level=0.975)
    assert (wide["mean"] == usual["mean"]).all()
    assert (wide["high"] - wide["low"] > usual["high"] - usual["low"]).all()


def test_compare_of_the_baseline_alone_is_an_empty_table():
    table = compare(results().head(2), APART)
    assert (len(table), list(table.columns)) == (0, ["mean", "low", "high", "n", "effective"])


def test_compare_without_its_baseline_or_with_other_questions_is_refused():
    with pytest.raises(ConfigError, match="no results of the baseline 'text_last_round' on unseen questions"):
        compare(results(), APART, baseline="text_last_round")
    with pytest.raises(DataError, match=r"1 question\(s\) have one value and not two, first 'x'"):
        compare(results().head(3), APART)
