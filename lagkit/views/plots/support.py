"""Figures on which models are supported, and how exactly."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from lagkit.views.plots.basic import How, faceted, long, plain, rows_down

_POWERS = {"type": "log", "exponentformat": "power", "dtick": 1}


def dots(table: pd.DataFrame, measures: Mapping[str, str], title: str, x: str) -> go.Figure:
    """A row for each model, a dot for each of `measures` (column -> name) on a logarithmic axis.

    A thin line joins the dots of a model. Missing values have no dot.
    """
    names, values = [plain(name) for name in table.index], table[[*measures]]
    rows = long(table.rename_axis("model").reset_index(), measures, ["model"])
    spread: How = {"x": "value", "y": "model", "color": "panel", "labels": {"value": x}}
    figure = faceted(px.scatter, rows, title, 210 + 17 * len(names), **spread).update_traces(marker_size=9)
    joined = pd.concat([values.min(axis=1), values.max(axis=1), values.max(axis=1).mul(float("nan"))], axis=1)
    ends = [None if pd.isna(end) else end for end in joined.to_numpy().flat]
    places = [place for name in names for place in (name, name, None)]
    look: How = {
        "mode": "lines",
        "line": {"color": "#ccc", "width": 1},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    figure.add_scatter(x=ends, y=places, **look)
    figure.data = [figure.data[-1], *figure.data[:-1]]  # the lines beneath the dots
    rows_down(figure.update_xaxes(_POWERS), names).update_yaxes(dtick=1, range=[-0.8, len(names) - 0.2])
    return figure.update_layout(legend={"y": 1.0, "yanchor": "bottom"})


def against(table: pd.DataFrame, x: str, y: str, by: str, title: str, axes: tuple[str, str]) -> go.Figure:
    """A dot for each model at columns `x` and `y`, both logarithmic, coloured by `by`; a line where both are equal.

    axes: the titles of the axes. The three models that lie highest above the line are named.
    """
    known = table.dropna(subset=[x, y]).rename_axis("model").reset_index()
    highest = known.loc[(known[y] / known[x]).nlargest(3).index].sort_values(x)["model"]
    known["named"] = known["model"].where(known["model"].isin(highest), "")
    spread: How = {"x": x, "y": y, "color": by, "text": "named", "hover_name": "model"}
    figure = faceted(px.scatter, known, title, 460, labels=dict(zip((x, y), axes, strict=True)), **spread)
    side = dict(zip(map(plain, highest), ("middle left", "top center", "middle right"), strict=False))
    for trace in figure.data:
        trace.update(textposition=[side.get(name, "top center") for name in trace.text], marker_size=10)
    ends = known[[x, y]].stack().agg(["min", "max"]).tolist()
    equal = {"color": "#888", "width": 1, "dash": "dash"}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=equal, name="equal", hoverinfo="skip")
    figure.data = [figure.data[-1], *figure.data[:-1]]  # the line beneath the dots
    return figure.update_xaxes(_POWERS).update_yaxes(_POWERS)
