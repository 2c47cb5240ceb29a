"""Figures of competing logs: by the place of the right one, and by the share of tokens computed anew."""

from __future__ import annotations

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from lagkit.views.plots.basic import faceted, scaled

_SHARE = "right choices, %"
_READ = "Thin lines are 95% intervals; the dotted line is chance."
_CHANCE = 100 / 3


def by_place(table: pd.DataFrame, title: str) -> go.Figure:
    """Right choices against the place of the right log: a panel for each `panel`, a colour for each `label`."""
    axes = {"x": "at", "y": "mean", "color": "label", "facet_col": "panel"}
    labels = {"mean": _SHARE, "at": "the right log"}
    caption = f"Three logs of one kind, of which one is asked for, in each of three places. {_READ}"
    figure = faceted(px.bar, scaled(table, 100), title, 460, caption, barmode="group", labels=labels, **axes)
    figure.update_xaxes(categoryorder="array", categoryarray=["first", "middle", "last", "alone"])
    return _chance(figure)


def by_tokens(table: pd.DataFrame, title: str) -> go.Figure:
    """Right choices against the `share` of tokens computed anew: a panel for each `panel`, a colour for each `way`."""
    rows = scaled(table, 100).assign(share=100 * table["share"]).sort_values("share", kind="stable")
    axes = {"x": "share", "y": "mean", "color": "way", "facet_col": "panel", "hover_name": "label"}
    labels = {"mean": _SHARE, "share": "tokens computed anew, %"}
    caption = f"Share of the logs' tokens that are computed again behind the logs before them. {_READ}"
    return _chance(faceted(px.line, rows, title, 430, caption, labels=labels, **axes))


def _chance(figure: go.Figure) -> go.Figure:
    figure.add_hline(_CHANCE, line_dash="dot", line_color="gray")
    return figure.update_yaxes(range=[0, 105])
