"""Figures of attention by layer and head, and of the loss when some of it is cut."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from lagkit.views import palette
from lagkit.views.plots.basic import faceted, laid_out, long, plain, rows_down, scaled

_PANELS, _HIGHEST = 4, 500  # maps side by side, and pixels that all rows of maps may take


def shares(table: pd.DataFrame, columns: Mapping[str, str], title: str, x: str) -> go.Figure:
    """Bars side by side over the index of `table`: one colour for each of `columns` (column -> name)."""
    rows = long(table.set_axis([str(value) for value in table.index]).rename_axis(x).reset_index(), columns, [x])
    labels = {"value": "share of attention"}
    caption = "Mean share of a token's attention, over layers, heads and logs; side by side, what it is held against."
    figure = faceted(px.bar, rows, title, 400, caption, x=x, y="value", color="panel", barmode="group", labels=labels)
    return figure.update_xaxes(type="category").update_yaxes(rangemode="tozero")


def heads(table: pd.DataFrame, value: str, panel: str, title: str) -> go.Figure:
    """A map of layers (rows) and heads (columns) for each value of `panel`; red is above zero, blue below.

    `table`: columns `layer`, `head`, `panel` and `value`; rows with the same three are averaged.
    """
    means = table.groupby([panel, "layer", "head"], sort=False)[value].mean()
    grids = {name: means[name].unstack("head").sort_index().sort_index(axis=1) for name in table[panel].unique()}
    first = next(iter(grids.values()))
    rows, layers = -(-len(grids) // _PANELS), table["layer"].nunique()
    figure = px.imshow(
        np.stack([grid.to_numpy() for grid in grids.values()]),
        facet_col=0,
        facet_col_wrap=_PANELS,
        facet_col_spacing=0.04,
        facet_row_spacing=0.3 / rows,
        x=[str(head) for head in first.columns],
        y=[str(layer) for layer in first.index],
        labels={"x": "head", "y": "layer", "color": "difference"},
        color_continuous_scale="RdBu_r",
        color_continuous_midpoint=0,
        aspect="auto",
    )
    names = [plain(name) for name in grids]
    figure.for_each_annotation(lambda note: note.update(text=names[int(note.text.partition("=")[2])]))
    figure.update_traces(hovertemplate="layer %{y}, head %{x}: %{z:+.3f}<extra></extra>")
    figure.update_xaxes(type="category").update_yaxes(type="category", autorange="reversed")
    caption = "A cell for each head: the difference, mean over the cases. Red is above zero, blue below, white none."
    laid_out(figure, title, 140 + rows * (100 + min(22 * layers, _HIGHEST // rows)), caption)
    return figure.update_layout(coloraxis_colorbar={"title_text": "", "thickness": 14})


def by_layer(table: pd.DataFrame, value: str, title: str, y: str) -> go.Figure:
    """Lines over the layers, a colour for each `condition`, a panel for each `part`; rows of the same are averaged."""
    means = table.groupby(["part", "condition", "layer"], sort=False)[value].mean().reset_index()
    caption = "Means over the cases, layer by layer, from the first to the last."
    axes = {"x": "layer", "y": value, "color": "condition", "facet_col": "part"}
    return faceted(px.line, means, title, 400, caption, labels={value: y}, **axes).update_yaxes(rangemode="tozero")


def effects(table: pd.DataFrame, measures: Mapping[str, str], title: str) -> go.Figure:
    """Differences with their intervals, a row for each condition, a panel for each of `measures` (name -> title).

    `table`: index (condition, measure), columns `mean`, `low`, `high`; NaN bounds are drawn as none.
    """
    rows = scaled(table.rename_axis(["condition", "measure"]).reset_index())
    rows["panel"] = rows["measure"].map(measures)
    conditions = [plain(name) for name in rows["condition"].unique()]
    axes = {"x": "mean", "y": "condition", "color": "panel", "facet_col": "panel"}
    caption = "Marks are means over the same questions, bars their 95% intervals; at the dotted line nothing changes."
    figure = faceted(px.scatter, rows, title, 200 + 34 * len(conditions), caption, own="x", **axes)
    figure.update_traces(marker_size=9).add_vline(x=0, line={"color": palette.NEUTRAL, "dash": "dot"})
    return rows_down(figure, conditions).update_xaxes(title_text=None).update_layout(showlegend=False)
