"""Figures on where logs stand."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out

# A divergence of exactly zero has no place on a logarithmic axis.
FLOOR = 1e-9


def by_cell(table: pd.DataFrame, title: str, *, panel: str, x: str, by: str, measure: str = "kl") -> go.Figure:
    """The spread of `measure` over questions on a logarithmic axis, a box each: panels, places on the axis, colours.

    `panel`, `x` and `by` are columns of `table`, which has a row per question and cell. A box reaches over the middle
    half of the questions, and each is a dot beside it. Values below `FLOOR` are drawn at it.
    """
    panels, groups = list(table[panel].unique()), list(table[by].unique())
    titles = [f"{panel}: {name}" for name in panels]
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for column, name in enumerate(panels, 1):
        for colour, group in zip(COLOURS, groups, strict=False):
            rows = table[(table[panel] == name) & (table[by] == group)]
            figure.add_box(
                x=list(rows[x]),
                y=list(rows[measure].clip(lower=FLOOR)),
                name=f"{by}: {group}",
                legendgroup=str(group),
                showlegend=column == 1,
                marker={"color": colour, "size": 3},
                boxpoints="all",
                jitter=0.6,
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text=x, type="category", row=1, col=column)
    figure.update_yaxes(type="log", exponentformat="power", dtick=2)
    figure.update_yaxes(title_text="KL (nats)", row=1, col=1)
    figure.update_layout(boxmode="group")
    return _laid_out(figure, title, height=440).update_layout(legend_y=-0.2)
