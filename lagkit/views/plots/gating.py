"""A figure of what a gate on confidence can see: each question's doubt with logs against that without them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import plain
from lagkit.views.plots.transfer import KINDS, OUTCOMES, _finished, told_outcome

_LEAST = 1e-7  # nats: a float32 model cannot doubt less without being certain
_NONE = 10.0  # where questions stand that were left without an answer: off the scale of those that were not
_TICKS = {1e-7: "10<sup>-7</sup>", 1e-5: "10<sup>-5</sup>", 1e-3: "10<sup>-3</sup>", 0.1: "0.1", _NONE: "none"}
_SHAPES = dict(zip(OUTCOMES, ("triangle-up", "x", "circle-open", "circle-open"), strict=True))


def doubts(outcomes: pd.DataFrame, title: str) -> go.Figure:
    """A point for each question, by its doubt (negative confidence) without logs and with them, and what became of it.

    There is a panel for each `kind` of logs; above the diagonal the model is less sure with logs, and a gate of margin
    0 does without them. outcomes: as `lagkit.studies.transfer.Transfer.outcomes` gives them, with the columns of
    `lagkit.studies.gating.confidences`; questions without a log are left out. Doubts below 1e-7 are drawn there.
    """
    found = outcomes.dropna(subset=["kind"])
    said = told_outcome(found)
    kinds = [kind for kind in KINDS if kind in set(found["kind"])]
    titles = [f"{KINDS[kind]} (n = {(found['kind'] == kind).sum()})" for kind in kinds]
    figure = make_subplots(1, len(kinds), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for number, kind in enumerate(kinds, 1):
        place = {"row": 1, "col": number}
        ends = [_LEAST, 1.0]
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            line={"color": "grey", "dash": "dot"},
            showlegend=False,
            hoverinfo="skip",
            **place,
        )
        for name, colour in OUTCOMES.items():
            rows = found[(found["kind"] == kind) & (said == name)]
            figure.add_scatter(
                x=_doubt(rows["sure_without"]),
                y=_doubt(rows["sure_with_logs"]),
                mode="markers",
                marker={"color": colour, "symbol": _SHAPES[name], "size": 8},
                name=name,
                legendgroup=name,
                showlegend=number == 1,
                text=[plain(id) for id in rows.index],
                hovertemplate="%{text}: %{x:.1e} without, %{y:.1e} with logs<extra></extra>",
                **place,
            )
        figure.update_xaxes(title_text="doubt without logs", **place)
    reach = [np.log10(_LEAST) - 0.4, np.log10(_NONE) + 0.4]
    axis = {"type": "log", "range": reach, "tickvals": list(_TICKS), "ticktext": list(_TICKS.values())}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_yaxes(title_text="doubt with logs (nats per token)", row=1, col=1)
    return _finished(figure, title, height=480)


def _doubt(sure: pd.Series) -> pd.Series:
    return (-sure).clip(lower=_LEAST, upper=1.0).fillna(_NONE)
