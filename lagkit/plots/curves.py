"""Scores along an axis, with their intervals: the round limit, the size of a log."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from lagkit.plots.basic import COLOURS, _laid_out

_DODGE = 0.08  # rounds: curves that meet stay apart


def by_rounds(
    table: pd.DataFrame, policies: Sequence[str], title: str, y: str, level: float | None = None, said: str = ""
) -> go.Figure:
    """A curve for each policy over the limit of rounds; bars are intervals.

    table: columns `policy`, `rounds`, `mean`, `low`, `high`, as `budget.curve` and `budget.differences` give; shown in
    points of 100. `policies`: in the order of their colours; one that the table lacks keeps its colour. `level`: a line
    to draw, named `said`.
    """
    figure = go.Figure()
    for place, policy in enumerate(policies):
        if policy not in set(table["policy"]):
            continue
        own = table[table["policy"] == policy]
        figure.add_scatter(
            x=own["rounds"] + _DODGE * (place - (len(policies) - 1) / 2),
            y=100 * own["mean"],
            error_y=_bars(own),
            mode="lines+markers",
            name=policy,
            marker_color=COLOURS[place],
            customdata=pd.DataFrame({"rounds": own["rounds"], "low": 100 * own["low"], "high": 100 * own["high"]}),
            hovertemplate="%{customdata[0]} rounds: %{y:.1f} [%{customdata[1]:.1f}, %{customdata[2]:.1f}]",
        )
    if level is not None:
        line = {"color": "#888", "width": 1, "dash": "dash"}
        figure.add_hline(y=100 * level, line=line, annotation_text=said, annotation_position="bottom left")
    figure.update_xaxes(title_text="rounds allowed", tickvals=sorted(set(table["rounds"])))
    figure.update_yaxes(title_text=y)
    return _below(_laid_out(figure, title, height=460))


def _bars(table: pd.DataFrame) -> dict[str, object]:
    """Intervals around the means, in points."""
    up, down = 100 * (table["high"] - table["mean"]), 100 * (table["mean"] - table["low"])
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}


def _below(figure: go.Figure) -> go.Figure:
    """The legend under the title of the x axis."""
    return figure.update_layout(legend_y=-0.2, margin_b=90)
