"""Figures that any experiment can use, and the look that all figures share."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio

from lagkit.util.progress import quiet
from lagkit.views import palette, parameters
from lagkit.views.pictures import use_renderers
from lagkit.views.tables import number, use_numbers

How = dict[str, Any]  # arguments of Plotly Express
FLOOR = 1e-9  # on logarithmic axes: a divergence of exactly zero has no place there
POWERS: How = {"type": "log", "exponentformat": "power", "dtick": 1}
_BAR = {"thickness": 1.5, "width": 3}
_TITLE, _LINE = 48, 17  # pixels of the title, and of a line of the caption
_WIDE = 140  # characters of a caption's line
TOP = 90  # pixels above the panels that a figure's height reckons with


def for_notebooks(theme: Literal["light", "dark", ""] = "") -> None:
    """Check the notebook's parameters, have figures leave a picture and an interactive form, keep libraries quiet.

    theme: what figures are drawn for; empty: as before, and light at first. Tables show four significant digits.
    Relative paths are from the notebook's folder from then on, also under the command `papermill`. Raises ConfigError
    for a parameter that the notebook does not have, and for one of another type.
    """
    parameters.settle()
    quiet()
    use_renderers()
    use_numbers()
    for name, template in palette.TEMPLATES.items():
        pio.templates[f"lagkit_{name}"] = template
    if theme or not str(pio.templates.default).startswith("lagkit_"):
        pio.templates.default = f"lagkit_{theme or 'light'}"


def bars(
    table: pd.DataFrame, kind: str, measures: Mapping[str, str], title: str, *, log: Collection[str] = ()
) -> go.Figure:
    """Horizontal bars: a row for each of `table`, named by its index, a panel for each of `measures` (column -> title).

    `kind`: the column that decides the colour. log: measures with logarithmic axes.
    """
    names, height = [plain(name) for name in table.index], 170 + 34 * len(table)
    rows = long(table.rename_axis("row").reset_index(), measures, [kind, "row"])
    rows["said"] = rows["value"].map(lambda value: number(value, 3))
    how: How = {"x": "value", "y": "row", "color": kind, "facet_col": "panel", "orientation": "h", "text": "said"}
    caption = "Each row has a bar in each panel, and the number beside it; colours tell the kinds apart."
    figure = faceted(px.bar, rows, title, height, caption, own="x", **how)
    figure.update_traces(textposition="outside", cliponaxis=False, hovertemplate="%{y}: %{text}<extra></extra>")
    figure.update_xaxes(title_text=None, nticks=5)
    for place, measure in enumerate(measures, 1):
        axis = {"range": _room_of_log(table[measure]), **POWERS} if measure in log else {"range": _room(table[measure])}
        figure.update_xaxes(axis, col=place)
    return rows_down(figure, names)


def lines(table: pd.DataFrame, measures: Mapping[str, str], title: str, x: str) -> go.Figure:
    """A panel for each of `measures` (column -> title) over the index of `table`, at even distances."""
    rows = long(table.set_axis([f"{step:,}" for step in table.index]).rename_axis(x).reset_index(), measures, [x])
    how: How = {"x": x, "y": "value", "color": "panel", "facet_col": "panel", "facet_col_spacing": 0.1}
    caption = f"Means over the questions, by {x}; the steps stand at even distances."
    figure = faceted(px.line, rows, title, 380, caption, own="y", color_discrete_sequence=palette.SERIES[1:], **how)
    return figure.update_xaxes(type="category").update_yaxes(title_text=None).update_layout(showlegend=False)


def faceted(
    draw: Callable[..., go.Figure],
    table: pd.DataFrame,
    title: str,
    height: int,
    caption: str,
    *,
    own: str = "",
    **how: Any,
) -> go.Figure:
    """A figure of Plotly Express (`draw`) with the look of all others; panels are titled by their label alone.

    table: text in it is shown letter by letter; where it has the columns of `scaled`, each `mean` has an interval bar.
    caption: how to read it. own: `x` or `y` where each panel has an axis of its own. how: arguments of `draw`.
    """
    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    shown = table.assign(**{name: table[name].map(plain) for name in words})
    how = {"facet_col_spacing": 0.04} | how
    if draw is px.line:
        how["markers"] = True
    if "color" in how and "color_discrete_map" not in how and "color_discrete_sequence" not in how:
        how["color_discrete_map"] = palette.colours(table[how["color"]])
    maps = {name: {plain(label): look for label, look in how[name].items()} for name in how if name.endswith("_map")}
    error = f"error_{'x' if how['x'] == 'mean' else 'y'}"
    if "up" in table:
        how |= {error: "up", f"{error}_minus": "down"}
    figure = draw(shown, **how | maps)
    if "up" in table:
        figure.update_traces({error: _BAR})
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.update_xaxes(hoverformat=",.4~g").update_yaxes(hoverformat=",.4~g")
    if own:
        update = figure.update_xaxes if own == "x" else figure.update_yaxes
        update(matches=None, showticklabels=True)
    return laid_out(figure, title, height, caption)


def long(table: pd.DataFrame, measures: Mapping[str, str], keys: list[str]) -> pd.DataFrame:
    """`table` with a row for each of `measures` (column -> title): columns `keys`, `panel` (the title) and `value`."""
    rows = table[[*keys, *measures]].melt(keys, [*measures], "panel")
    return rows.assign(panel=rows["panel"].map(dict(measures)))


def scaled(table: pd.DataFrame, scale: float = 1) -> pd.DataFrame:
    """Means and bounds times `scale` (100 for points), and `up` and `down`: the lengths of interval bars."""
    own = table.assign(**{name: scale * table[name] for name in ("mean", "low", "high", "base") if name in table})
    return own.assign(up=own["high"] - own["mean"], down=own["mean"] - own["low"])


def levels(table: pd.DataFrame, metric: str = "") -> pd.DataFrame:
    """`scaled` levels of a metric: rounds as they are, shares in percent, with intervals that end at 0 and 100."""
    if metric == "rounds":
        return scaled(table)
    return scaled(table.assign(low=table["low"].clip(0, 1), high=table["high"].clip(0, 1)), 100)


def beside(labels: pd.Series, order: Sequence[str]) -> pd.Series:
    """How many places each label's marks stand beside the middle, so that intervals that meet can be told apart."""
    return labels.map({label: place for place, label in enumerate(order)}) - (len(order) - 1) / 2


def marks(own: pd.DataFrame, along: Literal["x", "y"], at: Iterable[Any], hover: str, **look: Any) -> go.Scatter:
    """Means of a table of `scaled` along an axis, `at` places on the other; for figures that are made by hand.

    hover: what is told under the pointer, where the bounds are `customdata`.
    """
    bars = {"type": "data", "symmetric": False, "array": own["up"], "arrayminus": own["down"], **_BAR}
    places = {along: own["mean"], "x" if along == "y" else "y": at, f"error_{along}": bars}
    return go.Scatter(**places, customdata=own[["low", "high"]].to_numpy(), hovertemplate=hover, **look)


def scale_of(metric: str) -> int:
    """The factor by which a metric is shown: scores in points of 100, rounds as they are."""
    return 1 if metric == "rounds" else 100


def plain(text: object) -> str:
    """Text as a figure shows it letter by letter: Plotly reads a few tags, links among them, and entities."""
    return escape(str(text), quote=False)  # of quotes it would show `&quot;`


def named(label: str) -> str:
    """A label that `plain` has made, with the names of variants as people read them (`palette.readable`)."""
    return ", ".join(palette.readable(part) for part in label.split(", "))


def rows_down(figure: go.Figure, names: list[str]) -> go.Figure:
    """Rows in the order of `names`, the first at the top; else those of one colour would stand together."""
    ticks = {"tickvals": names, "ticktext": [f"{named(name)} " for name in names]}
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, **ticks)
    return figure.update_yaxes(title_text=None)


def laid_out(figure: go.Figure, title: str, height: int, caption: str) -> go.Figure:
    """The title with the caption below it, readable names, the margins, and a legend below the axis and its title."""
    wrapped = textwrap.wrap(palette.reworded(caption), _WIDE)
    top = _TITLE + _LINE * len(wrapped) + 26 * bool(figure.layout.annotations)
    bottom = 90 if any(axis.title.text for axis in figure.select_xaxes()) else 70
    height += max(0, top - TOP)
    below = {"text": "<br>".join(map(plain, wrapped)), "font": {"size": 12}}
    place = {"x": 0, "xref": "container", "y": 1, "yref": "container", "yanchor": "top", "pad": {"l": 12, "t": 14}}
    figure.for_each_trace(lambda trace: trace.update(name=named(trace.name)) if trace.name else None)
    figure.for_each_annotation(lambda note: note.update(text=named(note.text)) if note.text else None)
    figure.update_layout(
        title={"text": plain(palette.reworded(title)), "subtitle": below, **place},
        height=height,
        margin={"l": 20, "r": 20, "t": top, "b": bottom},
        # So many pixels below the axis, whatever the height.
        legend={"orientation": "h", "y": (28 - bottom) / (height - top - bottom), "yanchor": "top", "x": 0},
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


def _room_of_log(values: pd.Series) -> list[float]:
    """The same in powers of ten, from the one below the least value."""
    low, high = np.log10(values[values > 0].agg(["min", "max"]))
    return [float(np.ceil(low) - 1), float(high + 0.34 * (high - np.ceil(low) + 1))]
