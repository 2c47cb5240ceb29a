"""Figures on where attention goes, and on what is lost when it is cut."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out


def shares(table: pd.DataFrame, columns: Mapping[str, str], title: str, x: str) -> go.Figure:
    """Bars side by side over the index of `table`: one colour for each of `columns` (column -> name)."""
    figure = go.Figure()
    for colour, (column, name) in zip(COLOURS, columns.items(), strict=False):
        figure.add_bar(
            x=[str(value) for value in table.index],
            y=table[column],
            name=name,
            marker_color=colour,
            hovertemplate="%{x}: %{y:.3f}<extra>" + name + "</extra>",
        )
    figure.update_xaxes(title_text=x, type="category")
    figure.update_yaxes(title_text="share of attention", rangemode="tozero")
    return _below(_laid_out(figure, title, height=400))


def heads(table: pd.DataFrame, value: str, panel: str, title: str) -> go.Figure:
    """A map of layers (rows) and heads (columns) for each value of `panel`; red is more than nothing, blue is less.

    `table`: columns `layer`, `head`, `panel` and `value`; rows with the same three are averaged.
    """
    panels = list(table[panel].unique())
    figure = make_subplots(
        1, len(panels), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[str(name) for name in panels]
    )
    means = table.groupby([panel, "layer", "head"])[value].mean()
    for number, name in enumerate(panels, 1):
        grid = means[name].unstack("head")
        figure.add_heatmap(
            z=grid,
            x=[str(head) for head in grid.columns],
            y=[str(layer) for layer in grid.index],
            coloraxis="coloraxis",
            hovertemplate="layer %{y}, head %{x}: %{z:+.3f}<extra></extra>",
            row=1,
            col=number,
        )
        figure.update_xaxes(title_text="head", type="category", row=1, col=number)
    figure.update_yaxes(type="category", autorange="reversed")
    figure.update_yaxes(title_text="layer", row=1, col=1)
    _laid_out(figure, title, height=240 + 22 * table["layer"].nunique())
    bar = {"title": {"text": "difference", "side": "right"}, "thickness": 14}
    return figure.update_layout(coloraxis={"colorscale": "RdBu_r", "cmid": 0, "colorbar": bar})


def by_layer(table: pd.DataFrame, value: str, title: str, y: str) -> go.Figure:
    """Lines over the layers, a colour for each `condition`, a panel for each `part`; rows of the same are averaged."""
    parts, conditions = list(table["part"].unique()), list(table["condition"].unique())
    figure = make_subplots(1, len(parts), shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=parts)
    means = table.groupby(["part", "condition", "layer"])[value].mean()
    for number, part in enumerate(parts, 1):
        for colour, condition in zip(COLOURS, conditions, strict=False):
            line = means[part][condition]
            figure.add_scatter(
                x=list(line.index),
                y=list(line),
                mode="lines+markers",
                name=condition,
                legendgroup=condition,
                showlegend=number == 1,
                marker_color=colour,
                hovertemplate="layer %{x}: %{y:.3f}<extra>" + condition + "</extra>",
                row=1,
                col=number,
            )
        figure.update_xaxes(title_text="layer", row=1, col=number)
    figure.update_yaxes(title_text=y, rangemode="tozero", row=1, col=1)
    return _below(_laid_out(figure, title, height=400))


def effects(table: pd.DataFrame, measures: Mapping[str, str], title: str) -> go.Figure:
    """Differences with their intervals, a row for each condition, a panel for each of `measures` (name -> title).

    `table`: index (condition, measure), columns `mean`, `low`, `high`; NaN bounds are drawn as none. Zero is marked.
    """
    figure = make_subplots(
        1, len(measures), shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=[*measures.values()]
    )
    conditions = list(table.index.get_level_values(0).unique())
    for number, measure in enumerate(measures, 1):
        rows = table.xs(measure, level=1)
        figure.add_scatter(
            x=rows["mean"],
            y=list(rows.index),
            mode="markers",
            marker={"size": 9, "color": COLOURS[number]},
            error_x={
                "type": "data",
                "array": (rows["high"] - rows["mean"]).fillna(0),
                "arrayminus": (rows["mean"] - rows["low"]).fillna(0),
            },
            showlegend=False,
            hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
            row=1,
            col=number,
        )
        figure.add_vline(x=0, line={"color": "#888888", "dash": "dot"}, row=1, col=number)
    figure.update_yaxes(categoryorder="array", categoryarray=conditions[::-1], automargin=True, ticksuffix=" ")
    return _laid_out(figure, title, height=200 + 34 * len(conditions))


def _below(figure: go.Figure) -> go.Figure:
    """The legend under the axis title."""
    return figure.update_layout(legend_y=-0.2)
