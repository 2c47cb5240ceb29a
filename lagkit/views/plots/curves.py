"""Scores along an axis, with their intervals: the round limit, the size of a log, the tokens of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.stats.metrics import apart
from lagkit.views import palette
from lagkit.views.plots.basic import POWERS, How, beside, faceted, laid_out, levels, marks, plain, rows_down, scaled

_DODGE = 0.08  # rounds: curves that meet stay apart
_APART = 1.4  # the factor between marks of one size
_SHAPES = {"last_action": "triangle-up", "last_round": "circle", "last_two_rounds": "square", "all_rounds": "diamond"}
_CONTROLS = {"filler": "star", "stranger": "cross"}
_ENCODED = {"kept": "-open", "conversation": "-open-dot"}
_DASHED = {"color": palette.NEUTRAL, "width": 1, "dash": "dash"}
_TOKENS = {"prefilled": "prefilled (read)", "injected": "injected (stored KV)", "generated": "generated"}


def by_rounds(
    table: pd.DataFrame, policies: Sequence[str], title: str, y: str, level: float | None = None, said: str = ""
) -> go.Figure:
    """A curve for each policy over the limit of rounds, in points of 100, with intervals.

    table: as `by_round.curve` and `by_round.differences` give it. `policies`: in the order of their colours; one that
    the table lacks keeps its colour. `level`: a line to draw, named `said`.
    """
    rows = scaled(table, 100).assign(x=table["rounds"] + _DODGE * beside(table["policy"], policies))
    how: How = {"x": "x", "y": "mean", "color": "policy", "line_dash": "policy"}
    how |= {"color_discrete_map": palette.colours(policies), "line_dash_map": palette.dashes(policies)}
    how |= {"category_orders": {"policy": [*map(plain, policies)]}, "labels": {"x": "rounds allowed", "mean": y}}
    caption = "Means over all questions if the agent is stopped after so many rounds; bars are 95% intervals."
    figure = faceted(px.line, rows, title, 460, caption, hover_data=["rounds", "low", "high"], **how)
    if level is not None:
        figure.add_hline(y=100 * level, line=_DASHED, annotation_text=said, annotation_position="bottom left")
    return figure.update_xaxes(tickvals=sorted(set(table["rounds"])))


def by_bytes(table: pd.DataFrame, measures: Mapping[str, str], title: str) -> go.Figure:
    """A mark for each policy over the bytes of its logs (log axis), a panel for each of `measures` (metric -> title).

    table: as `log_size.outcomes` gives. Colour says in which form a log is reused, the mark's shape what is kept of
    it, and an open mark, a star or a cross that it was encoded otherwise than behind all responses.
    """
    table = apart(table.set_index(["policy", "metric"])).reset_index()
    shown = table[table["metric"].isin(measures)].groupby("metric", sort=False)
    rows = pd.concat([levels(own, metric).assign(panel=measures[metric]) for metric, own in shown])
    same = rows.groupby(["metric", "bytes"])["bytes"]
    rows["x"] = rows["bytes"] * _APART ** (same.cumcount() - (same.transform("size") - 1) / 2)
    how: How = {"x": "x", "y": "mean", "color": "policy", "symbol": "policy", "facet_col": "panel"}
    how["symbol_map"] = {
        row.policy: _CONTROLS.get(row.encode) or _SHAPES.get(row.keep, "x") + _ENCODED.get(row.encode, "")
        for row in table.itertuples()
    }
    how |= {"hover_data": {"x": False, "bytes": ":,.0f"}, "facet_col_spacing": 0.08, "labels": {"x": "bytes per log"}}
    caption = (
        "A mark for each way to keep a log, with the 95% interval of its difference to doing without logs, the dashed "
        "line. Up and to the left is better: more for fewer bytes (in rounds, lower). Those of one size stand apart."
    )
    figure = faceted(px.scatter, rows, title, 500, caption, own="y", log_x=True, **how).update_traces(marker_size=11)
    for column, base in enumerate(rows.groupby("panel", sort=False)["base"].first(), 1):
        figure.add_hline(y=base, line=_DASHED, col=column)
    return figure.update_xaxes(POWERS).update_yaxes(title_text=None)


def costs(table: pd.DataFrame, title: str, score: str) -> go.Figure:
    """Tokens of a question and its score, titled `score`, a row for each policy of `table` (`equal_tokens.costs`)."""
    names, own = [plain(name) for name in table.index], scaled(table, 100)
    titles = ["tokens per question", score]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for colour, (column, name) in zip((palette.TEXT, palette.KV, palette.NONE), _TOKENS.items(), strict=True):
        told = f"%{{y}}: %{{x:,.0f}} {column}<extra></extra>"
        bar = go.Bar(x=table[column], y=names, orientation="h", name=name, marker_color=colour, hovertemplate=told)
        figure.add_trace(bar, row=1, col=1)
    hover = "%{y}: %{x:.1f} [%{customdata[0]:.1f}, %{customdata[1]:.1f}]<extra></extra>"
    scores = marks(own, "x", names, hover, mode="markers", marker={"color": palette.UNSEEN, "size": 9})
    figure.add_trace(scores.update(showlegend=False), row=1, col=2)
    figure.update_layout(barmode="stack")
    caption = "Left: what stood before the model for one question. Right: what came of it, with 95% intervals."
    return laid_out(rows_down(figure, names), title, 190 + 30 * len(names), caption)
