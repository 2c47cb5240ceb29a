"""The analyses' figures show the tables' means, in their panels, with the names that a reader looks for."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from lagkit.views import palette
from lagkit.views.plots.attention import by_layer, effects, heads, shares
from lagkit.views.plots.basic import FLOOR
from lagkit.views.plots.divergence import by_shift


def test_shares_stand_side_by_side():
    table = pd.DataFrame({"mass": [0.5, 0.2], "null": [0.4, 0.3]}, index=[1, 2])
    figure = shares(table, {"mass": "this log", "null": "another"}, "Title", "rounds back")
    assert {bar.name: (list(bar.x), list(bar.y)) for bar in figure.data} == {
        "this log": (["1", "2"], [0.5, 0.2]),
        "another": (["1", "2"], [0.4, 0.3]),
    }
    assert figure.layout.xaxis.title.text == "rounds back"


def test_heads_are_averaged_over_questions_and_layers_run_down():
    rows = [
        {"back": f"{back} back", "layer": layer, "head": head, "more": back + 10 * layer + 100 * head + wobble}
        for back, layer, head, wobble in product((1, 2), range(2), range(3), (-1, 1))
    ]
    figure = heads(pd.DataFrame(rows), "more", "back", "Title")
    assert [note.text for note in figure.layout.annotations] == ["1 back", "2 back"]
    for back, panel in enumerate(figure.data, 1):
        assert [list(row) for row in panel.z] == [[back + 10 * y + 100 * x for x in range(3)] for y in range(2)]
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.coloraxis.cmid == 0


@pytest.mark.parametrize("rounds", [1, 4, 8])
def test_maps_of_many_rounds_and_heads_stay_wide_enough_to_read(rounds):
    rows = [
        {"back": f"{back} back", "layer": layer, "head": head, "more": float(back)}
        for back, layer, head in product(range(1, rounds + 1), range(32), range(32))
    ]
    figure = heads(pd.DataFrame(rows), "more", "back", "Title")
    wide = [axis.domain[1] - axis.domain[0] for axis in figure.select_xaxes() if axis.domain]
    assert min(wide) * 900 > 170
    assert figure.layout.height <= 900
    # Each name stands above the panel of its numbers.
    for note in figure.layout.annotations:
        [panel] = [one for one in figure.data if one.z[0][0] == int(note.text.split()[0])]
        domain = figure.layout["xaxis" + panel.xaxis[1:]].domain
        assert domain[0] <= note.x <= domain[1]


def test_lines_by_layer_have_a_panel_for_each_part():
    rows = [
        {"part": part, "condition": condition, "layer": layer, "relative": layer * scale + wobble}
        for (part, scale), condition, layer, wobble in product(
            (("keys", 1.0), ("values", 2.0)), ("1 back", "2 back"), range(3), (-0.5, 0.5)
        )
    ]
    figure = by_layer(pd.DataFrame(rows), "relative", "Title", "relative change")
    assert [(line.name, line.xaxis, list(line.y), line.showlegend) for line in figure.data] == [
        ("1 back", "x", [0, 1, 2], True),
        ("1 back", "x2", [0, 2, 4], False),
        ("2 back", "x", [0, 1, 2], True),
        ("2 back", "x2", [0, 2, 4], False),
    ]


def test_effects_show_their_intervals():
    index = pd.MultiIndex.from_product([["1 back", "no log"], ["gold", "right"]])
    table = pd.DataFrame({"mean": [-1.0, 0.1, -9.0, -0.5], "low": [-2.0, 0.0, -9.5, float("nan")]}, index=index)
    table["high"] = [0.5, 0.4, -8.0, float("nan")]
    gold, right = effects(table, {"gold": "log-probability", "right": "EM"}, "Title").data
    assert list(gold.y) == list(right.y) == ["1 back", "no log"]
    assert list(gold.x) == [-1.0, -9.0]
    assert list(gold.error_x.array) == pytest.approx([1.5, 1.0])
    assert list(gold.error_x.arrayminus) == pytest.approx([1.0, 0.5])
    assert list(right.error_x.array) == pytest.approx([0.3, float("nan")], nan_ok=True)


@pytest.fixture
def moved():
    rows = [
        {"dtype": dtype, "place": place, "variant": variant, "content": content, "shift": shift}
        | {"kl": 0.0 if not shift else shift * (1 + (variant == "stale")) + wobble}
        for dtype, place, variant, content, shift, wobble in product(
            ("float32", "bfloat16"),
            ("front", "prefix"),
            ("aligned", "stale"),
            ("retrieved", "random"),
            (0, 16),
            (-1, 1),
        )
    ]
    return pd.DataFrame(rows)


def test_a_panel_for_each_dtype_and_place(moved):
    figure = by_shift(moved, "kl", "Title", "KL")
    titles = {"float32, front", "float32, prefix", "bfloat16, front", "bfloat16, prefix"}
    assert {note.text for note in figure.layout.annotations} == titles
    assert len(figure.data) == 4 * 2 * 2
    assert [line.name for line in figure.data if line.showlegend] == [
        f"{variant}, {content} log" for variant in ("aligned", "stale") for content in ("retrieved", "random")
    ]
    line = next(line for line in figure.data if line.name == "stale, retrieved log")
    assert (list(line.x), list(line.y)) == (["0", "16"], [0.0, 32.0])
    assert (line.line.color, line.line.dash) == (palette.SERIES[1], "solid")
    assert figure.data[0].line.width > line.line.width


def test_zero_is_drawn_at_the_floor_of_a_logarithmic_axis(moved):
    figure = by_shift(moved, "kl", "Title", "KL", log=True)
    assert list(figure.data[0].y) == [FLOOR, 16.0]
    assert figure.layout.yaxis.type == "log"
