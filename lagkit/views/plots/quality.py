"""What the share of wrong logs does: means over it, with bands."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import unlabel_rgb
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out

_DASHES = ("solid", "dot", "dash", "dashdot")


def by_share(tables: Mapping[str, pd.DataFrame], measures: Mapping[str, str], title: str) -> go.Figure:
    """A line for each variant over the share of wrong logs: a column for each of `tables`, a row for each measure.

    tables: a panel's title -> rows as `quality.by_share` gives. measures: metrics -> titles of the vertical axes;
    scores are in percent. A band is the interval of the difference to `no_logs`, whose mean is the dashed line.
    """
    figure = make_subplots(
        len(measures),
        len(tables),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.06,
        column_titles=[*tables],
    )
    for column, table in enumerate(tables.values(), 1):
        for row, metric in enumerate(measures, 1):
            part, scale = table[table["metric"] == metric], 1 if metric == "rounds" else 100
            for place, (policy, line) in enumerate(part.groupby("policy", sort=False)):
                first = row == column == 1
                for trace in _line(line, policy, scale, place, first):
                    figure.add_trace(trace, row=row, col=column)
            key = {"name": "no_logs", "legendgroup": "no_logs", "showlegend": row == column == 1}
            figure.add_scatter(
                x=[0, 100],
                y=[scale * part["base"].iloc[0]] * 2,
                mode="lines",
                line={"color": "#666", "width": 1.5, "dash": "dash"},
                hovertemplate="no_logs: %{y:.2f}<extra></extra>",
                **key,
                row=row,
                col=column,
            )
    marks = sorted({100 * share for table in tables.values() for share in table["share"]})
    figure.update_xaxes(tickvals=marks, ticktext=[f"{mark:.0f}%" for mark in marks])
    figure.update_xaxes(title_text="share of wrong logs", row=len(measures))
    for row, (metric, name) in enumerate(measures.items(), 1):
        figure.update_yaxes(title_text=name, ticksuffix="" if metric == "rounds" else "%", row=row, col=1)
    _laid_out(figure, title, height=240 + 230 * len(measures))
    return figure.update_layout(margin_b=100, legend_y=-0.13)


def _line(line: pd.DataFrame, policy: str, scale: int, place: int, first: bool) -> list[go.Scatter]:
    """A variant's band and, over it, its means."""
    x, base, colour = 100 * line["share"], line["base"], COLOURS[place]
    low, high = scale * (base + line["low"]), scale * (base + line["high"])
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
