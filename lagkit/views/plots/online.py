"""Figures of streams: scores while the tasks come, and what the stores grow to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out, interval_bars

_REFERENCES = {"no_logs": ("#444", "dash"), "static": ("#888", "dot")}
_DODGE = 0.09  # of a part of the stream: bars that would meet stay apart


def prequential(curves: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """A panel per title of `curves`, a line per condition over the parts of a stream.

    curves: as `prequential.curve` gives them; scores in points of 100 unless the panel's title says rounds. References
    are drawn without bars.
    """
    figure = make_subplots(1, len(curves), horizontal_spacing=0.08, subplot_titles=[*curves])
    for column, (name, table) in enumerate(curves.items(), 1):
        scale = 1 if name.startswith("rounds") else 100
        colours, online = _colours(table["condition"]), [c for c in table["condition"].unique() if c not in _REFERENCES]
        for condition, own in table.groupby("condition", sort=False):
            width = own["last"] - own["first"] + 1
            place = online.index(condition) - (len(online) - 1) / 2 if condition in online else 0
            bars = interval_bars(own, scale) | {"visible": condition in online}
            figure.add_scatter(
                x=(own["first"] - 1 + own["last"]) / 2 + _DODGE * place * width,
                y=scale * own["mean"],
                error_y=bars,
                mode="lines+markers" if condition in online else "lines",
                line={"color": colours[condition], "dash": _REFERENCES.get(condition, ("", "solid"))[1]},
                name=condition,
                legendgroup=condition,
                showlegend=column == 1,
                customdata=own[["first", "last"]],
                hovertemplate="tasks %{customdata[0]} to %{customdata[1]}: %{y:.1f}",
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text="tasks so far", range=[0, 1.04 * table["last"].max()], row=1, col=column)
    return _laid_out(figure, title, height=480).update_layout(legend_y=-0.2, margin_b=90)


def stores(results: pd.DataFrame, ends: pd.DataFrame, axes: Sequence[str], title: str) -> go.Figure:
    """Left: logs in the store after each task, means over orders. Right: a score against the size in the end.

    results: as `online.Online.results` gives them. ends: a row per condition and the static store, with `bytes`, and
    `mean`, `low`, `high` of the score as shares. axes: the titles of both vertical axes.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    colours = _colours(ends.index)
    sizes = results.groupby(["condition", "place"], sort=False)["logs"].mean()
    for condition, row in ends.iterrows():
        if condition in sizes:
            own = sizes[condition]
            line = {"color": colours[condition]}
            figure.add_scatter(
                x=own.index, y=own, mode="lines", line=line, name=condition, showlegend=False, row=1, col=1
            )
        figure.add_scatter(
            x=[row["bytes"] / 1e6],
            y=[100 * row["mean"]],
            error_y=interval_bars(pd.DataFrame([row]), 100),
            mode="markers",
            marker={"color": colours[condition], "size": 11},
            name=condition,
            hovertemplate="%{x:.2f} MB: %{y:.1f}",
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="tasks so far", row=1, col=1)
    figure.update_xaxes(title_text="MB in the end", rangemode="tozero", row=1, col=2)
    for column, name in enumerate(axes, 1):
        figure.update_yaxes(title_text=name, row=1, col=column)
    figure.update_xaxes(range=[0, 1.04 * results["place"].max()], row=1, col=1)
    return _laid_out(figure, title, height=460).update_layout(legend_y=-0.2, margin_b=90)


def _colours(conditions: Sequence[str]) -> dict[str, str]:
    online = [c for c in dict.fromkeys(conditions) if c not in _REFERENCES]
    return dict(zip(online, COLOURS, strict=False)) | {name: colour for name, (colour, _) in _REFERENCES.items()}
