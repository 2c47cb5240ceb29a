"""Figures of streams: scores while the tasks come, and what the stores grow to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views import palette
from lagkit.views.plots.basic import How, beside, faceted, laid_out, levels, marks, plain

_REFERENCES = {"no_logs": "dash", "static": "dot"}
_DODGE = 0.09  # of a part of the stream: bars that would meet stay apart


def prequential(curves: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """A panel per title of `curves` (`prequential.curve`), a line per condition over the parts of a stream.

    The panel titled `rounds` has these, all others scores in percent. References are drawn without bars.
    """
    shown = {panel: levels(curve, panel) for panel, curve in curves.items()}
    rows = pd.concat(shown, names=["panel"]).reset_index("panel").reset_index(drop=True)
    bare = rows["condition"].isin(_REFERENCES)
    online = list(rows.loc[~bare, "condition"].unique())
    middle, size = (rows["first"] - 1 + rows["last"]) / 2, rows["last"] - rows["first"] + 1
    rows["x"] = middle + _DODGE * size * beside(rows["condition"], online).fillna(0)
    rows[["up", "down"]] = rows[["up", "down"]].mask(bare)
    how: How = {"x": "x", "y": "mean", "color": "condition", "line_dash": "condition", "facet_col": "panel"}
    how["line_dash_map"] = dict.fromkeys(online, "solid") | _REFERENCES
    how |= {"facet_col_spacing": 0.08, "hover_data": ["first", "last"], "labels": {"x": "tasks so far"}}
    caption = "Means over each part of the stream, with 95% intervals; the references, which learn nothing, have none."
    figure = faceted(px.line, rows, title, 480, caption, own="y", **how)
    for name in _REFERENCES:
        figure.update_traces({"mode": "lines"}, selector={"name": palette.readable(name)})
    return figure.update_xaxes(range=[0, 1.04 * rows["last"].max()]).update_yaxes(title_text=None)


def stores(results: pd.DataFrame, ends: pd.DataFrame, axes: Sequence[str], title: str) -> go.Figure:
    """Left: logs in the store after each task, means over orders. Right: a score against the size in the end.

    results: as `online.Online.results` gives them. ends: a row per condition and the static store, with `bytes`, and
    `mean`, `low`, `high` of the score as shares. axes: the titles of both vertical axes.
    """
    figure, colours, own = make_subplots(1, 2, horizontal_spacing=0.1), palette.colours(ends.index), levels(ends)
    grown = results.groupby(["condition", "place"])["logs"].mean().unstack("condition")
    for name, logs in grown.items():
        figure.add_scatter(
            x=logs.index,
            y=logs,
            mode="lines",
            line_color=colours[name],
            showlegend=False,
            name=plain(name),
            row=1,
            col=1,
        )
    for name in own.index:
        row, look = own.loc[[name]], {"color": colours[name], "size": 11}
        mark = marks(row, "y", row["bytes"] / 1e6, "%{x:.2f} MB: %{y:.1f}", mode="markers", marker=look)
        figure.add_trace(mark.update(name=plain(name)), row=1, col=2)
    figure.update_xaxes(title_text="tasks so far", range=[0, 1.04 * results["place"].max()], col=1)
    figure.update_xaxes(title_text="MB in the end", rangemode="tozero", col=2)
    for column, name in enumerate(axes, 1):
        figure.update_yaxes(title_text=name, col=column)
    caption = "Left: logs in the store after each task. Right: the score over the size in the end, with 95% intervals."
    return laid_out(figure, title, 460, caption)
