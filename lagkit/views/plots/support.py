"""Figures on which models are supported, and how exactly."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from lagkit.views.plots.basic import COLOURS, _laid_out, plain


def dots(table: pd.DataFrame, measures: Mapping[str, str], title: str, x: str) -> go.Figure:
    """A row for each model, a dot for each of `measures` (column -> name) on a logarithmic axis.

    A thin line joins the dots of a model. Missing values have no dot.
    """
    names, figure = [plain(name) for name in table.index], go.Figure()
    values = table[[*measures]]
    ends = [(low, high, None) for low, high in zip(values.min(axis=1), values.max(axis=1), strict=True)]
    figure.add_scatter(
        x=[end for pair in ends for end in pair],
        y=[place for name in names for place in (name, name, None)],
        mode="lines",
        line={"color": "#ccc", "width": 1},
        showlegend=False,
        hoverinfo="skip",
    )
    for colour, (measure, name) in zip(COLOURS, measures.items(), strict=False):
        figure.add_scatter(
            x=table[measure],
            y=names,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9},
            hovertemplate="%{y}: %{x:.2g}<extra>" + name + "</extra>",
        )
    figure.update_xaxes(type="log", exponentformat="power", dtick=1, title_text=x, side="bottom")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, ticksuffix=" ", dtick=1)
    figure.update_yaxes(range=[-0.8, len(names) - 0.2])
    height = 210 + 17 * len(names)
    _laid_out(figure, title, height=height)
    return figure.update_layout(legend={"y": 1.0, "yanchor": "bottom"}, margin_t=90)


def against(table: pd.DataFrame, x: str, y: str, by: str, title: str, axes: tuple[str, str]) -> go.Figure:
    """A dot for each model at columns `x` and `y`, both logarithmic, coloured by `by`; a line where both are equal.

    axes: the titles of the axes. The three models that lie highest above the line are named.
    """
    known = table.dropna(subset=[x, y])
    figure = go.Figure()
    low, high = (function([function(known[x]), function(known[y])]) for function in (min, max))
    equal = {"color": "#888", "width": 1, "dash": "dash"}
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line=equal, name="equal", hoverinfo="skip")
    highest = known.loc[(known[y] / known[x]).nlargest(3).index, x].sort_values().index
    side = dict(zip(highest, ("middle left", "top center", "middle right"), strict=False))
    for colour, (group, part) in zip(COLOURS, known.groupby(by, sort=False), strict=False):
        figure.add_scatter(
            x=part[x],
            y=part[y],
            mode="markers+text",
            name=plain(group),
            marker={"color": colour, "size": 10},
            text=[plain(name) if name in highest else "" for name in part.index],
            customdata=[plain(name) for name in part.index],
            textposition=[side.get(name, "top center") for name in part.index],
            hovertemplate="%{customdata}: %{x:.2g}, %{y:.2g}<extra></extra>",
        )
    for update, text in ((figure.update_xaxes, axes[0]), (figure.update_yaxes, axes[1])):
        update(type="log", exponentformat="power", dtick=1, title_text=text)
    _laid_out(figure, title, height=460)
    return figure.update_layout(legend_y=-0.2)
