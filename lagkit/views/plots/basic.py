"""Figures that any experiment can use, and the look that all figures share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio
from plotly.colors import qualitative

from lagkit.util.progress import quiet
from lagkit.views.pictures import use_renderers

COLOURS = qualitative.Safe
How = dict[str, Any]  # arguments of Plotly Express
FLOOR = 1e-9  # on logarithmic axes: a divergence of exactly zero has no place there
BARS_X = {"error_x": "up", "error_x_minus": "down"}  # the columns of `scaled`, for Plotly Express
BARS_Y = {"error_y": "up", "error_y_minus": "down"}
_BAR = {"thickness": 1.5, "width": 3}
_TOP = 90  # pixels above the panels


def for_notebooks() -> None:
    """Have figures leave a picture and an interactive form in the notebook, and keep libraries from printing."""
    quiet()
    use_renderers()
    pio.templates.default = "plotly_white"


def bars(table: pd.DataFrame, kind: str, measures: Mapping[str, str], title: str) -> go.Figure:
    """Horizontal bars: a row for each row of `table` (named by its index), a panel for each of `measures`.

    `kind` is the column that decides the colour; `measures` maps columns to the panels' titles.
    """
    names, height = [plain(name) for name in table.index], 170 + 34 * len(table)
    rows = long(table.rename_axis("row").reset_index(), measures, [kind, "row"])
    spread: How = {"x": "value", "y": "row", "facet_col": "panel", "orientation": "h", "text_auto": ".2f"}
    figure = faceted(px.bar, rows, title, height, own="x", color=kind, **spread)
    figure.update_traces(textposition="outside", cliponaxis=False, hovertemplate="%{y}: %{x:.3f}<extra></extra>")
    figure.update_xaxes(title_text=None)
    for number, measure in enumerate(measures, 1):
        figure.update_xaxes(range=_room(table[measure]), col=number)
    return rows_down(figure, names)


def lines(table: pd.DataFrame, measures: Mapping[str, str], title: str, x: str) -> go.Figure:
    """A panel for each of `measures` (column -> title) over the index of `table`, at even distances."""
    rows = long(table.set_axis([f"{step:,}" for step in table.index]).rename_axis(x).reset_index(), measures, [x])
    spread: How = {"x": x, "y": "value", "color": "panel", "facet_col": "panel", "facet_col_spacing": 0.1}
    figure = faceted(px.line, rows, title, 380, own="y", colours=COLOURS[1:], markers=True, **spread)
    return figure.update_xaxes(type="category").update_yaxes(title_text=None).update_layout(showlegend=False)


def faceted(
    draw: Callable[..., go.Figure],
    table: pd.DataFrame,
    title: str,
    height: int,
    *,
    own: str = "",
    colours: list[str] = COLOURS,
    **how: Any,
) -> go.Figure:
    """A figure of Plotly Express (`draw`) with the look of all others; panels are titled by their label alone.

    table: text in it is shown letter by letter. own: `x` or `y` where each panel has an axis of its own. how: arguments
    of `draw`.
    """
    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    shown = table.assign(**{name: table[name].map(plain) for name in words})
    how = {"facet_col_spacing": 0.04, "color_discrete_sequence": colours} | how
    figure = draw(shown, **how)
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    for letter, update in (("x", figure.update_xaxes), ("y", figure.update_yaxes)):
        update(hoverformat=",.6~g")
        if letter == own:
            update(matches=None, showticklabels=True)
        if f"error_{letter}" in how:
            figure.update_traces({f"error_{letter}": _BAR})
    return laid_out(figure, title, height)


def long(table: pd.DataFrame, measures: Mapping[str, str], keys: list[str]) -> pd.DataFrame:
    """`table` with a row for each of `measures` (column -> title): columns `keys`, `panel` (the title) and `value`."""
    rows = table[[*keys, *measures]].melt(keys, [*measures], "panel")
    return rows.assign(panel=rows["panel"].map(dict(measures)))


def scaled(table: pd.DataFrame, scale: float | pd.Series = 1) -> pd.DataFrame:
    """`mean`, `low` and `high` times `scale` (100 for points), and `up` and `down`: the lengths of interval bars."""
    own = table.assign(**{name: scale * table[name] for name in ("mean", "low", "high")})
    return own.assign(up=own["high"] - own["mean"], down=own["mean"] - own["low"])


def interval_bars(own: pd.DataFrame) -> dict[str, object]:
    """Error bars of a table of `scaled`, for traces made by hand."""
    return {"type": "data", "symmetric": False, "array": own["up"], "arrayminus": own["down"], **_BAR}


def scale_of(metric: str) -> int:
    """The factor by which a metric is shown: scores in points of 100, rounds as they are."""
    return 1 if metric == "rounds" else 100


def plain(text: object) -> str:
    """Text as a figure shows it letter by letter: Plotly reads a few tags, links among them, and entities."""
    return escape(str(text), quote=False)  # of quotes it would show `&quot;`


def rows_down(figure: go.Figure, names: list[str]) -> go.Figure:
    """Rows in the order of `names`, the first at the top; else those of one colour would stand together."""
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, ticksuffix=" ")
    return figure.update_yaxes(title_text=None)


def laid_out(figure: go.Figure, title: str, height: int) -> go.Figure:
    """The title, the margins, and a legend below the axis and its title."""
    bottom = 90 if any(axis.title.text for axis in figure.select_xaxes()) else 70
    figure.update_layout(
        title={"text": plain(title), "x": 0, "xref": "container", "pad": {"l": 12}},
        height=height,
        margin={"l": 20, "r": 20, "t": _TOP, "b": bottom},
        # So many pixels below the axis, whatever the height.
        legend={"orientation": "h", "y": (28 - bottom) / (height - _TOP - bottom), "yanchor": "top", "x": 0},
        legend_traceorder="normal",
        legend_title_text="",
        bargap=0.3,
    )
    figure.update_annotations(font_size=13)
    return figure


def _room(values: pd.Series) -> list[float]:
    """An axis from 0 that leaves room for the numbers beside the bars."""
    low, high = min(0.0, values.min()), max(0.0, values.max())
    spare = 0.34 * ((high - low) or 1.0)
    return [low - spare * (low < 0), high + spare * (high > 0 or low == 0)]
