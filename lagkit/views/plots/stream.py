"""A long stream of updates on a store under a cap: latencies, memory and size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views.plots.basic import COLOURS, _laid_out

_STEPS = {"search": "search", "read": "read and inject", "add": "add", "evict": "evict"}
_SIZES = {"blocks_mb": "blocks", "database_mb": "database", "wal_mb": "write-ahead log"}


def stream(result: Mapping[str, Any]) -> go.Figure:
    """The result of `benchmarks.stream`: medians and 95th percentiles of each step, memory, and what lies on disk."""
    table, sizes = pd.DataFrame(result["rows"]), result["sizes"]
    titles = ["milliseconds: median (line), 95% (dots)", "memory of the process, MB", "store on disk, MB"]
    figure = make_subplots(1, 3, horizontal_spacing=0.07, subplot_titles=titles)
    for colour, (step, name) in zip(COLOURS, _STEPS.items(), strict=False):
        line = {"color": colour}
        figure.add_scatter(x=table["updates"], y=table[step], name=name, legendgroup=step, line=line, row=1, col=1)
        dots = {"mode": "markers", "marker": {"color": colour, "size": 3}, "showlegend": False, "legendgroup": step}
        figure.add_scatter(x=table["updates"], y=table[f"{step}_p95"], name=f"{name}, 95%", **dots, row=1, col=1)
    memory = {"name": "memory", "showlegend": False, "line": {"color": "#444"}}
    figure.add_scatter(x=table["updates"], y=table["rss_mb"], **memory, row=1, col=2)
    for colour, (column, name) in zip(COLOURS[4:], _SIZES.items(), strict=False):
        figure.add_scatter(x=table["updates"], y=table[column], name=name, line={"color": colour}, row=1, col=3)
    cap = f"cap: {sizes['cap_mb']:,.0f} MB"
    figure.add_hline(y=sizes["cap_mb"], line={"dash": "dot", "color": "#444"}, annotation_text=cap, row=1, col=3)
    for col in (1, 2, 3):
        if sizes["binds"]:
            figure.add_vline(x=sizes["binds"], line={"dash": "dot", "color": "#888", "width": 1}, row=1, col=col)
        figure.update_xaxes(title_text="updates", row=1, col=col)
        figure.update_yaxes(rangemode="tozero", row=1, col=col)
    title = f"{sizes['updates']:,} updates of a store under a cap, which binds at the dotted line"
    return _laid_out(figure, title, height=460).update_layout(legend_y=-0.2, margin_b=90)
