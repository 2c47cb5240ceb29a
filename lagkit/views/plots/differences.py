"""Differences with their intervals, and how many answers changed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.stats.intervals import margin
from lagkit.stats.metrics import apart
from lagkit.views import palette
from lagkit.views.plots.basic import How, beside, faceted, laid_out, marks, named, plain, rows_down, scale_of, scaled

_READ = (
    "Marks are means over the same questions, bars their 95% intervals. A filled mark's interval keeps clear of zero, "
    "a hollow one's covers it or is unknown. The band: too small to matter."
)
_FAR = 2  # times the span of the others, from where on a row is drawn at the edge


def forest(
    differences: pd.DataFrame,
    measures: Mapping[str, str] | None = None,
    title: str = "Differences with 95% intervals",
    *,
    rows: str = "policy",
    by: str = "split",
) -> go.Figure:
    """A forest plot: a row for each label of the index level `rows`, a colour for each of `by`, a panel a measure.

    differences: as `metrics.compare` gives them, with the levels `rows`, `by` and `metric`. `measures` maps metrics to
    the panels' titles; by default all metrics, with their units. The band is the metric's equivalence margin
    (`intervals.MARGINS`). A single row far from all others is an arrow at the edge with its number. F1 is left out
    where it is EM throughout.
    """
    table = apart(differences).reset_index()
    if measures is None:
        measures = {name: name if name == "rounds" else f"{name}, points" for name in dict.fromkeys(table["metric"])}
    measures = {name: told for name, told in measures.items() if name in set(table["metric"])}
    names, groups = (list(dict.fromkeys(table[level])) for level in (rows, by))
    # Groups of one row stand one under the other, around the row's middle.
    table["place"] = table[rows].map(names.index) + beside(table[by], groups) / (2 * len(groups))
    titles, colours = [*measures.values()], palette.colours(groups)
    figure = make_subplots(1, len(measures), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for column, metric in enumerate(measures, 1):
        own = table[table["metric"] == metric]
        reach = _reach(own, rows, scale_of(metric))
        if reach:
            figure.update_xaxes(range=reach, col=column)
        for group in groups:
            shown = _marks(own[own[by] == group], metric, rows, colours[str(group)])
            figure.add_trace(shown.update(name=plain(group), legendgroup=str(group)), row=1, col=column)
            if reach:
                figure.add_traces(_arrows(shown, reach), rows=1, cols=column)
        _zero(figure, metric, 1, column)
    for group in groups:  # the legend's own marks: filled, whatever the first row's is
        key = {"color": colours[str(group)], "size": 9}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=key, name=plain(group), legendgroup=str(group))
    figure.update_yaxes(**_rows(names), showgrid=False)
    return laid_out(figure, title, 200 + max(30, 14 * len(groups) + 6) * len(names), _READ)


def grid(differences: pd.DataFrame, measures: Mapping[str, str], title: str, *, columns: str) -> go.Figure:
    """Small multiples of forests: a row of panels for each of `measures`, a column for each label of a level.

    differences: as `metrics.compare` gives them, with the levels `columns`, `policy` and `metric`, for one split. The
    panels of a measure share an axis, which spans the intervals of five questions and more; those of fewer may run out.
    """
    table = apart(differences).reset_index()
    names, groups = (list(dict.fromkeys(table[level])) for level in ("policy", columns))
    table["place"] = table["policy"].map(names.index)
    titles = {"subplot_titles": [plain(group) for group in groups], "row_titles": [*measures.values()]}
    spacing = {"horizontal_spacing": 0.02, "vertical_spacing": 0.1}
    figure = make_subplots(len(measures), len(groups), shared_yaxes=True, **titles, **spacing)
    for row, metric in enumerate(measures, 1):
        own = table[table["metric"] == metric]
        figure.update_xaxes(range=_span(own, scale_of(metric)), row=row)
        for column, group in enumerate(groups, 1):
            shown = _marks(own[own[columns] == group], metric, "policy", palette.UNSEEN)
            figure.add_trace(shown.update(name=plain(group)), row=row, col=column)
            _zero(figure, metric, row, column)
    figure.update_yaxes(**_rows(names)).update_yaxes(showticklabels=False).update_yaxes(showticklabels=True, col=1)
    return laid_out(figure, title, 150 + len(measures) * (70 + 15 * len(names)), _READ)


def changed(counts: pd.DataFrame, title: str) -> go.Figure:
    """Answers turned wrong to the left, turned right to the right: `changed.counts` of one split, a row each."""
    colours = {"right to wrong": palette.LOSS, "wrong to right": palette.GAIN}
    caption = "To the right, wrong answers that became right; to the left, right ones that became wrong."
    rows = counts[[*colours]].rename_axis("row").reset_index().melt("row", var_name="outcome", value_name="answers")
    rows["x"] = rows["answers"].where(rows["outcome"] == "wrong to right", -rows["answers"])
    how: How = {"x": "x", "y": "row", "color": "outcome", "text": "answers", "orientation": "h", "barmode": "overlay"}
    how |= {"color_discrete_map": colours, "opacity": 1}
    figure = faceted(px.bar, rows, title, 190 + 30 * len(counts), caption, **how)
    hover = "%{y}: %{text} %{fullData.name}<extra></extra>"
    figure.update_traces(textposition="outside", cliponaxis=False, hovertemplate=hover)
    low, high = -counts["right to wrong"].max(), counts["wrong to right"].max()
    spare = 0.1 * ((high - low) or 1)
    figure.add_vline(x=0, line={"color": palette.NEUTRAL, "width": 1})
    figure.update_xaxes(range=[low - spare, high + spare], showticklabels=False, zeroline=False, title_text=None)
    return rows_down(figure, [plain(name) for name in counts.index])


def _rows(names: list[str]) -> dict[str, object]:
    """An axis with a tick for each of `names`, from the top down."""
    ticks = {"tickvals": list(range(len(names))), "ticktext": [f"{named(plain(name))} " for name in names]}
    return {**ticks, "range": [len(names) - 0.5, -0.5], "automargin": True, "zeroline": False}


def _zero(figure: go.Figure, metric: str, row: int, column: int) -> None:
    """The line of no difference, and the band of those that make none in practice."""
    size = scale_of(metric) * margin(metric).size
    figure.add_vrect(
        -size, size, fillcolor=palette.NEUTRAL, opacity=0.15, line_width=0, layer="below", row=row, col=column
    )
    figure.add_vline(x=0, line={"color": palette.NEUTRAL, "width": 1}, row=row, col=column)


def _span(table: pd.DataFrame, scale: int) -> list[float]:
    """From the lowest to the highest mark and bound, with some room; bounds of few questions don't stretch it."""
    bounds = table.loc[table["n"] >= 5, ["low", "high"]]
    shown = scale * pd.concat([table["mean"], bounds.stack(), pd.Series([0.0])]).dropna()
    room = 0.06 * ((shown.max() - shown.min()) or 1)
    return [shown.min() - room, shown.max() + room]


def _reach(own: pd.DataFrame, rows: str, scale: int) -> list[float] | None:
    """The axis without the row that is farthest off, where that alone would squeeze all others; None elsewhere."""
    ends = scale * own[["mean", "low", "high"]].assign(zero=0.0)
    if own[rows].nunique() < 4 or own["mean"].isna().all():
        return None
    far = own[rows] == own.loc[own["mean"].abs().idxmax(), rows]
    low, high = ends[~far].min().min(), ends[~far].max().max()
    whole = max(high, ends.loc[far, "mean"].max()) - min(low, ends.loc[far, "mean"].min())
    if whole < _FAR * (high - low):
        return None
    return [float(low - 0.15 * (high - low)), float(high + 0.15 * (high - low))]


def _arrows(shown: go.Scatter, reach: list[float]) -> list[go.Scatter]:
    """An arrow at the edge, with its number, for each mark that lies beyond."""
    found = []
    for x, y in zip(shown.x, shown.y, strict=True):
        if x < reach[0] or x > reach[1]:
            left = x < reach[0]
            look = {"color": shown.marker.color, "size": 10, "symbol": "triangle-left" if left else "triangle-right"}
            arrow = go.Scatter(x=[reach[not left]], y=[y], mode="markers+text", marker=look, text=[f" {x:+.3g} "])
            found.append(arrow.update(textposition="middle right" if left else "middle left", showlegend=False))
            found[-1].update(hoverinfo="skip", cliponaxis=False)
    return found


def _marks(part: pd.DataFrame, metric: str, rows: str, colour: str) -> go.Scatter:
    """One group's means and intervals in one panel, at their `place`; its label in `rows` is told under the pointer."""
    clear = (part["low"] > 0) | (part["high"] < 0)
    look = {"color": colour, "size": 9, "symbol": ["circle" if far else "circle-open" for far in clear]}
    unit = "rounds" if metric == "rounds" else "points"
    hover = "%{text}: %{x:+.2f} [%{customdata[0]:+.2f}, %{customdata[1]:+.2f}] " + unit
    found = marks(scaled(part, scale_of(metric)), "x", part["place"], hover, mode="markers", marker=look)
    return found.update(text=part[rows].map(plain), showlegend=False)
