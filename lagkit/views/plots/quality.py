"""A figure of the share of wrong logs: means over it, with bands."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views import palette
from lagkit.views.plots.basic import interval_bars, laid_out, plain, scale_of

_DODGE = 1.6  # percent of wrong logs between the marks of two variants, so that their intervals can be told apart


def by_share(tables: Mapping[str, pd.DataFrame], measures: Mapping[str, str], title: str) -> go.Figure:
    """A line for each variant over the share of wrong logs: a column for each of `tables`, a row for each measure.

    tables: a panel's title -> rows as `quality.by_share` gives. measures: metrics -> titles of the vertical axes;
    scores are in percent. A bar is the interval of the difference to `no_logs`, whose mean is the dashed line.
    """
    spacing = {"horizontal_spacing": 0.04, "vertical_spacing": 0.06, "column_titles": [plain(name) for name in tables]}
    figure = make_subplots(len(measures), len(tables), shared_xaxes=True, shared_yaxes=True, **spacing)
    for column, table in enumerate(tables.values(), 1):
        for row, metric in enumerate(measures, 1):
            part, scale = table[table["metric"] == metric], scale_of(metric)
            first = row == column == 1
            policies = list(part["policy"].unique())
            for place, policy in enumerate(policies):
                line = part[part["policy"] == policy]
                figure.add_trace(_line(line, policies, place, scale, first), row=row, col=column)
            figure.add_scatter(
                x=[0, 100],
                y=[scale * part["base"].iloc[0]] * 2,
                mode="lines",
                line={"color": palette.NONE, "width": 1.5, "dash": "dash"},
                hovertemplate="no_logs: %{y:.2f}<extra></extra>",
                name="no_logs",
                legendgroup="no_logs",
                showlegend=first,
                row=row,
                col=column,
            )
    marks = sorted({100 * share for table in tables.values() for share in table["share"]})
    figure.update_xaxes(tickvals=marks, ticktext=[f"{mark:.0f}%" for mark in marks])
    figure.update_xaxes(title_text="share of wrong logs", row=len(measures))
    for row, (metric, name) in enumerate(measures.items(), 1):
        figure.update_yaxes(title_text=name, ticksuffix="" if metric == "rounds" else "%", row=row, col=1)
    caption = "Stores of one size with more and more wrong logs. Bars are 95% intervals of the difference to no logs."
    return laid_out(figure, title, 240 + 230 * len(measures), caption)


def _line(line: pd.DataFrame, policies: list[str], place: int, scale: int, first: bool) -> go.Scatter:
    """A variant's means and their intervals, a little beside those of the others."""
    policy = policies[place]
    low, high, value = (
        scale * column for column in (line["base"] + line["low"], line["base"] + line["high"], line["value"])
    )
    if scale != 1:  # shares, of which none is below 0 or above 1
        low, high = low.clip(lower=0), high.clip(upper=scale)
    colour, dash = palette.colours(policies)[policy], palette.dashes(policies)[policy]
    return go.Scatter(
        x=100 * line["share"] + _DODGE * (place - (len(policies) - 1) / 2),
        y=value,
        error_y=interval_bars(pd.DataFrame({"up": high - value, "down": value - low})),
        mode="lines+markers",
        name=plain(policy),
        legendgroup=plain(policy),
        showlegend=first,
        line={"color": colour, "dash": dash},
        customdata=pd.DataFrame({"low": low, "high": high, "share": 100 * line["share"]}),
        hovertemplate=f"{plain(policy)}, %{{customdata[2]:.0f}}% wrong: %{{y:.2f}} "
        "[%{customdata[0]:.2f}, %{customdata[1]:.2f}]<extra></extra>",
    )
