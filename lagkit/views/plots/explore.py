"""Figures of what the widgets show: a map of the logs, and where an answer's attention goes."""

from __future__ import annotations

import textwrap

import pandas as pd
import plotly.graph_objects as go

from lagkit.views import palette
from lagkit.views.plots.basic import laid_out, plain

_SYMBOLS = {"right": "circle", "wrong": "x", "not judged": "diamond"}
_SHOWN = 60  # characters of a label
_WIDE, _MANY = 80, 5  # characters and lines under the pointer


def log_map(table: pd.DataFrame, title: str) -> go.Figure:
    """A point for each log of `logs_table` at `x`, `y`, with a ring where it is `marked`."""
    figure = go.Figure()
    for kind, symbol in _SYMBOLS.items():
        rows = table[table["right"] == kind]
        if len(rows):
            told = [_told(*row) for row in rows[["question", "answer", "rounds"]].itertuples(index=False)]
            look = {"color": palette.colour(kind), "symbol": symbol, "size": 8, "opacity": 0.75}
            points = go.Scatter(x=rows["x"], y=rows["y"], mode="markers", name=f"{kind} ({len(rows)})", marker=look)
            figure.add_trace(points.update(text=told, hovertemplate="%{text}<extra></extra>"))
    marked = table[table["marked"]]
    if len(marked):
        ring = {"color": palette.KV, "symbol": "circle-open", "size": 16, "line_width": 3}
        name = f"found by the search ({len(marked)})"
        figure.add_scatter(x=marked["x"], y=marked["y"], mode="markers", name=name, marker=ring, hoverinfo="skip")
    axis = {"showticklabels": False, "zeroline": False, "showgrid": False, "mirror": True, "showline": True}
    figure.update_xaxes(**axis).update_yaxes(**axis)
    caption = "A point for each log: near ones have similar keys, distances between far ones mean little."
    return laid_out(figure, title, 460, caption)


def attention_bars(table: pd.DataFrame, title: str) -> go.Figure:
    """The `share` of attention on each part of a context (the index) as a bar, and the `even` share as a mark."""
    names, places = [_short(name) for name in table.index], [*range(len(table))]
    end = table[["share", "even"]].max(axis=1)
    figure = go.Figure()
    bar = go.Bar(x=table["share"], y=places, orientation="h", name="attention", marker_color=palette.KV)
    whole = [_lines(name) for name in table.index]
    figure.add_trace(bar.update(customdata=whole, hovertemplate="%{customdata}: %{x:.1%}<extra></extra>"))
    look = {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": palette.TEXT}, "color": palette.TEXT}
    mark = go.Scatter(x=table["even"], y=places, mode="markers", name="if it fell on all tokens alike", marker=look)
    figure.add_trace(mark.update(hovertemplate="even share: %{x:.1%}<extra></extra>"))
    # Beyond the mark: a bar's own label would be struck through by it.
    told = [f"  {row.share:.1%} on {row.tokens:,} tokens" for row in table.itertuples()]
    label = go.Scatter(x=end, y=places, mode="text", text=told, textposition="middle right", showlegend=False)
    figure.add_trace(label.update(cliponaxis=False, hoverinfo="skip"))
    # By number and not by name: two parts may read alike once they are cut to fit.
    figure.update_yaxes(tickvals=places, ticktext=names, autorange="reversed", ticksuffix=" ")
    figure.update_yaxes(automargin=True, showgrid=False)
    figure.update_xaxes(range=[0, 1.5 * end.max()], tickformat=".0%", title_text="mean share of attention")
    caption = "A bar that reaches beyond its mark is looked at more than its length explains."
    return laid_out(figure, title, 210 + 34 * len(names), caption)


def _told(question: str, answer: str, rounds: int) -> str:
    return f"{_lines(question)}<br>answered: {_lines(answer or 'nothing')}<br>rounds: {rounds}"


def _lines(text: object) -> str:
    """Text under the pointer: escaped, in a few short lines."""
    return "<br>".join(plain(line) for line in textwrap.wrap(str(text), _WIDE, max_lines=_MANY, placeholder=" …"))


def _short(text: object) -> str:
    words = str(text)
    return plain(words if len(words) <= _SHOWN else words[: _SHOWN - 1].rstrip() + "…")
