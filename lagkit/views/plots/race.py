"""lagkit against another procedure: what each takes as a store grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out

SIDES = {"lagkit": COLOURS[1], "authors": COLOURS[0]}
# Column -> title, and the factor from a result's unit to that of the title.
PANELS = {
    "questions_per_s": ("questions a second", 1.0),
    "first_token_s": ("first token, ms", 1e3),
    "start_s": ("start, until the first hits, ms", 1e3),
    "peak_mb": ("peak memory, MB", 1.0),
}
_MARKS = (("solid", "circle"), ("dash", "square"), ("dot", "diamond"), ("dashdot", "triangle-up"))


def rows(results: Mapping[str, Any]) -> pd.DataFrame:
    """The results of `benchmarks.race`: a row for each workload, number of logs and side; a column for each measure.

    `speedup`, `same_answers`, `same_responses` and `questions` are of both sides together.
    """
    both = ("speedup", "same_answers", "same_responses", "questions")
    return pd.DataFrame(
        [
            {
                **{"workload": name, "dtype": found["dtype"], "logs": int(logs), "side": side},
                **{key: row[key] for key in both},
                **row[side],
            }
            for name, found in results["workloads"].items()
            for logs, row in found["sizes"].items()
            for side in SIDES
        ]
    )


def race(table: pd.DataFrame, title: str) -> go.Figure:
    """A panel for each measure over the number of logs, both axes logarithmic; a dash and a mark for each workload.

    table: as `rows` gives it.
    """
    figure = make_subplots(
        2, 2, horizontal_spacing=0.1, vertical_spacing=0.14, subplot_titles=[said for said, _ in PANELS.values()]
    )
    workloads = list(dict.fromkeys(table["workload"]))
    for (dash, symbol), workload in zip(_MARKS, workloads, strict=False):
        for side, colour in SIDES.items():
            part = table[(table["workload"] == workload) & (table["side"] == side)].sort_values("logs")
            for place, (column, (_, factor)) in enumerate(PANELS.items()):
                figure.add_scatter(
                    x=part["logs"],
                    y=factor * part[column],
                    mode="lines+markers",
                    name=f"{side}, {workload}",
                    legendgroup=f"{side}, {workload}",
                    showlegend=place == 0,
                    line={"color": colour, "dash": dash},
                    marker={"symbol": symbol, "size": 8},
                    hovertemplate=f"{side}, {workload}, %{{x:,}} logs: %{{y:,.3g}}<extra></extra>",
                    row=1 + place // 2,
                    col=1 + place % 2,
                )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", dtick=1)
    for col in (1, 2):
        figure.update_xaxes(title_text="logs", row=2, col=col)
    return _laid_out(figure, title, height=720).update_layout(legend={"y": -0.1})
