"""Of each index the fastest that finds enough, drawn over the number of logs."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.views import palette
from lagkit.views.plots import scale
from lagkit.views.plots.scale import good_enough, search

ROWS = pd.DataFrame(
    [
        {"index": "flat", "logs": 1000, "effort": 0, "recall": 1.0, "ms": 0.1, "build_s": 0.01, "memory_mb": 2.0},
        {"index": "graph", "logs": 1000, "effort": 16, "recall": 0.9, "ms": 0.01, "build_s": 1.0, "memory_mb": 3.0},
        {"index": "graph", "logs": 1000, "effort": 32, "recall": 0.992, "ms": 0.02, "build_s": 1.0, "memory_mb": 3.0},
        {"index": "graph", "logs": 1000, "effort": 64, "recall": 1.0, "ms": 0.04, "build_s": 1.0, "memory_mb": 3.0},
        {"index": "graph", "logs": 9000, "effort": 16, "recall": 0.8, "ms": 0.02, "build_s": 9.0, "memory_mb": 27.0},
        {"index": "graph", "logs": 9000, "effort": 64, "recall": 0.95, "ms": 0.08, "build_s": 9.0, "memory_mb": 27.0},
    ]
)


def test_the_fastest_that_finds_enough_or_the_one_that_finds_most(monkeypatch):
    chosen = good_enough(ROWS)
    assert chosen[["index", "logs", "effort"]].to_numpy().tolist() == [
        ["flat", 1000, 0],
        ["graph", 1000, 32],
        ["graph", 9000, 64],
    ]
    assert list(chosen) == list(ROWS)
    monkeypatch.setattr(scale, "ENOUGH", 0.9)
    assert good_enough(ROWS)["effort"].tolist() == [0, 16, 64]


def test_lines_over_logarithms_and_hollow_points_for_those_that_miss_too_much():
    figure = search(good_enough(ROWS), "Title")
    assert [line.name for line in figure.data] == ["flat"] * 4 + ["graph"] * 4
    assert [line.showlegend for line in figure.data] == [True, False, False, False] * 2
    latency, recall, build, memory = figure.data[4:]
    assert list(latency.x) == [1000, 9000]
    assert list(latency.y) == pytest.approx([0.02, 0.08])
    assert list(recall.y) == pytest.approx([0.992, 0.95])
    assert (list(build.y), list(memory.y)) == ([1.0, 9.0], [3.0, 27.0])
    assert (latency.marker.color, latency.marker.symbol) == (palette.SERIES[1], ("circle", "circle-open"))
    kinds = [figure.layout[line.yaxis.replace("y", "yaxis")].type for line in (latency, recall, build, memory)]
    assert kinds == ["log", "linear", "log", "log"]
    assert figure.layout.title.text == "Title"
