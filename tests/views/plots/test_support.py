"""Figures on support show each model's numbers, and leave out what was not measured."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.views.plots.support import against, dots

TABLE = pd.DataFrame(
    {"fine": [1e-7, 2e-7, float("nan")], "coarse": [1e-2, 3e-2, 4e-2], "kind": ["dense", "with experts", "dense"]},
    index=["llama", "mixtral", "phi"],
)


def test_dots_are_the_numbers_and_a_line_joins_those_of_a_model():
    figure = dots(TABLE, {"fine": "float32", "coarse": "bfloat16"}, "Errors", "relative error")
    lines, *marks = figure.data
    assert [mark.name for mark in marks] == ["float32", "bfloat16"]
    assert list(marks[1].x) == [1e-2, 3e-2, 4e-2]
    assert list(marks[1].y) == ["llama", "mixtral", "phi"]
    assert lines.x[:3] == (1e-7, 1e-2, None)
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.yaxis.categoryarray) == ["phi", "mixtral", "llama"]


def test_against_names_the_highest_and_drops_what_is_missing():
    figure = against(TABLE, "fine", "coarse", "kind", "Title", ("x", "y"))
    equal, *groups = figure.data
    assert (equal.x, equal.y) == ((1e-7, 3e-2),) * 2
    assert {group.name: list(group.hovertext) for group in groups} == {"dense": ["llama"], "with experts": ["mixtral"]}
    assert groups[1].y[0] == pytest.approx(3e-2)
    many = pd.DataFrame({"fine": [1.0] * 5, "coarse": [9.0, 1.0, 5.0, 7.0, 2.0], "kind": "dense"}, list("abcde"))
    assert list(against(many, "fine", "coarse", "kind", "Title", ("x", "y")).data[1].text) == ["a", "", "c", "d", ""]
