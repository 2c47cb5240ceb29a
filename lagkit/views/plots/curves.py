"""Scores along an axis, with their intervals: the round limit, the size of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out, interval_bars

_DODGE = 0.08  # rounds: curves that meet stay apart
_APART = 1.4  # the factor between marks of one size
_SHAPES = {"last_action": "triangle-up", "last_round": "circle", "last_two_rounds": "square", "all_rounds": "diamond"}


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
            error_y=interval_bars(own, 100),
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


def by_bytes(table: pd.DataFrame, measures: Mapping[str, str], title: str) -> go.Figure:
    """A mark for each policy over the bytes of its logs (log axis), a panel for each of `measures` (metric -> title).

    table: as `storage.outcomes` gives. Colour says how a log was encoded, the mark's shape what is kept of it; bars are
    intervals of the difference to the baseline, whose mean is the dashed line. Marks of one size stand a little apart.
    """
    figure = make_subplots(1, len(measures), horizontal_spacing=0.08, subplot_titles=[*measures.values()])
    encodes = list(dict.fromkeys(table["encode"]))
    for column, metric in enumerate(measures, 1):
        part, scale = table[table["metric"] == metric], 1 if metric == "rounds" else 100
        same = part.groupby("bytes")["bytes"]
        part = part.assign(shift=same.cumcount() - (same.transform("size") - 1) / 2)
        for row in part.itertuples(index=False):
            colour = COLOURS[encodes.index(row.encode)]
            figure.add_scatter(
                x=[row.bytes * _APART**row.shift],
                y=[scale * row.mean],
                error_y=interval_bars(pd.DataFrame([row]), scale),
                mode="markers",
                marker={"color": colour, "symbol": _SHAPES.get(row.keep, "x"), "size": 11},
                name=row.policy,
                legendgroup=row.policy,
                showlegend=column == 1,
                hovertemplate=f"{row.policy}: {row.bytes:,.0f} bytes, %{{y:.2f}}<extra></extra>",
                row=1,
                col=column,
            )
        line = {"color": "#888", "width": 1, "dash": "dash"}
        figure.add_hline(y=scale * part["base"].iloc[0], line=line, row=1, col=column)
    figure.update_xaxes(type="log", title_text="bytes per log", exponentformat="power", dtick=1)
    return _below(_laid_out(figure, title, height=500))


def _below(figure: go.Figure) -> go.Figure:
    """The legend under the title of the x axis."""
    return figure.update_layout(legend_y=-0.2, margin_b=90)
