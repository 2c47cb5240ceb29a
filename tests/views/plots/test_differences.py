"""Forest plots show each mean where it belongs, with its interval, and tell clear differences from unclear ones."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.views import palette, tables
from lagkit.views.plots.differences import changed, forest, grid

ROWS = {
    ("kv", "unseen", "em"): (0.10, 0.05, 0.20),
    ("kv", "unseen", "rounds"): (-0.5, -0.7, -0.4),
    ("kv", "seen", "em"): (0.30, -0.10, 0.40),
    ("kv", "seen", "rounds"): (0.0, float("nan"), float("nan")),
    ("text", "unseen", "em"): (-0.2, -0.3, -0.1),
    ("text", "unseen", "rounds"): (0.1, -0.1, 0.3),
}
TABLE = pd.DataFrame(
    list(ROWS.values()),
    index=pd.MultiIndex.from_tuples(list(ROWS), names=["policy", "split", "metric"]),
    columns=["mean", "low", "high"],
)


@pytest.fixture(scope="module")
def figure():
    return forest(TABLE, {"em": "EM, points", "rounds": "rounds"}, "Title")


def marks(figure, axis, group):
    [found] = [t for t in figure.data if t.xaxis == axis and t.name == group and t.x[0] is not None]
    return found


def test_scores_are_points_and_rounds_are_rounds(figure):
    em, rounds = marks(figure, "x", "unseen"), marks(figure, "x2", "unseen")
    assert list(em.x) == pytest.approx([10, -20])
    assert list(em.error_x.array) == pytest.approx([10, 10])
    assert list(em.error_x.arrayminus) == pytest.approx([5, 10])
    assert list(rounds.x) == pytest.approx([-0.5, 0.1])


def test_hollow_marks_are_those_that_cover_zero_or_have_no_interval(figure):
    assert list(marks(figure, "x", "unseen").marker.symbol) == ["circle", "circle"]
    assert list(marks(figure, "x2", "unseen").marker.symbol) == ["circle", "circle-open"]
    assert list(marks(figure, "x", "seen").marker.symbol) == ["circle-open"]
    assert list(marks(figure, "x2", "seen").marker.symbol) == ["circle-open"]


def test_marks_stand_at_their_row_and_do_not_cover_each_other(figure):
    unseen, seen = marks(figure, "x", "unseen"), marks(figure, "x", "seen")
    assert [round(y) for y in unseen.y] == [0, 1]
    assert unseen.y[0] != seen.y[0]
    assert [name.strip() for name in figure.layout.yaxis.ticktext] == ["kv", "text"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "the first row belongs at the top"


def test_the_legend_names_each_group_once_in_its_colour(figure):
    shown = {trace.name: trace.marker.color for trace in figure.data if trace.showlegend is not False}
    assert shown == {"unseen": palette.UNSEEN, "seen": palette.SEEN}
    assert marks(figure, "x2", "seen").marker.color == palette.SEEN


def test_rows_and_colours_may_be_other_levels():
    table = TABLE.xs("unseen", level="split").assign(hops="2 (9)").set_index("hops", append=True)
    figure = forest(table, {"em": "EM"}, "Title", rows="hops", by="policy")
    assert [name.strip() for name in figure.layout.yaxis.ticktext] == ["2 (9)"]
    assert list(marks(figure, "x", "text").x) == pytest.approx([-20])


def test_small_multiples_have_a_panel_for_each_label_and_measure_on_one_axis():
    rows = {
        ("all (9)", "kv", "em"): (0.10, 0.05, 0.20, 9),
        ("all (9)", "text", "em"): (-0.10, -0.15, 0.05, 9),
        ("none (2)", "kv", "em"): (0.30, -6.0, 6.0, 2),
        ("all (9)", "kv", "rounds"): (-0.5, -0.7, -0.4, 9),
        ("all (9)", "text", "rounds"): (0.1, -0.1, 0.3, 9),
        ("none (2)", "kv", "rounds"): (0.0, float("nan"), float("nan"), 2),
    }
    index = pd.MultiIndex.from_tuples(list(rows), names=["overlap", "policy", "metric"])
    table = pd.DataFrame(list(rows.values()), index=index, columns=["mean", "low", "high", "n"])
    figure = grid(table, {"em": "EM", "rounds": "rounds"}, "Title", columns="overlap")
    panels = {(trace.name, trace.xaxis): trace for trace in figure.data}
    assert list(panels[("all (9)", "x")].x) == pytest.approx([10, -10])
    assert list(panels[("all (9)", "x")].marker.symbol) == ["circle", "circle-open"]
    assert list(panels[("none (2)", "x2")].x) == pytest.approx([30])
    assert list(panels[("all (9)", "x3")].x) == pytest.approx([-0.5, 0.1])
    assert [name.strip() for name in figure.layout.yaxis.ticktext] == ["kv", "text"]
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range
    low, high = figure.layout.xaxis.range  # from the lowest bound of the nine to the mean of the two
    assert -20 < low < -15
    assert 30 < high < 36
    titles = {annotation.text for annotation in figure.layout.annotations}
    assert {"all (9)", "none (2)", "EM", "rounds"} <= titles


def test_changed_answers_stand_on_their_side_of_zero():
    counts = pd.DataFrame({"wrong to right": [7, 0], "right to wrong": [2, 3]}, index=["kv", "text"])
    figure = changed(counts, "Title")
    lost, gained = figure.data
    assert (lost.name, list(lost.x), list(lost.text)) == ("right to wrong", [-2, -3], [2, 3])
    assert (gained.name, list(gained.x), list(gained.text)) == ("wrong to right", [7, 0], [7, 0])
    assert list(figure.layout.yaxis.categoryarray) == ["text", "kv"]
    low, high = figure.layout.xaxis.range
    assert low < -3
    assert high > 7


def test_the_band_is_the_margin_within_which_nothing_makes_a_difference(figure):
    bands = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"]
    assert bands == [(-3, 3), (-0.1, 0.1)]


def test_without_titles_every_metric_has_a_panel_with_its_unit():
    figure = forest(TABLE)
    assert [note.text for note in figure.layout.annotations] == ["em, points", "rounds"]
    assert figure.layout.title.text == "Differences with 95% intervals"


def squeezed(**means: float) -> pd.DataFrame:
    """Differences of EM, the same for F1, of variants whose names have `_` for what they are called."""
    rows = [(name, "unseen", metric, mean) for name, mean in means.items() for metric in ("em", "f1")]
    table = pd.DataFrame(rows, columns=["policy", "split", "metric", "mean"]).set_index(["policy", "split", "metric"])
    return table.assign(low=table["mean"] - 0.05, high=table["mean"] + 0.05, n=9)


FAR = squeezed(kv_last_round=0.1, text_last_round=0.12, kv_block=0.08, cheatsheet=0.02, copy_nearest=-0.72)


def test_one_row_far_from_the_others_is_an_arrow_at_the_edge_with_its_number():
    figure = forest(FAR, {"em": "EM"})
    low, high = figure.layout.xaxis.range
    assert -20 < low < -3 < 17 < high < 30
    [arrow] = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert (list(arrow.x), list(arrow.text), arrow.marker.symbol) == ([low], [" -72 "], "triangle-left")
    near = forest(FAR.drop("copy_nearest", level="policy"), {"em": "EM"})
    assert near.layout.xaxis.range is None
    assert not [trace for trace in near.data if trace.mode == "markers+text"]


def test_f1_is_shown_only_where_it_is_not_em():
    both = {"em": "EM", "f1": "F1"}
    assert [note.text for note in forest(FAR, both).layout.annotations] == ["EM"]
    other = FAR.assign(mean=FAR["mean"] + FAR.index.get_level_values("metric").map({"em": 0.0, "f1": 0.01}))
    assert [note.text for note in forest(other, both).layout.annotations] == ["EM", "F1"]
    assert list(tables.intervals(FAR)) == ["em"]
    assert list(tables.intervals(other)) == ["em", "f1"]


def test_rows_are_named_for_people_and_the_code_s_name_stands_under_the_pointer():
    figure = forest(FAR, {"em": "EM"})
    assert [name.strip() for name in figure.layout.yaxis.ticktext][:2] == ["KV, last round", "text, last round"]
    assert list(figure.data[0].text)[:2] == ["kv_last_round", "text_last_round"]
