"""Figures of transfer show the numbers of their tables: means and intervals, counts in bins, the chosen threshold."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from lagkit.views.plots.transfer import OUTCOMES, SIDES, by_score, by_share, doubts, thresholds

PANELS = {"removed": "logs taken away", "changed": "logs that contradict"}


def effects() -> pd.DataFrame:
    rows = [
        {
            "panel": panel,
            "share": share,
            "policy": policy,
            "side": side,
            "mean": mean,
            "low": mean / 2,
            "high": 2 * mean,
        }
        for panel in PANELS
        for share in (0.0, 0.5)
        for policy in ("text", "kv")
        for side, mean in (("positive", 0.1 + share / 10), ("negative", 0.02))
    ]
    return pd.DataFrame(rows)


def test_transfer_by_share_has_a_line_for_each_side_and_policy_in_each_panel():
    figure = by_share(effects(), PANELS, "Title")
    assert len(figure.data) == 2 * 2 * 2
    assert [line.name for line in figure.data if line.showlegend] == [
        f"{side}, {policy}" for side in ("positive", "negative") for policy in ("text", "kv")
    ]
    for line in figure.data:
        side = line.name.split(",")[0]
        assert line.line.color == SIDES[side]
        assert list(line.x) == ([0, 50] if line.name.endswith("text") else [2, 52])
        assert list(line.y) == pytest.approx([10, 15] if side == "positive" else [2, 2])
        assert list(line.error_y.array) == pytest.approx(list(line.y))
        assert list(line.error_y.arrayminus) == pytest.approx([y / 2 for y in line.y])
    assert {line.line.dash for line in figure.data if line.name.endswith("kv")} == {"dot"}
    assert list(figure.layout.xaxis.ticktext) == ["0%", "50%"]
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text) == tuple(PANELS.values())


def test_outcomes_are_counted_by_kind_and_similarity():
    table = pd.DataFrame(
        [
            ("helpful", 0.30, False, True),
            ("helpful", 0.39, False, True),
            ("helpful", 0.52, True, True),
            ("contradicting", 0.50, True, False),
            ("contradicting", 0.41, False, False),
            (None, float("nan"), True, True),
        ],
        columns=["kind", "best", "without", "with_logs"],
    )
    figure = by_score(table, "Title")
    assert [note.text for note in figure.layout.annotations] == [
        "some log contradicts (n = 2)",
        "some help, none contradicts (n = 3)",
    ]
    shown = {(bar.xaxis, bar.name): dict(zip(bar.x, bar.y, strict=True)) for bar in figure.data}
    nothing = {"0.3": 0, "0.4": 0, "0.5": 0}
    assert shown == {
        **{(axis, name): nothing for axis in ("x", "x2") for name in OUTCOMES},
        ("x2", "wrong, then right"): nothing | {"0.3": 2},
        ("x2", "right both times"): nothing | {"0.5": 1},
        ("x", "right, then wrong"): nothing | {"0.5": 1},
        ("x", "wrong both times"): nothing | {"0.4": 1},
    }


def test_thresholds_are_drawn_with_intervals_and_the_chosen_one_is_a_star():
    sweep = pd.DataFrame({"mean": [0.0, 0.02], "low": [0.0, -0.01], "high": [0.0, 0.05]}, index=[-1.0, 0.5])
    figure = thresholds({"plain": sweep, "aged": -sweep}, {"plain": 0.5, "aged": -1.0}, "Title")
    plain, aged = figure.data
    assert list(plain.x) == ["all logs", "0.5"]
    assert list(plain.y) == [0, 2]
    assert list(plain.error_y.array) == pytest.approx([0, 3])
    assert list(plain.error_y.arrayminus) == pytest.approx([0, 3])
    assert (plain.marker.symbol, aged.marker.symbol) == (("circle", "star"), ("star", "circle"))


def test_doubts_are_drawn_by_kind_and_outcome_and_questions_without_an_answer_at_the_edge():
    table = pd.DataFrame(
        [
            ("helpful", False, True, math.nan, -1e-3),
            ("helpful", True, True, -0.5, -3.0),
            ("helpful", True, True, -0.5, 0.0),
            ("contradicting", True, False, -1e-4, -1e-2),
            ("contradicting", False, False, math.nan, math.nan),
            (None, True, True, -0.1, -0.1),
        ],
        columns=["kind", "without", "with_logs", "sure_without", "sure_with_logs"],
    )
    figure = doubts(table, "Title")
    assert [note.text for note in figure.layout.annotations] == [
        "some log contradicts (n = 2)",
        "some help, none contradicts (n = 3)",
    ]
    points = {
        (line.xaxis, line.name): list(zip(line.x, line.y, strict=True))
        for line in figure.data
        if line.mode == "markers" and len(line.x)
    }
    assert points == {
        ("x", "right, then wrong"): [(1e-4, 1e-2)],
        ("x", "wrong both times"): [(10, 10)],
        ("x2", "wrong, then right"): [(10, 1e-3)],
        ("x2", "right both times"): [(0.5, 1), (0.5, 1e-7)],
    }
    for line in (line for line in figure.data if line.mode == "markers"):
        assert line.marker.color == OUTCOMES[line.name]
    assert figure.layout.xaxis.range == figure.layout.yaxis.range
    assert "none" in figure.layout.yaxis.ticktext
