"""Figures of what `benchmarks/` measured: a race, the planner's decisions, search, and a long stream of updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views import palette
from lagkit.views.plots.basic import POWERS, How, faceted, laid_out, long

SIDES = {"lagkit": palette.KV, "authors": palette.TEXT}
# Column -> title.
_RACE = {
    "questions_per_s": "questions a second",
    "first_token_ms": "first token, ms",
    "start_ms": "start, until the first hits, ms",
    "peak_mb": "peak memory, MB",
}
_SEARCH = {
    "ms": "one query, ms",
    "recall": "recall of the three nearest",
    "build_s": "building, s",
    "memory_mb": "memory, MB",
}
_STEPS = {"search": "search", "read": "read and inject", "add": "add", "evict": "evict"}
_SIZES = {"blocks_mb": "blocks", "database_mb": "database", "wal_mb": "write-ahead log"}
ENOUGH = 0.99  # recall of the three nearest logs
_MOST = 3.0  # decades of gain at which the colours end
_TWO_ROWS: How = {"facet_col": "panel", "facet_col_wrap": 2, "facet_col_spacing": 0.1, "facet_row_spacing": 0.14}


def race_rows(results: Mapping[str, Any]) -> pd.DataFrame:
    """The results of `benchmarks.race`: a row for each workload, number of logs and side; a column for each measure.

    `speedup`, `same_answers`, `same_responses` and `questions` are of both sides together. `slowest`, `fastest`:
    questions a second, of the side's runs.
    """
    about = ("model", "dtype", "batch")
    both = ("speedup", "same_answers", "same_responses", "questions")
    return pd.DataFrame(
        {"workload": name, "logs": int(logs), "side": side}
        | {key: found[key] for key in about}
        | {key: row[key] for key in both}
        | {"slowest": min(_rates(row, side)), "fastest": max(_rates(row, side))}
        | row[side]
        for name, found in results["workloads"].items()
        for logs, row in found["sizes"].items()
        for side in SIDES
    )


def _rates(row: Mapping[str, Any], side: str) -> list[float]:
    return [run["questions_per_s"] for run in row["runs"][side]]


def race(table: pd.DataFrame, title: str) -> go.Figure:
    """A panel for each measure of `race_rows` over the number of logs; a dash and a mark for each workload."""
    measured = table.assign(first_token_ms=1000 * table["first_token_s"], start_ms=1000 * table["start_s"])
    rows = long(measured.sort_values("logs", kind="stable"), _RACE, ["side", "workload", "logs"])
    how: How = {"x": "logs", "y": "value", "color": "side", "line_dash": "workload", "symbol": "workload"}
    caption = "Both axes are logarithmic. A dash and a mark for each workload."
    figure = faceted(px.line, rows, title, 720, caption, own="y", color_discrete_map=SIDES, **how, **_TWO_ROWS)
    figure.update_traces(marker_size=8).update_xaxes(POWERS, showticklabels=True)
    return figure.update_yaxes(POWERS, title_text=None)


def good_enough(table: pd.DataFrame) -> pd.DataFrame:
    """The fastest row of `benchmarks.search` that finds `ENOUGH`, or that which finds most, for each index and size."""
    rank = table.assign(_enough=table["recall"].clip(upper=ENOUGH))
    best = rank.sort_values(["_enough", "ms"], ascending=[False, True]).drop_duplicates(["index", "logs"])
    return best.sort_values(["index", "logs"])[table.columns].reset_index(drop=True)


def search(table: pd.DataFrame, title: str) -> go.Figure:
    """A line for each index over the number of logs, a panel for each measure. table: as `good_enough` gives it."""
    rows = long(table.assign(reached=table["recall"]).sort_values("logs"), _SEARCH, ["index", "logs", "reached"])
    order = list(dict.fromkeys(table["index"]))
    how: How = {"x": "logs", "y": "value", "color": "index", "line_dash": "index", "custom_data": ["reached"]}
    how |= {"line_dash_map": palette.dashes(order), "category_orders": {"index": order}}
    caption = (
        f"Each index with the least effort that finds {ENOUGH:.0%}; hollow marks find fewer. Axes are logarithmic."
    )
    figure = faceted(px.line, rows, title, 740, caption, own="y", **how, **_TWO_ROWS)
    for line in figure.data:
        shapes = ["circle" if found >= ENOUGH else "circle-open" for found in line.customdata[:, 0]]
        line.marker = {"color": line.line.color, "size": 9, "symbol": shapes}
    figure.update_xaxes(POWERS, showticklabels=True).update_yaxes(POWERS, title_text=None)
    return figure.update_yaxes(type="linear", dtick=None, row=2, col=2)  # of the recall; rows count from the bottom


def planner(table: pd.DataFrame, title: str) -> go.Figure:
    """A cell for each place and log, coloured by the faster way. table: as `lagkit.logs.planner.decisions` gives it."""
    signed = np.log10(table["gain"]).where(table["way"] == "load", -np.log10(table["gain"]))
    times = table["gain"].map(lambda gain: f"{gain:.1f}x" if gain < 10 else f"{gain:,.0f}x")
    cells = table.assign(colour=signed.clip(-_MOST, _MOST), label=table["way"] + "<br>" + times)
    logs, places = list(dict.fromkeys(table["log"])), list(dict.fromkeys(table["place"]))
    wide = cells.pivot(index="log", columns="place").reindex(logs)
    map_ = go.Heatmap(
        x=places,
        y=logs,
        z=wide["colour"][places],
        text=wide["label"][places].fillna(""),
        texttemplate="%{text}",
        customdata=np.dstack([wide["load_ms"][places], wide["recompute_ms"][places]]),
        hovertemplate="%{y}<br>%{x}<br>load %{customdata[0]:.3g} ms, recompute %{customdata[1]:.3g} ms<extra></extra>",
        colorscale=[[0, palette.TEXT], [0.5, "#f7f7f7"], [1, palette.KV]],
        zmin=-_MOST,
        zmax=_MOST,
        colorbar={
            "tickvals": [-3, -2, -1, 0, 1, 2, 3],
            "ticktext": ["recompute 1000x", "100x", "10x", "equal", "10x", "100x", "load 1000x"],
        },
        hoverongaps=False,
        xgap=2,
        ygap=2,
    )
    figure = go.Figure(map_).update_xaxes(tickangle=-30, automargin=True, showgrid=False)
    figure.update_yaxes(autorange="reversed", automargin=True, ticksuffix=" ", showgrid=False)
    caption = "Blue: loading is faster. Orange: computing again is. In each cell, how many times faster."
    return laid_out(figure, title, 250 + 42 * len(logs), caption)


def stream(result: Mapping[str, Any]) -> go.Figure:
    """The result of `benchmarks.stream`: medians and 95th percentiles of each step, memory, and sizes on disk."""
    table, sizes = pd.DataFrame(result["rows"]), result["sizes"]
    titles = ["milliseconds: median (line), 95% (dots)", "memory of the process, MB", "store on disk, MB"]
    figure = make_subplots(1, 3, horizontal_spacing=0.07, subplot_titles=titles)

    def line(column: str, name: str, colour: str, col: int, **how: Any) -> None:
        look = {"line_color": colour, "legendgroup": name, **how}
        figure.add_scatter(x=table["updates"], y=table[column], name=name, **look, row=1, col=col)

    for colour, (step, name) in zip(palette.SERIES, _STEPS.items(), strict=False):
        line(step, name, colour, 1)
        line(f"{step}_p95", name, colour, 1, mode="markers", marker_size=3, showlegend=False)
    line("rss_mb", "memory", palette.NEUTRAL, 2, showlegend=False)
    for colour, (column, name) in zip(palette.SERIES[4:], _SIZES.items(), strict=False):
        line(column, name, colour, 3)
    cap = f"cap: {sizes['cap_mb']:,.0f} MB"
    dotted = {"dash": "dot", "color": palette.NEUTRAL}
    figure.add_hline(y=sizes["cap_mb"], line=dotted, annotation_text=cap, row=1, col=3)
    if sizes["binds"]:
        figure.add_vline(x=sizes["binds"], line=dotted | {"width": 1})
    figure.update_xaxes(title_text="updates").update_yaxes(rangemode="tozero")
    title = f"{sizes['updates']:,} updates of a store under a cap, which binds at the dotted line"
    caption = "Medians over stretches of the stream; dots are 95th percentiles. Flat lines: it does not slow down."
    return laid_out(figure, title, 460, caption)
