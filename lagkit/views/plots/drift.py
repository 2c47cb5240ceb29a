"""Figures on what moving a log costs."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out

# A divergence of exactly zero has no place on a logarithmic axis.
FLOOR = 1e-9
DASHES = ("solid", "dot")


def by_shift(table: pd.DataFrame, measure: str, title: str, y: str, *, log: bool = False) -> go.Figure:
    """`measure` against the shift, at even distances: a panel for each dtype (rows) and place (columns).

    A colour for each `variant`, a dash for each `content`; cases are averaged. `log`: a logarithmic axis, on which
    values below `FLOOR` are drawn at it.
    """
    dtypes, places = list(table["dtype"].unique()), list(table["place"].unique())
    figure = make_subplots(
        len(dtypes),
        len(places),
        shared_yaxes="all",
        horizontal_spacing=0.05,
        vertical_spacing=0.3 / len(dtypes),
        subplot_titles=[f"{dtype}, {place}" for dtype in dtypes for place in places],
    )
    for row, dtype in enumerate(dtypes, 1):
        for col, place in enumerate(places, 1):
            panel = table[(table["dtype"] == dtype) & (table["place"] == place)]
            for trace in _lines(panel, measure, log, first=row == col == 1):
                figure.add_trace(trace, row=row, col=col)
        figure.update_yaxes(title_text=y, row=row, col=1)
    figure.update_xaxes(type="category")
    figure.update_xaxes(title_text="shift in tokens", row=len(dtypes))
    if log:
        figure.update_yaxes(type="log", exponentformat="power", dtick=2)
    height = 190 + 230 * len(dtypes)
    _laid_out(figure, title, height=height)
    return figure.update_layout(legend_y=-75 / (height - 160))


def _lines(panel: pd.DataFrame, measure: str, log: bool, *, first: bool) -> list[go.Scatter]:
    """One line for each variant and content; the first variant, the reference, lies broad beneath the others."""
    means = panel.groupby(["variant", "content", "shift"], sort=False)[measure].mean()
    traces = []
    variants = list(panel["variant"].unique())
    for colour, variant in zip(COLOURS, variants, strict=False):
        for dash, content in zip(DASHES, panel["content"].unique(), strict=False):
            line = means[variant][content].sort_index()
            name = f"{variant}, {content} log"
            traces.append(
                go.Scatter(
                    x=[f"{shift:,}" for shift in line.index],
                    y=list(line.clip(lower=FLOOR) if log else line),
                    mode="lines+markers",
                    name=name,
                    legendgroup=name,
                    showlegend=first,
                    line={"color": colour, "dash": dash, "width": 7 if variant == variants[0] else 2},
                    hovertemplate="%{x}: %{y:.3g}<extra>" + name + "</extra>",
                )
            )
    return traces
