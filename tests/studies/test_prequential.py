"""Scores over streams, on tables made by hand: averaged over orders by question, and compared pair by pair."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.stats.intervals import paired_interval
from lagkit.studies import prequential
from lagkit.views.plots import online as figures

HOPS = {id: (id,) for id in "abcd"}
RIGHT = {"append": {0: "0011", 1: "0111"}, "cap": {0: "0001", 1: "0101"}}  # by place: the order, then backwards


def streams() -> pd.DataFrame:
    """Four questions in an order and backwards, under two conditions; log 1 of two is wrong and found by task c."""
    rows = []
    for condition, orders in RIGHT.items():
        for order, right in orders.items():
            for place, (id, one) in enumerate(zip("abcd"[:: -1 if order else 1], right, strict=True), 1):
                logs = min(place, 2) if condition == "cap" else place
                found: dict[str, object] = {"helpful": int(id in "bc"), "wrong_helpful": int(id == "c")}
                row: dict[str, object] = {"condition": condition, "order": order, "place": place, "question_id": id}
                row["em"] = float(one)
                rows.append({**row, "rounds": 5 - place, "logs": logs, **found})
    return pd.DataFrame(rows)


def fixed() -> pd.DataFrame:
    rows = [{"condition": "no_logs", "question_id": id, "em": 0.0, "rounds": 4} for id in "abcd"]
    return pd.DataFrame(rows + [{"condition": "static", "question_id": id, "em": 1.0, "rounds": 2} for id in "abcd"])


def test_a_question_counts_once_with_the_mean_over_its_orders():
    table = prequential.by_question(streams(), fixed(), "em")
    assert list(table.columns) == ["append", "cap", "no_logs", "static"]
    # Order 0 is a b c d with 0 0 1 1, order 1 is d c b a with 0 1 1 1.
    assert table["append"].to_dict() == {"a": 0.5, "b": 0.5, "c": 1.0, "d": 0.5}
    assert table["cap"].to_dict() == {"a": 0.5, "b": 0.0, "c": 0.5, "d": 0.5}
    assert table["static"].tolist() == [1.0] * 4


def test_of_a_part_of_the_stream_only_its_answers_count():
    late = prequential.by_question(streams(), fixed(), "em", (2, 4))
    assert late["append"].to_dict() == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    last = prequential.by_question(streams(), fixed(), "rounds", (3, 4))
    assert last["append"].to_dict() == {"a": 1.0, "d": 1.0}
    assert last["no_logs"].to_dict() == {"a": 4.0, "d": 4.0}


def test_differences_are_paired_by_question():
    found = prequential.compare(streams(), fixed(), HOPS, ("em", "rounds"), ("no_logs", "append"))
    assert found["mean"].loc["no_logs", "append", "em"] == 0.625
    assert found["mean"].loc["append", "cap", "em"] == pytest.approx(-0.25)
    assert found["mean"].loc["append", "static", "rounds"] == -0.5
    assert found.loc[("append", "cap", "em"), "low"] < -0.25 < found.loc[("append", "cap", "em"), "high"]
    assert set(found["n"]) == {4}
    assert ("append", "append", "em") not in found.index
    assert len(found) == 2 * 3 * 2


def test_intervals_of_the_curve_are_those_of_the_difference_around_the_mean():
    table = prequential.curve(streams(), fixed(), "em", HOPS, 2).set_index(["condition", "last"])
    assert table.loc[("append", 2), ["first", "mean"]].tolist() == [1, 0.25]
    assert table.loc[("append", 4), ["mean", "high"]].tolist() == [1, 1]
    assert table.loc[("no_logs", 4), "low"] < table.loc[("no_logs", 4), "mean"] == 0 < table.loc[("no_logs", 4), "high"]
    early = table.loc[("append", 2)]
    assert early["low"] < 0.25 < early["high"]
    apart = paired_interval(pd.Series(0.0, list(HOPS)), pd.Series([0, 0, 1.0, 0], list(HOPS)), HOPS)
    assert (early["low"], early["high"]) == pytest.approx((apart.low, apart.high))


def test_tasks_are_told_apart_by_the_worst_log_that_they_found():
    table = prequential.by_errors(streams(), fixed(), "em", HOPS)
    assert table["answers"].loc["append"].to_dict() == dict(zip(prequential.FOUND, (4, 2, 2), strict=True))
    assert table["online"].loc["append"].tolist() == [0.5, 0.5, 1.0]
    assert table["mean"].loc["cap"].tolist() == [0.5, 0.0, 0.5]
    nothing = streams().assign(helpful=0, wrong_helpful=0)
    assert list(prequential.by_errors(nothing, fixed(), "em", HOPS).loc["cap"].index) == ["none helps"]


def test_the_figure_of_a_stream_has_scores_in_points_and_references_without_bars():
    curves = {
        "EM, percent": prequential.curve(streams(), fixed(), "em", HOPS, 2),
        "rounds": prequential.curve(streams(), fixed(), "rounds", HOPS, 2),
    }
    figure = figures.prequential(curves, "Title")
    lines = {(line.name, line.xaxis): line for line in figure.data}
    assert len(lines) == 8
    assert list(lines["append", "x"].y) == [25, 100]
    assert list(lines["append", "x2"].y) == [3.5, 1.5]
    drawn = [bool(pd.notna(lines[name, "x"].error_y.array).all()) for name in ("append", "cap", "no logs", "static")]
    assert drawn == [True, True, False, False]
    assert list(lines["no logs", "x"].x) == [1, 3]
    assert lines["append", "x"].x[0] < 1 < lines["cap", "x"].x[0]
    assert lines["append", "x"].line.color == lines["append", "x2"].line.color != lines["cap", "x"].line.color


def test_the_figure_of_stores_has_their_growth_and_their_worth():
    rows = {"append": [4e6, 0.9, 0.8, 1.0], "cap": [2e6, 0.8, 0.7, 0.9], "static": [3e6, 0.85, 0.8, 0.9]}
    ends = pd.DataFrame.from_dict(rows, orient="index", columns=["bytes", "mean", "low", "high"])
    figure = figures.stores(streams(), ends, ("logs", "EM"), "Title")
    grown = [list(line.y) for line in figure.data if line.mode == "lines"]
    assert grown == [[1, 2, 3, 4], [1, 2, 2, 2]]
    marks = {mark.name: mark for mark in figure.data if mark.mode == "markers"}
    assert (marks["append"].x[0], marks["append"].y[0]) == (4, 90)
    assert marks["cap"].error_y.array[0] == pytest.approx(10)
    assert list(marks) == ["append", "cap", "static"]
