"""A figure of what a planner decides: load a log's KV or compute it again, by place and log."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lagkit.views.plots.basic import _laid_out

_MOST = 3.0  # decades of gain at which the colours end


def ways(table: pd.DataFrame, title: str) -> go.Figure:
    """A cell for each place and log, coloured by the way that is sooner and labelled with how many times sooner it is.

    table: as `lagkit.logs.planner.decisions` gives it; cells that it lacks stay empty.
    """
    signed = np.log10(table["gain"]).where(table["way"] == "load", -np.log10(table["gain"]))
    label = table["way"] + "<br>" + table["gain"].map(_times)
    logs, places = list(dict.fromkeys(table["log"])), list(dict.fromkeys(table["place"]))
    wide = {
        name: table.assign(value=values).pivot(index="log", columns="place", values="value").reindex(logs)[places]
        for name, values in (("colour", signed), ("label", label), ("load", table["load_ms"]))
    }
    recompute = table.pivot(index="log", columns="place", values="recompute_ms").reindex(logs)[places]
    figure = go.Figure(
        go.Heatmap(
            x=places,
            y=logs,
            z=wide["colour"].clip(-_MOST, _MOST),
            text=wide["label"].fillna(""),
            texttemplate="%{text}",
            customdata=np.dstack([wide["load"], recompute]),
            hovertemplate="%{y}<br>%{x}<br>"
            "load %{customdata[0]:.3g} ms, recompute %{customdata[1]:.3g} ms<extra></extra>",
            colorscale=[[0, "#cc6677"], [0.5, "#f7f7f7"], [1, "#4477aa"]],
            zmin=-_MOST,
            zmax=_MOST,
            colorbar={
                "title": {"text": "sooner by<br> "},
                "tickvals": [-3, -2, -1, 0, 1, 2, 3],
                "ticktext": ["recompute 1000x", "100x", "10x", "equal", "10x", "100x", "load 1000x"],
            },
            hoverongaps=False,
            xgap=2,
            ygap=2,
        )
    )
    figure.update_xaxes(tickangle=-30, automargin=True, showgrid=False)
    figure.update_yaxes(autorange="reversed", automargin=True, ticksuffix=" ", showgrid=False)
    return _laid_out(figure, title, height=250 + 42 * len(logs))


def _times(gain: float) -> str:
    return f"{gain:.1f}x" if gain < 10 else f"{gain:,.0f}x"
