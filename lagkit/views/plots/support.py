"""Figures on which models are supported, and how exactly."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from lagkit.views import palette
from lagkit.views.plots.basic import POWERS, faceted, long, plain, rows_down

_LOW = 13  # pixels of a row, so that seventy families still stand on one page


def dots(table: pd.DataFrame, measures: Mapping[str, str], title: str, x: str) -> go.Figure:
    """A row for each model, and in it a dot for each of `measures` (column -> name) that is not missing."""
    names, values = [plain(name) for name in table.index], table[[*measures]]
    rows = long(table.rename_axis("model").reset_index(), measures, ["model"])
    axes = {"x": "value", "y": "model", "color": "panel"}
    caption = "A dot for each measure of a model, on a logarithmic axis: the further left, the more exact."
    figure = faceted(px.scatter, rows, title, 210 + _LOW * len(names), caption, labels={"value": x}, **axes)
    ends = [end for low, high in zip(values.min(axis=1), values.max(axis=1), strict=True) for end in (low, high, None)]
    places = [place for name in names for place in (name, name, None)]
    line = {"color": palette.NEUTRAL, "width": 1}
    figure.update_traces(marker_size=7)
    figure.add_scatter(x=ends, y=places, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    figure.data = [figure.data[-1], *figure.data[:-1]]  # the lines beneath the dots
    rows_down(figure.update_xaxes(POWERS), names).update_yaxes(range=[-0.8, len(names) - 0.2], tickfont_size=10)
    return figure


def against(table: pd.DataFrame, x: str, y: str, by: str, title: str, axes: tuple[str, str]) -> go.Figure:
    """A dot for each model at columns `x` and `y`, coloured by `by`; the three highest above the diagonal are named."""
    known = table.dropna(subset=[x, y]).rename_axis("model").reset_index()
    highest = known.loc[(known[y] / known[x]).nlargest(3).index].sort_values(x)["model"]
    known["named"] = known["model"].where(known["model"].isin(highest), "")
    how = {"x": x, "y": y, "color": by, "text": "named", "hover_name": "model"}
    caption = "A dot for each model, both axes logarithmic. On the dashed line both are equal; above it, y is larger."
    figure = faceted(px.scatter, known, title, 460, caption, labels=dict(zip((x, y), axes, strict=True)), **how)
    side = dict(zip(map(plain, highest), ("middle left", "top center", "middle right"), strict=False))
    for trace in figure.data:
        trace.update(textposition=[side.get(name, "top center") for name in trace.text], marker_size=10)
    ends = known[[x, y]].stack().agg(["min", "max"]).tolist()
    equal = {"color": palette.NEUTRAL, "width": 1, "dash": "dash"}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=equal, name="equal", hoverinfo="skip")
    figure.data = [figure.data[-1], *figure.data[:-1]]  # the line beneath the dots
    return figure.update_xaxes(POWERS).update_yaxes(POWERS)
