"""Figures of what the widgets show: a map of the logs, and where an answer's attention goes."""

from __future__ import annotations

import textwrap

import pandas as pd
import plotly.graph_objects as go

from lagkit.views import palette
from lagkit.views.plots.basic import laid_out, plain

_RIGHT = {
    "right": (palette.GAIN, "circle"),
    "wrong": (palette.LOSS, "x"),
    "not judged": (palette.NEUTRAL, "diamond"),
}
_SHOWN = 60  # characters of a label
_WIDE, _MANY = 80, 5  # characters and lines under the pointer


def log_map(table: pd.DataFrame, title: str) -> go.Figure:
    """A point for each log at `x`, `y`; its colour says whether it is `right`, and a ring that it is `marked`.

    `table` also has `question`, `answer` and `rounds`, which are shown under the pointer.
    """
    figure = go.Figure()
    for kind, (colour, symbol) in _RIGHT.items():
        rows = table[table["right"] == kind]
        if len(rows):
            told = [_told(*row) for row in rows[["question", "answer", "rounds"]].itertuples(index=False)]
            look = {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.75}
            _points(figure, rows, f"{kind} ({len(rows)})", look, told)
    marked = table[table["marked"]]
    if len(marked):
        ring = {"color": palette.KV, "symbol": "circle-open", "size": 16, "line_width": 3}
        _points(figure, marked, f"found by the search ({len(marked)})", ring, None)
    axis = {"showticklabels": False, "zeroline": False, "showgrid": False, "mirror": True, "showline": True}
    figure.update_xaxes(**axis).update_yaxes(**axis)
    caption = "A point for each log: near ones have similar keys, distances between far ones mean little."
    return laid_out(figure, title, 460, caption)


def attention_bars(table: pd.DataFrame, title: str) -> go.Figure:
    """For each part of a context (the index): the `share` of attention as a bar, and the `even` share as a mark.

    An even share is what the part would get if attention fell on all tokens alike.
    """
    names = [_short(name) for name in table.index]
    label = [
        f"  {share:.1%} on {tokens:,} tokens" for share, tokens in table[["share", "tokens"]].itertuples(index=False)
    ]
    figure = go.Figure()
    figure.add_bar(
        x=table["share"],
        y=list(range(len(names))),
        orientation="h",
        name="attention",
        marker_color=palette.KV,
        customdata=[_lines(name) for name in table.index],
        hovertemplate="%{customdata}: %{x:.1%}<extra></extra>",
    )
    mark = {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": palette.TEXT}, "color": palette.TEXT}
    figure.add_scatter(
        x=table["even"],
        y=list(range(len(names))),
        mode="markers",
        name="if it fell on all tokens alike",
        marker=mark,
        hovertemplate="even share: %{x:.1%}<extra></extra>",
    )
    # Beyond the mark: a bar's own label would be struck through by it.
    end = table[["share", "even"]].max(axis=1)
    label_look = {"mode": "text", "textposition": "middle right", "cliponaxis": False}
    figure.add_scatter(x=end, y=list(range(len(names))), text=label, hoverinfo="skip", showlegend=False, **label_look)
    # By number and not by name: two parts may read alike once they are cut to fit.
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", ticksuffix=" ")
    figure.update_yaxes(automargin=True, showgrid=False)
    figure.update_xaxes(range=[0, 1.5 * end.max()], tickformat=".0%", title_text="mean share of attention")
    caption = "A bar that reaches beyond its mark is looked at more than its length explains."
    return laid_out(figure, title, 210 + 34 * len(names), caption)


def _points(figure: go.Figure, rows: pd.DataFrame, name: str, look: dict[str, object], told: list[str] | None) -> None:
    how = {"hoverinfo": "skip"} if told is None else {"text": told, "hovertemplate": "%{text}<extra></extra>"}
    figure.add_scatter(x=rows["x"], y=rows["y"], mode="markers", name=name, marker=look, **how)


def _told(question: str, answer: str, rounds: int) -> str:
    return f"{_lines(question)}<br>answered: {_lines(answer or 'nothing')}<br>rounds: {rounds}"


def _lines(text: object) -> str:
    """Text under the pointer: escaped, in a few short lines."""
    return "<br>".join(plain(line) for line in textwrap.wrap(str(text), _WIDE, max_lines=_MANY, placeholder=" …"))


def _short(text: object) -> str:
    words = str(text)
    return plain(words if len(words) <= _SHOWN else words[: _SHOWN - 1].rstrip() + "…")
