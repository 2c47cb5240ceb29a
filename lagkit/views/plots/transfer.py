"""Figures of negative transfer: what logs of each kind do, at which similarity, and what a threshold changes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out, interval_bars

# Blue and red of the palette: what logs gave and what they took.
SIDES = {"positive": COLOURS[4], "negative": COLOURS[1]}
OUTCOMES = {
    "wrong, then right": SIDES["positive"],
    "right, then wrong": SIDES["negative"],
    "right both times": COLOURS[0],
    "wrong both times": COLOURS[10],
}
KINDS = {
    "contradicting": "some log contradicts",
    "helpful": "some help, none contradicts",
    "irrelevant": "all are irrelevant",
}
_DASHES = ("solid", "dot", "dash", "dashdot")
_APART = 2.0  # percent of logs between the points of two policies, so that their intervals can be seen


def by_share(table: pd.DataFrame, panels: Mapping[str, str], title: str) -> go.Figure:
    """Positive and negative transfer against the share of logs that were replaced, with their intervals.

    table: a row per `panel`, `share`, `policy` and `side` (a key of `SIDES`), with `mean`, `low` and `high` as shares
    of the questions. panels: values of `panel` -> titles of the horizontal axes.
    """
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.06)
    dashes = dict(zip(table["policy"].unique(), _DASHES, strict=False))
    for number, (panel, axis) in enumerate(panels.items(), 1):
        rows = table[table["panel"] == panel]
        for (policy, side), line in rows.groupby(["policy", "side"], sort=False):
            figure.add_scatter(
                x=100 * line["share"] + _APART * list(dashes).index(policy),
                y=100 * line["mean"],
                error_y=interval_bars(line, 100),
                name=f"{side}, {policy}",
                legendgroup=f"{side}, {policy}",
                showlegend=number == 1,
                mode="lines+markers",
                line={"color": SIDES[side], "dash": dashes[policy]},
                hovertemplate="%{y:.1f}%",
                row=1,
                col=number,
            )
        marks = sorted(100 * rows["share"].unique())
        figure.update_xaxes(title_text=axis, tickvals=marks, ticktext=[f"{mark:.0f}%" for mark in marks], col=number)
    figure.update_yaxes(title_text="share of questions", ticksuffix="%", rangemode="tozero", row=1, col=1)
    return _finished(figure, title, height=460)


def by_score(outcomes: pd.DataFrame, title: str, width: float = 0.1) -> go.Figure:
    """How many questions went which way, by the similarity of their logs: a panel for each `kind` of logs.

    outcomes: as `Transfer.outcomes` gives them; questions without a log are left out. `width`: of
    a bin.
    """
    found = outcomes.dropna(subset=["best"])
    bins = np.floor(found["best"] / width + 1e-9).astype(int)
    said = told_outcome(found)
    counts = pd.crosstab([found["kind"], said], bins)
    kinds = [kind for kind in KINDS if kind in counts.index.get_level_values(0)]
    columns = range(bins.min(), bins.max() + 1)
    titles = [f"{KINDS[kind]} (n = {counts.loc[kind].to_numpy().sum()})" for kind in kinds]
    figure = make_subplots(1, len(kinds), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for number, kind in enumerate(kinds, 1):
        rows = counts.loc[kind].reindex(index=list(OUTCOMES), columns=columns, fill_value=0)
        for name, colour in OUTCOMES.items():
            figure.add_bar(
                x=[f"{width * column:.1f}" for column in columns],
                y=rows.loc[name],
                name=name,
                legendgroup=name,
                showlegend=number == 1,
                marker_color=colour,
                hovertemplate="from %{x}: %{y} questions<extra></extra>",
                row=1,
                col=number,
            )
        figure.update_xaxes(title_text="similarity, from", type="category", row=1, col=number)
    figure.update_yaxes(title_text="questions", row=1, col=1)
    figure.update_layout(barmode="stack")
    return _finished(figure, title, height=440)


def thresholds(sweeps: Mapping[str, pd.DataFrame], chosen: Mapping[str, float], title: str) -> go.Figure:
    """What each threshold changes against using all logs, in points, with its interval: a line per store.

    sweeps: a store's name -> `Transfer.sweep`. chosen: its name -> the threshold that was chosen, which
    is marked with a star.
    """
    figure = go.Figure()
    for colour, (name, sweep) in zip(COLOURS[3:], sweeps.items(), strict=False):
        labels = [_label(threshold) for threshold in sweep.index]
        figure.add_scatter(
            x=labels,
            y=100 * sweep["mean"],
            error_y=interval_bars(sweep, 100),
            name=name,
            mode="lines+markers",
            marker={
                "symbol": ["star" if threshold == chosen[name] else "circle" for threshold in sweep.index],
                "size": [15 if threshold == chosen[name] else 7 for threshold in sweep.index],
                "color": colour,
            },
            line_color=colour,
            hovertemplate="%{x}: %{y:+.1f} points<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": "grey", "width": 1})
    figure.update_xaxes(title_text="logs are used from this similarity on", type="category")
    figure.update_yaxes(title_text="right answers, points against all logs", tickformat="+.0f")
    return _finished(figure, title, height=440)


def told_outcome(outcomes: pd.DataFrame) -> np.ndarray:
    """The key of `OUTCOMES` for each row, by its columns `without` and `with_logs`."""
    before, after = outcomes["without"], outcomes["with_logs"]
    won, lost, both, neither = OUTCOMES
    return np.select([after & ~before, before & ~after, after], [won, lost, both], default=neither)


def _label(threshold: float) -> str:
    return "all logs" if threshold <= -1 else f"{threshold:g}"


def _finished(figure: go.Figure, title: str, height: int) -> go.Figure:
    """As every figure looks, with room for the axis titles above the legend."""
    _laid_out(figure, title, height)
    figure.update_layout(margin_b=110, legend_y=-0.24)
    return figure
