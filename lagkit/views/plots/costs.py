"""What an answer costs beside how often it is right."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out, interval_bars, plain

_TOKENS = {"prefilled": "prefilled (read)", "injected": "injected (stored KV)", "generated": "generated"}


def costs(table: pd.DataFrame, title: str, score: str) -> go.Figure:
    """A row for each policy of `table` (`fairness.costs`), in its order: tokens of a question, and its score.

    Bars on the right are 95% intervals; `score` is the title of that panel, in points of 100.
    """
    names = [plain(name) for name in table.index]
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=["tokens per question", score]
    )
    for colour, (column, name) in zip((COLOURS[0], COLOURS[1], COLOURS[4]), _TOKENS.items(), strict=True):
        figure.add_bar(
            x=table[column],
            y=names,
            orientation="h",
            name=name,
            marker_color=colour,
            hovertemplate="%{y}: %{x:,.0f} " + column + "<extra></extra>",
            row=1,
            col=1,
        )
    bounds = 100 * table[["low", "high"]]
    figure.add_scatter(
        x=100 * table["mean"],
        y=names,
        mode="markers",
        marker={"color": COLOURS[3], "size": 9},
        error_x=interval_bars(table, 100),
        showlegend=False,
        customdata=bounds.to_numpy(),
        hovertemplate="%{y}: %{x:.1f} [%{customdata[0]:.1f}, %{customdata[1]:.1f}]<extra></extra>",
        row=1,
        col=2,
    )
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, ticksuffix=" ")
    figure.update_layout(barmode="stack")
    return _laid_out(figure, title, height=190 + 30 * len(names))
