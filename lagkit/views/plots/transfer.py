"""Figures of negative transfer: the effect of logs by kind and similarity, of a threshold, and of doubt."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from lagkit.views import palette
from lagkit.views.plots.basic import How, faceted, levels, scaled

SIDES = {"positive": palette.GAIN, "negative": palette.LOSS}  # what logs gave and what they took
OUTCOMES = {
    "wrong, then right": SIDES["positive"],
    "right, then wrong": SIDES["negative"],
    "right both times": palette.KV,
    "wrong both times": palette.NONE,
}
KINDS = {
    "contradicting": "some log contradicts",
    "helpful": "some help, none contradicts",
    "irrelevant": "all are irrelevant",
}
_BIN = 0.1  # of similarity
_APART = 2.0  # percent of logs between the points of two policies, so that their intervals can be seen
_LEAST = 1e-7  # nats: a float32 model cannot doubt less without being certain
_NONE = 10.0  # where questions stand that were left without an answer: off the scale of those that were not
_TICKS = {1e-7: "10<sup>-7</sup>", 1e-5: "10<sup>-5</sup>", 1e-3: "10<sup>-3</sup>", 0.1: "0.1", _NONE: "none"}
_SHAPES = dict(zip(OUTCOMES, ("triangle-up", "x", "circle-open", "circle-open"), strict=True))


def by_share(table: pd.DataFrame, panels: Mapping[str, str], title: str) -> go.Figure:
    """Positive and negative transfer against the share of logs that were replaced.

    table: a row per `panel`, `share`, `policy` and `side` (a key of `SIDES`), with `mean`, `low` and `high` as shares
    of the questions. panels: values of `panel` -> titles of the horizontal axes.
    """
    policies = list(table["policy"].unique())
    rows = levels(table).assign(x=100 * table["share"] + _APART * table["policy"].map(policies.index))
    how: How = {"x": "x", "y": "mean", "color": "side", "line_dash": "policy", "facet_col": "panel"}
    how |= {"color_discrete_map": SIDES, "line_dash_sequence": palette.DASHES, "facet_col_spacing": 0.06}
    how |= {"labels": {"mean": "share of questions"}, "category_orders": {"panel": [*panels]}}
    caption = "Green: questions that logs turned right. Red: those that they turned wrong. Bars are 95% intervals."
    figure = faceted(px.line, rows, title, 460, caption, **how).update_layout(annotations=[])
    for number, axis in enumerate(panels.values(), 1):
        figure.update_xaxes(title_text=axis, col=number)
    marks = sorted(100 * table["share"].unique())
    figure.update_xaxes(tickvals=marks, ticktext=[f"{mark:.0f}%" for mark in marks])
    return figure.update_yaxes(ticksuffix="%", rangemode="tozero")


def by_score(outcomes: pd.DataFrame, title: str) -> go.Figure:
    """Number of questions of each outcome (`Transfer.outcomes`), by the similarity of their logs."""
    found = _by_kind(outcomes.dropna(subset=["best"]))
    bins = np.floor(found["best"] / _BIN + 1e-9).astype(int)
    every = [found["panel"].unique(), OUTCOMES, range(bins.min(), bins.max() + 1)]
    counts = found.groupby(["panel", "outcome", bins]).size()
    rows = counts.reindex(pd.MultiIndex.from_product(every, names=["panel", "outcome", "bin"]), fill_value=0)
    rows = rows.rename("questions").reset_index()
    rows["similarity, from"] = rows["bin"].map(lambda number: f"{_BIN * number:.1f}")
    axes = {"x": "similarity, from", "y": "questions", "color": "outcome", "facet_col": "panel"}
    caption = "Questions by the similarity of their best log; colours say what became of their answers."
    figure = faceted(px.bar, rows, title, 440, caption, color_discrete_map=OUTCOMES, **axes)
    return figure.update_xaxes(type="category")


def thresholds(sweeps: Mapping[str, pd.DataFrame], chosen: Mapping[str, float], title: str) -> go.Figure:
    """The change by each threshold against using all logs: a line per store.

    sweeps: a store's name -> `Transfer.sweep`. chosen: its name -> the threshold that was chosen.
    """
    rows = scaled(pd.concat(dict(sweeps), names=["store", "threshold"]).reset_index(), 100)
    rows["label"] = rows["threshold"].map(lambda least: "all logs" if least <= -1 else f"{least:g}")
    labels = {"label": "logs are used from this similarity on", "mean": "right answers, points against all logs"}
    axes = {"x": "label", "y": "mean", "color": "store"}
    caption = "Differences to using all logs, with 95% intervals; the star is the threshold that was chosen."
    figure = faceted(px.line, rows, title, 440, caption, labels=labels, **axes)
    for line, (name, sweep) in zip(figure.data, sweeps.items(), strict=True):
        stars = [threshold == chosen[name] for threshold in sweep.index]
        line.marker.symbol = ["star" if star else "circle" for star in stars]
        line.marker.size = [15 if star else 7 for star in stars]
    figure.add_hline(y=0, line={"color": palette.NEUTRAL, "width": 1})
    return figure.update_xaxes(type="category").update_yaxes(tickformat="+.0f")


def doubts(outcomes: pd.DataFrame, title: str) -> go.Figure:
    """A point for each question, by its doubt (negative confidence) without logs and with them, and its outcome.

    outcomes: as `Transfer.outcomes` gives them, with the columns of `gating.confidences`. Above the diagonal, a gate of
    margin 0 does without logs. Doubts below 1e-7 are drawn there.
    """
    found = _by_kind(outcomes.dropna(subset=["kind"]).rename_axis("question").reset_index())
    found = found.assign(x=_doubt(found["sure_without"]), y=_doubt(found["sure_with_logs"]))
    how: How = {"x": "x", "y": "y", "color": "outcome", "symbol": "outcome", "facet_col": "panel"}
    how |= {"color_discrete_map": OUTCOMES, "symbol_map": _SHAPES, "hover_name": "question"}
    how["labels"] = {"x": "doubt without logs", "y": "doubt with logs (nats per token)"}
    caption = "A point for each question; above the diagonal the model is less sure with logs. No answer: at the edge."
    figure = faceted(px.scatter, found, title, 480, caption, **how).update_traces(marker_size=8)
    line = {"color": palette.NEUTRAL, "dash": "dot"}
    figure.add_shape(type="line", x0=_LEAST, y0=_LEAST, x1=1, y1=1, line=line, layer="below", row="all", col="all")
    reach = [np.log10(_LEAST) - 0.4, np.log10(_NONE) + 0.4]
    axis = {"type": "log", "range": reach, "tickvals": list(_TICKS), "ticktext": list(_TICKS.values())}
    return figure.update_xaxes(axis).update_yaxes(axis)


def _by_kind(found: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of `KINDS` and `OUTCOMES`, with a `panel` that counts those of its kind, and `outcome`."""
    before, after = found["without"], found["with_logs"]
    won, lost, both, neither = OUTCOMES
    outcome = np.select([after & ~before, before & ~after, after], [won, lost, both], default=neither)
    panels = {kind: f"{KINDS[kind]} (n = {n})" for kind, n in found["kind"].value_counts().items()}
    order = {"kind": [*KINDS].index, "outcome": [*OUTCOMES].index}
    rows = found.assign(panel=found["kind"].map(panels), outcome=outcome)
    return rows.sort_values(["kind", "outcome"], key=lambda column: column.map(order[column.name]), kind="stable")


def _doubt(sure: pd.Series) -> pd.Series:
    return (-sure).clip(lower=_LEAST, upper=1.0).fillna(_NONE)
