"""Figures that any experiment can use, and how figures look and survive export."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from lagkit.util.progress import quiet
from lagkit.views.pictures import use_renderers

COLOURS = qualitative.Safe


def for_notebooks() -> None:
    """Have figures leave a picture and an interactive form in the notebook, and keep libraries from printing."""
    quiet()
    use_renderers()
    pio.templates.default = "plotly_white"


def bars(table: pd.DataFrame, kind: str, measures: Mapping[str, str], title: str) -> go.Figure:
    """Horizontal bars: a row for each row of `table` (named by its index), a panel for each of `measures`.

    `kind` is the column that decides the colour; `measures` maps columns to the panels' titles.
    """
    names = [plain(name) for name in table.index]
    figure = make_subplots(
        1, len(measures), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[*measures.values()]
    )
    for number, measure in enumerate(measures, 1):
        for colour, (group, rows) in zip(COLOURS, table.groupby(kind, sort=False), strict=False):
            figure.add_bar(
                x=rows[measure],
                y=[plain(name) for name in rows.index],
                orientation="h",
                name=plain(group),
                legendgroup=group,
                showlegend=number == 1,
                marker_color=colour,
                text=[f"{value:.2f}" for value in rows[measure]],
                textposition="outside",
                cliponaxis=False,
                hovertemplate="%{y}: %{x:.3f}<extra></extra>",
                row=1,
                col=number,
            )
        figure.update_xaxes(range=_room(table[measure]), row=1, col=number)
    # Explicit order: else the rows of one colour would stand together, and the first at the bottom.
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, ticksuffix=" ")
    return _laid_out(figure, title, height=170 + 34 * len(names))


def lines(table: pd.DataFrame, measures: Mapping[str, str], title: str, x: str) -> go.Figure:
    """A panel for each of `measures` (column -> title) over the index of `table`, at even distances."""
    figure = make_subplots(1, len(measures), horizontal_spacing=0.1, subplot_titles=[*measures.values()])
    for number, measure in enumerate(measures, 1):
        figure.add_scatter(
            x=[f"{step:,}" for step in table.index],
            y=table[measure],
            mode="lines+markers",
            marker_color=COLOURS[number],
            showlegend=False,
            hovertemplate="%{x}: %{y:.3f}<extra></extra>",
            row=1,
            col=number,
        )
        figure.update_xaxes(title_text=x, type="category", row=1, col=number)
    return _laid_out(figure, title, height=380)


def plain(text: object) -> str:
    """Text as a figure shows it letter by letter: Plotly reads a few tags, links among them, and entities."""
    return escape(str(text), quote=False)  # of quotes it would show `&quot;`


def interval_bars(table: pd.DataFrame, scale: float = 1) -> dict[str, object]:
    """Error bars from the columns `low`, `mean` and `high`, times `scale` (100 for points)."""
    up, down = scale * (table["high"] - table["mean"]), scale * (table["mean"] - table["low"])
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "width": 3}


def _room(values: pd.Series) -> list[float]:
    """An axis from 0 that leaves room for the numbers beside the bars."""
    low, high = min(0.0, values.min()), max(0.0, values.max())
    spare = 0.34 * ((high - low) or 1.0)
    return [low - spare * (low < 0), high + spare * (high > 0 or low == 0)]


def _laid_out(figure: go.Figure, title: str, height: int) -> go.Figure:
    figure.update_layout(
        title={"text": plain(title), "x": 0, "xref": "container", "pad": {"l": 12}},
        height=height,
        margin={"l": 20, "r": 20, "t": 90, "b": 70},
        # So many pixels below the axis, whatever the height.
        legend={"orientation": "h", "y": -42 / (height - 160), "yanchor": "top", "x": 0, "traceorder": "normal"},
        bargap=0.3,
    )
    figure.update_annotations(font_size=13)
    return figure
