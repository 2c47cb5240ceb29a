"""Figures of the divergence from dense prefill: by the distance that a log was moved, and by its place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from lagkit.views.plots.basic import FLOOR, POWERS, How, beside, faceted, plain

_POWERS: How = {**POWERS, "dtick": 2}


def by_shift(table: pd.DataFrame, measure: str, title: str, y: str, *, log: bool = False) -> go.Figure:
    """`measure` against the shift, at even distances: a panel for each dtype (rows) and place (columns).

    A colour for each `variant`, of which the first is the reference, a dash for each `content`; cases are averaged.
    `log`: a logarithmic axis, on which values below `FLOOR` are drawn at it.
    """
    keys = ["dtype", "place", "variant", "content", "shift"]
    means = table.groupby(keys, sort=False)[measure].mean().reset_index().sort_values("shift", kind="stable")
    means[measure] = means[measure].clip(lower=FLOOR if log else None)
    means = means.assign(panel=means["dtype"] + ", " + means["place"], content=means["content"] + " log")
    means["shift"] = means["shift"].map("{:,}".format)
    rows, columns = table["dtype"].nunique(), table["place"].nunique()
    axes: How = {"x": "shift", "y": measure, "color": "variant", "line_dash": "content", "facet_col": "panel"}
    space: How = {"facet_col_wrap": columns, "facet_row_spacing": 0.3 / rows, "facet_col_spacing": 0.05}
    labels = {"shift": "shift in tokens", measure: y}
    caption = (
        "Means over the questions, by how far a log was moved. The broad line is the reference: dense prefill, moved."
    )
    caption += f" Below {FLOOR:.0e}, values are drawn there." if log else ""
    figure = faceted(px.line, means, title, 190 + 230 * rows, caption, labels=labels, **axes, **space)
    reference = plain(table["variant"].iloc[0])
    figure.for_each_trace(lambda line: line.update(line_width=7 if line.name.startswith(f"{reference}, ") else 2))
    figure.update_xaxes(type="category", showticklabels=True)
    return figure.update_yaxes(_POWERS if log else {})


def by_cell(table: pd.DataFrame, title: str, *, panel: str, x: str, by: str) -> go.Figure:
    """The spread of `kl` over questions on a logarithmic axis: a box for each value of `panel`, `x` and `by`.

    table: a row per question and cell. Values below `FLOOR` are drawn at it.
    """
    named = {column: f"{column.replace('_', ' ')}: " + table[column].astype(str) for column in (panel, by)}
    places, groups = list(dict.fromkeys(table[x])), list(dict.fromkeys(named[by]))
    # Plotly sets the boxes of all panels side by side, beside their labels; so each gets its place here.
    at = table[x].map(places.index) + 0.8 / len(groups) * beside(named[by], groups)
    rows = table.assign(**named, kl=table["kl"].clip(lower=FLOOR), at=at)
    spread: How = {"x": "at", "y": "kl", "color": by, "facet_col": panel, "labels": {"kl": "KL (nats)", "at": x}}
    caption = "A dot for each question; boxes reach over the middle half. The lower, the closer to dense prefill."
    figure = faceted(px.box, rows, title, 440, caption, points="all", boxmode="overlay", **spread)
    figure.update_traces(marker_size=3, jitter=0.6, pointpos=0, width=0.6 / len(groups), hoverinfo="y+name")
    ticks = {"tickvals": list(range(len(places))), "ticktext": [*map(plain, places)]}
    figure.update_xaxes(ticks, range=[-0.6, len(places) - 0.4], showgrid=False)
    # Plotly leaves boxes at places of their own out of an axis that it chooses.
    ends = np.log10(rows["kl"].agg(["min", "max"]))
    return figure.update_yaxes(_POWERS, range=[ends["min"] - 0.3, ends["max"] + 0.3])
