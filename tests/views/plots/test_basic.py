"""Figures show the table's numbers, in its order, and have room for their labels."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest

from lagkit.views import palette, plots
from lagkit.views.plots.attention import by_layer
from lagkit.views.plots.curves import by_rounds
from lagkit.views.tables import number

TABLE = pd.DataFrame(
    {"kind": ["a", "b", "a"], "right": [0.0, 0.25, 1.0], "logprob": [-5.0, -2.5, -0.5]},
    index=["none", "broken", "works"],
)
MEASURES = {"right": "right answers", "logprob": "log-probability"}


def test_bars_show_every_value_once_and_name_each_kind_once():
    figure = plots.bars(TABLE, "kind", MEASURES, "Title")
    shown = {(trace.xaxis, name): value for trace in figure.data for name, value in zip(trace.y, trace.x, strict=True)}
    assert shown == {
        **{("x", name): value for name, value in TABLE["right"].items()},
        **{("x2", name): value for name, value in TABLE["logprob"].items()},
    }
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "b"]
    assert {trace.name: trace.marker.color for trace in figure.data} == {
        "a": palette.SERIES[0],
        "b": palette.SERIES[1],
    }
    assert [note.text for note in figure.layout.annotations] == ["right answers", "log-probability"]
    # Rows stand as in the table, the first at the top.
    assert list(figure.layout.yaxis.categoryarray) == ["works", "broken", "none"]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.0, 1.0], 0.0, 1.34), ([-5.0, -0.5], -6.7, 0.0), ([-1.0, 1.0], -1.68, 1.68), ([0.0, 0.0], 0.0, 0.34)],
)
def test_axes_start_at_zero_and_leave_room_for_the_numbers(values, low, high):
    table = pd.DataFrame({"kind": "a", "x": values}, index=["one", "two"])
    figure = plots.bars(table, "kind", {"x": "x"}, "Title")
    assert figure.layout.xaxis.range == pytest.approx((low, high))


def test_lines_follow_the_index_at_even_distances():
    table = pd.DataFrame({"kl": [0.0, 0.5, 2.5]}, index=[0, 32, 2048])
    [trace] = (figure := plots.lines(table, {"kl": "KL"}, "Title", "tokens")).data
    assert list(trace.x) == ["0", "32", "2,048"]
    assert list(trace.y) == [0.0, 0.5, 2.5]
    assert figure.layout.xaxis.type == "category"
    assert figure.layout.xaxis.title.text == "tokens"


def test_names_in_curves_and_panels_are_shown_letter_by_letter():
    name = "<a href='x'>kv</a>"
    rounds = pd.DataFrame({"policy": name, "rounds": [1, 2], "mean": 0.5, "low": 0.4, "high": 0.6})
    layers = pd.DataFrame({"part": name, "condition": name, "layer": [0, 1], "change": 0.5})
    for figure in (by_rounds(rounds, [name], "Title", "EM"), by_layer(layers, "change", "Title", "change")):
        assert [line.name for line in figure.data] == [plots.basic.plain(name)]
        assert name not in figure.to_json()
    assert [note.text for note in figure.layout.annotations] == [plots.basic.plain(name)]


def test_a_measure_on_a_logarithmic_axis_shows_the_number_itself():
    table = pd.DataFrame({"kind": "a", "bytes": [147.0, 2230518.2]}, index=["one", "two"])
    figure = plots.bars(table, "kind", {"bytes": "bytes"}, "Title", log=["bytes"])
    assert list(figure.data[0].text) == ["147", "2,230,518"]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis.range[0] == 2
    assert figure.layout.xaxis.range[1] > 6.3


@pytest.mark.parametrize(
    ("value", "shown"),
    [(33.8824, "33.88"), (2230518.2, "2,230,518"), (0.0, "0"), (0.5, "0.5"), (0.000123, "1.2e-04"), (float("nan"), "")],
)
def test_numbers_have_four_significant_digits(value, shown):
    assert number(value) == shown


def test_a_caption_stands_below_the_title_and_makes_its_own_room():
    figure = plots.basic.laid_out(go.Figure(), "Title", 400, "a caption of some words " * 14)
    lines = figure.layout.title.subtitle.text.split("<br>")
    assert len(lines) == 3
    assert figure.layout.height == 400 + figure.layout.margin.t - plots.basic.TOP
    assert figure.layout.margin.t >= 48 + 17 * 3
