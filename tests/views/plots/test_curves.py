"""Curves show means in points with their intervals, and keep curves that meet apart."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.views import palette
from lagkit.views.plots.curves import by_rounds

TABLE = pd.DataFrame(
    {
        "policy": ["no_logs", "no_logs", "kv", "kv"],
        "rounds": [1, 2, 1, 2],
        "mean": [0.2, 0.5, 0.2, 0.8],
        "low": [0.1, 0.3, 0.1, 0.7],
        "high": [0.4, 0.6, 0.3, 0.9],
    }
)


def test_each_policy_has_its_curve_in_points_with_its_interval():
    base, kv = by_rounds(TABLE, ["no_logs", "kv"], "Title", "EM").data
    assert (base.name, kv.name) == ("no logs", "kv")  # of variants, by the names that people read
    assert "policy=no_logs" in base.hovertemplate
    assert list(kv.y) == pytest.approx([20, 80])
    assert list(base.error_y.array) == pytest.approx([20, 10])
    assert list(base.error_y.arrayminus) == pytest.approx([10, 20])
    assert (base.line.color, kv.line.color) == (palette.NONE, palette.KV)


def test_curves_that_meet_stay_apart_and_near_their_round():
    base, kv = by_rounds(TABLE, ["no_logs", "kv"], "Title", "EM").data
    assert base.x[0] < 1 < kv.x[0]
    assert [round(x) for x in kv.x] == [1, 2]


def test_the_ceiling_is_drawn_and_named():
    figure = by_rounds(TABLE, ["no_logs", "kv"], "Title", "EM", level=0.5, said="no_logs with 2 rounds")
    assert [shape.y0 for shape in figure.layout.shapes] == [50]
    assert [note.text for note in figure.layout.annotations] == ["no_logs with 2 rounds"]
    assert list(figure.layout.xaxis.tickvals) == [1, 2]


def test_a_policy_keeps_its_colour_where_another_is_missing():
    [kv] = by_rounds(TABLE.query("policy == 'kv'"), ["no_logs", "kv"], "Title", "EM").data
    assert kv.line.color == palette.KV
