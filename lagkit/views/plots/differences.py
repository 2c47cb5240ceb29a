"""Differences with their intervals, and the questions behind them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.stats.intervals import margin
from lagkit.views.plots.basic import COLOURS, _laid_out, interval_bars, plain


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
    the panels' titles; by default all metrics, with their units. Scores are shown in points of 100. A filled mark's
    interval keeps clear of zero; a hollow one's covers it, or cannot be told. The band is the metric's equivalence
    margin (`intervals.MARGINS`).
    """
    table = differences.reset_index()
    if measures is None:
        measures = {name: name if name == "rounds" else f"{name}, points" for name in dict.fromkeys(table["metric"])}
    names, groups = (list(dict.fromkeys(table[level])) for level in (rows, by))
    figure = make_subplots(
        1, len(measures), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[*measures.values()]
    )
    for column, metric in enumerate(measures, 1):
        for place, group in enumerate(groups):
            part = table[(table["metric"] == metric) & (table[by] == group)]
            # Groups of one row stand one under the other, around the row's middle.
            shift = 0.5 * (place + 0.5) / len(groups) - 0.25
            marks = _marks(part, metric, [names.index(name) + shift for name in part[rows]], COLOURS[place])
            marks.update(name=plain(group), legendgroup=str(group), showlegend=False, text=part[rows].map(plain))
            figure.add_trace(marks, row=1, col=column)
        _zero(figure, metric, 1, column)
    for place, group in enumerate(groups):  # the legend's own marks: filled, whatever the first row's is
        key = {"color": COLOURS[place], "size": 9}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=key, name=plain(group), legendgroup=str(group))
    ticks = {"tickvals": list(range(len(names))), "ticktext": [f"{plain(name)} " for name in names]}
    figure.update_yaxes(**ticks, range=[len(names) - 0.5, -0.5], automargin=True, showgrid=False, zeroline=False)
    return _laid_out(figure, title, height=200 + max(30, 15 * len(groups) + 6) * len(names))


def grid(differences: pd.DataFrame, measures: Mapping[str, str], title: str, *, columns: str) -> go.Figure:
    """Small multiples of forests: a row of panels for each of `measures`, a column for each label of a level.

    differences: as `metrics.compare` gives them, with the levels `columns`, `policy` and `metric`, for one split. The
    panels of a measure have one axis, so that they can be compared; it spans the intervals of columns of five questions
    and more, and those of fewer may run out. Marks as in `forest`.
    """
    table = differences.reset_index()
    names, groups = (list(dict.fromkeys(table[level])) for level in ("policy", columns))
    figure = make_subplots(
        len(measures),
        len(groups),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.1,
        subplot_titles=[plain(group) for group in groups],
        row_titles=[*measures.values()],
    )
    for row, metric in enumerate(measures, 1):
        own = table[table["metric"] == metric]
        figure.update_xaxes(range=_span(own, 1 if metric == "rounds" else 100), row=row)
        for column, group in enumerate(groups, 1):
            part = own[own[columns] == group]
            marks = _marks(part, metric, [names.index(name) for name in part["policy"]], COLOURS[4])
            figure.add_trace(
                marks.update(showlegend=False, name=plain(group), text=part["policy"].map(plain)), row=row, col=column
            )
            _zero(figure, metric, row, column)
    figure.update_yaxes(range=[len(names) - 0.5, -0.5], showgrid=True, zeroline=False, tickvals=list(range(len(names))))
    figure.update_yaxes(ticktext=[f"{plain(name)} " for name in names], automargin=True, col=1)
    return _laid_out(figure, title, height=150 + len(measures) * (70 + 22 * len(names)))


def _zero(figure: go.Figure, metric: str, row: int, column: int) -> None:
    """The line of no difference, and the band of those that make none in practice."""
    size = (1 if metric == "rounds" else 100) * margin(metric).size
    figure.add_vrect(-size, size, fillcolor="#888", opacity=0.15, line_width=0, layer="below", row=row, col=column)
    figure.add_vline(x=0, line={"color": "#888", "width": 1}, row=row, col=column)


def _span(table: pd.DataFrame, scale: int) -> list[float]:
    """From the lowest to the highest mark and bound, with some room; bounds of few questions don't stretch it."""
    bounds = table.loc[table["n"] >= 5, ["low", "high"]]
    shown = scale * pd.concat([table["mean"], bounds.stack(), pd.Series([0.0])]).dropna()
    room = 0.06 * ((shown.max() - shown.min()) or 1)
    return [shown.min() - room, shown.max() + room]


def flips(counts: pd.DataFrame, title: str) -> go.Figure:
    """For each row of `counts` (named by its index): questions turned wrong to the left, turned right to the right.

    counts: columns `wrong to right` and `right to wrong`, as `flips.counts` gives for one split.
    """
    figure, names = go.Figure(), [plain(name) for name in counts.index]
    for colour, outcome, side in ((COLOURS[1], "right to wrong", -1), (COLOURS[3], "wrong to right", 1)):
        figure.add_bar(
            x=side * counts[outcome],
            y=names,
            orientation="h",
            name=outcome,
            marker_color=colour,
            text=counts[outcome],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{text} " + outcome + "<extra></extra>",
        )
    low, high = -counts["right to wrong"].max(), counts["wrong to right"].max()
    spare = 0.1 * ((high - low) or 1)
    figure.add_vline(x=0, line={"color": "#888", "width": 1})
    figure.update_xaxes(range=[low - spare, high + spare], showticklabels=False, zeroline=False)
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, ticksuffix=" ")
    figure.update_layout(barmode="overlay")
    return _laid_out(figure, title, height=190 + 30 * len(names))


def _marks(part: pd.DataFrame, metric: str, places: list[float], colour: str) -> go.Scatter:
    """One group's means and intervals in one panel."""
    scale, unit = (1, "rounds") if metric == "rounds" else (100, "points")
    clear = (part["low"] > 0) | (part["high"] < 0)
    return go.Scatter(
        x=scale * part["mean"],
        y=places,
        mode="markers",
        marker={"color": colour, "size": 9, "symbol": ["circle" if far else "circle-open" for far in clear]},
        error_x=interval_bars(part, scale),
        customdata=scale * part[["low", "high"]].to_numpy(),
        hovertemplate="%{text}: %{x:+.2f} [%{customdata[0]:+.2f}, %{customdata[1]:+.2f}] " + unit,
    )
