"""What searching costs as a store grows."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out

PANELS = {
    "ms": "one query, ms",
    "recall": "recall of the three nearest",
    "build_s": "building, s",
    "memory_mb": "memory, MB",
}


def good_enough(table: pd.DataFrame, by: str = "index", recall: float = 0.99) -> pd.DataFrame:
    """Of each index and size the fastest row of `table` with so much recall, or the one with the most; sorted.

    table: rows of `benchmarks.search`: columns `by`, `logs`, `recall` and `ms`.
    """
    reached = table["recall"] >= recall
    rank = table.assign(_short=(~reached) * (1 - table["recall"]), _ms=table["ms"])
    best = rank.sort_values(["_short", "_ms"]).groupby([by, "logs"], sort=False).head(1)
    return best.sort_values([by, "logs"])[table.columns].reset_index(drop=True)


def growth(
    table: pd.DataFrame, title: str, by: str = "index", panels: Mapping[str, str] = PANELS, recall: float = 0.99
) -> go.Figure:
    """A line for each of `by` over the number of logs, a panel for each of `panels` (column -> title); two in a row.

    table: one row for each line and size (`good_enough`). Points with less than this `recall` are hollow.
    """
    names, rows = list(dict.fromkeys(table[by])), -(-len(panels) // 2)
    figure = make_subplots(rows, 2, horizontal_spacing=0.1, vertical_spacing=0.14, subplot_titles=[*panels.values()])
    for number, name in enumerate(names):
        part = table[table[by] == name].sort_values("logs")
        colour = COLOURS[number % len(COLOURS)]
        hollow = ["white" if row < recall else colour for row in part["recall"]]
        for place, column in enumerate(panels):
            figure.add_scatter(
                x=part["logs"],
                y=part[column],
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                line={"color": colour},
                marker={"color": hollow, "size": 8, "line": {"color": colour, "width": 2}},
                hovertemplate=f"{name}, %{{x:,}} logs: %{{y:.4g}}<extra></extra>",
                row=1 + place // 2,
                col=1 + place % 2,
            )
    for place, column in enumerate(panels):
        where = {"row": 1 + place // 2, "col": 1 + place % 2}
        if column != "recall":
            figure.update_yaxes(type="log", dtick=1, **where)
        last = place >= len(panels) - 2
        figure.update_xaxes(type="log", dtick=1, title_text="logs" if last else None, **where)
    figure = _laid_out(figure, title, height=160 + 290 * rows)
    return figure.update_layout(legend={"y": -60 / (290 * rows)})
