"""A figure of the share of wrong logs: means over it, with bands."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import unlabel_rgb
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, laid_out, plain, scale_of

_DASHES = ("solid", "dot", "dash", "dashdot")


def by_share(tables: Mapping[str, pd.DataFrame], measures: Mapping[str, str], title: str) -> go.Figure:
    """A line for each variant over the share of wrong logs: a column for each of `tables`, a row for each measure.

    tables: a panel's title -> rows as `quality.by_share` gives. measures: metrics -> titles of the vertical axes;
    scores are in percent. A band is the interval of the difference to `no_logs`, whose mean is the dashed line.
    """
    spacing = {"horizontal_spacing": 0.04, "vertical_spacing": 0.06, "column_titles": [plain(name) for name in tables]}
    figure = make_subplots(len(measures), len(tables), shared_xaxes=True, shared_yaxes=True, **spacing)
    for column, table in enumerate(tables.values(), 1):
        for row, metric in enumerate(measures, 1):
            part, scale = table[table["metric"] == metric], scale_of(metric)
            first = row == column == 1
            for place, (policy, line) in enumerate(part.groupby("policy", sort=False)):
                figure.add_traces(_line(line, plain(policy), scale, place, first), rows=row, cols=column)
            figure.add_scatter(
                x=[0, 100],
                y=[scale * part["base"].iloc[0]] * 2,
                mode="lines",
                line={"color": "#666", "width": 1.5, "dash": "dash"},
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
    return laid_out(figure, title, height=240 + 230 * len(measures))


def _line(line: pd.DataFrame, policy: str, scale: int, place: int, first: bool) -> list[go.Scatter]:
    """A variant's band and, over it, its means."""
    x, colour = 100 * line["share"], COLOURS[place]
    low, high = (scale * (line["base"] + line[bound]) for bound in ("low", "high"))
    red, green, blue = unlabel_rgb(colour)
    band = go.Scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=f"rgba({red:.0f}, {green:.0f}, {blue:.0f}, 0.2)",
        line_width=0,
        mode="lines",
        legendgroup=policy,
        showlegend=False,
        hoverinfo="skip",
    )
    means = go.Scatter(
        x=x,
        y=scale * line["value"],
        mode="lines+markers",
        name=policy,
        legendgroup=policy,
        showlegend=first,
        line={"color": colour, "dash": _DASHES[place % len(_DASHES)]},
        customdata=pd.DataFrame({"low": low, "high": high}),
        hovertemplate="%{x}: %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]",
    )
    return [band, means]
