"""The figure of divergence by cell shows each question in the box of its cell."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.views.plots.basic import FLOOR
from lagkit.views.plots.divergence import by_cell


def test_a_box_for_each_panel_and_colour_with_every_question():
    rows = [
        {"place": place, "before": before, "best_log": best, "kl": kl * (1 + (place == "prefix"))}
        for place in ("front", "prefix")
        for before in ("nothing", "bos")
        for best in ("first", "last")
        for kl in (0.0, 0.5)
    ]
    figure = by_cell(pd.DataFrame(rows), "Title", panel="place", x="before", by="best_log")
    assert [note.text for note in figure.layout.annotations] == ["place: front", "place: prefix"]
    assert [(box.name, box.xaxis, box.showlegend) for box in figure.data] == [
        ("best log: first", "x", True),
        ("best log: first", "x2", False),
        ("best log: last", "x", True),
        ("best log: last", "x2", False),
    ]
    for box, most in zip(figure.data, (0.5, 1.0, 0.5, 1.0), strict=True):
        aside = -0.2 if box.name.endswith("first") else 0.2  # around the label, in each panel alike
        assert list(box.x) == pytest.approx([aside, aside, 1 + aside, 1 + aside])
        assert list(box.y) == [FLOOR, most] * 2
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range == pytest.approx((-9.3, 0.3))
    assert (figure.layout.xaxis2.tickvals, figure.layout.xaxis2.ticktext) == ((0, 1), ("nothing", "bos"))
