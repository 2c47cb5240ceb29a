"""A figure of the share of wrong logs: means over it, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views import palette
from lagkit.views.plots.basic import beside, laid_out, levels, marks, plain

_DODGE = 1.6  # percent of wrong logs between the marks of two variants, so that their intervals can be told apart


def by_share(tables: Mapping[str, pd.DataFrame], measures: Mapping[str, str], title: str) -> go.Figure:
    """A line for each variant over the share of wrong logs: a column for each of `tables`, a row for each measure.

    tables: a panel's title -> rows as `quality.by_share` gives. measures: metrics -> titles of the vertical axes.
    """
    spacing = {"horizontal_spacing": 0.04, "vertical_spacing": 0.06, "column_titles": [plain(name) for name in tables]}
    figure = make_subplots(len(measures), len(tables), shared_xaxes=True, shared_yaxes=True, **spacing)
    for column, table in enumerate(tables.values(), 1):
        for row, metric in enumerate(measures, 1):
            for line in _lines(table[table["metric"] == metric], metric):
                figure.add_trace(line.update(showlegend=row == column == 1), row=row, col=column)
    shares = sorted({100 * share for table in tables.values() for share in table["share"]})
    figure.update_xaxes(tickvals=shares, ticktext=[f"{share:.0f}%" for share in shares])
    figure.update_xaxes(title_text="share of wrong logs", row=len(measures))
    for row, (metric, name) in enumerate(measures.items(), 1):
        figure.update_yaxes(title_text=name, ticksuffix="" if metric == "rounds" else "%", row=row, col=1)
    caption = "Stores of one size with more and more wrong logs. Bars are 95% intervals of the difference to no logs."
    return laid_out(figure, title, 240 + 230 * len(measures), caption)


def _lines(part: pd.DataFrame, metric: str) -> list[go.Scatter]:
    """Each variant's means and their intervals, a little beside those of the others, and the line of `no_logs`."""
    policies = list(part["policy"].unique())
    levelled = part.assign(mean=part["value"], low=part["base"] + part["low"], high=part["base"] + part["high"])
    rows = levels(levelled, metric).assign(share=100 * part["share"])
    rows["x"] = rows["share"] + _DODGE * beside(rows["policy"], policies)
    colours, dashes, lines = palette.colours(policies), palette.dashes(policies), []
    for policy, own in rows.groupby("policy", sort=False):
        hover = "%{customdata[2]:.0f}% wrong: %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]<extra></extra>"
        line = marks(own, "y", own["x"], f"{plain(policy)}, {hover}", mode="lines+markers", name=plain(policy))
        line.update(line={"color": colours[policy], "dash": dashes[policy]}, customdata=own[["low", "high", "share"]])
        lines.append(line)
    base, look = [rows["base"].iloc[0]] * 2, {"color": palette.NONE, "width": 1.5, "dash": "dash"}
    lines.append(go.Scatter(x=[0, 100], y=base, mode="lines", line=look, name="no_logs"))
    lines[-1].hovertemplate = "no_logs: %{y:.2f}<extra></extra>"
    return [line.update(legendgroup=line.name) for line in lines]
