"""Figures of streams: scores while the tasks come, and what the stores grow to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lagkit.views import palette
from lagkit.views.plots.basic import BARS_Y, How, faceted, interval_bars, laid_out, plain, scaled, within

_REFERENCES = {"no_logs": (palette.NONE, "dash"), "static": (palette.UNSEEN, "dot")}
_DODGE = 0.09  # of a part of the stream: bars that would meet stay apart


def prequential(curves: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """A panel per title of `curves`, a line per condition over the parts of a stream.

    curves: as `prequential.curve` gives them; scores in points of 100 unless the panel's title says rounds. References
    are drawn without bars.
    """
    kept = {panel: curve if panel.startswith("rounds") else within(curve) for panel, curve in curves.items()}
    rows = pd.concat(kept, names=["panel"]).reset_index("panel").reset_index(drop=True)
    rows = scaled(rows, rows["panel"].str.startswith("rounds").map({True: 1, False: 100}))
    bare = rows["condition"].isin(_REFERENCES)
    online = list(rows.loc[~bare, "condition"].unique())
    place = rows["condition"].map({name: at - (len(online) - 1) / 2 for at, name in enumerate(online)}).fillna(0)
    rows["x"] = (rows["first"] - 1 + rows["last"]) / 2 + _DODGE * place * (rows["last"] - rows["first"] + 1)
    rows[["up", "down"]] = rows[["up", "down"]].mask(bare)
    spread: How = {
        "x": "x",
        "y": "mean",
        "color": "condition",
        "line_dash": "condition",
        "facet_col": "panel",
        **BARS_Y,
    }
    spread |= {"facet_col_spacing": 0.08, "markers": True, "hover_data": ["first", "last"]}
    look: How = {"color_discrete_map": _colours(rows["condition"]), "labels": {"x": "tasks so far"}}
    look["line_dash_map"] = dict.fromkeys(map(plain, online), "solid") | {n: d for n, (_, d) in _REFERENCES.items()}
    caption = "Means over each part of the stream, with 95% intervals; the references, which learn nothing, have none."
    figure = faceted(px.line, rows, title, 480, caption, own="y", **spread, **look)
    bare = {palette.readable(name) for name in _REFERENCES}
    figure.for_each_trace(lambda line: line.update(mode="lines") if line.name in bare else None)
    return figure.update_xaxes(range=[0, 1.04 * rows["last"].max()]).update_yaxes(title_text=None)


def stores(results: pd.DataFrame, ends: pd.DataFrame, axes: Sequence[str], title: str) -> go.Figure:
    """Left: logs in the store after each task, means over orders. Right: a score against the size in the end.

    results: as `online.Online.results` gives them. ends: a row per condition and the static store, with `bytes`, and
    `mean`, `low`, `high` of the score as shares. axes: the titles of both vertical axes.
    """
    figure, colours = make_subplots(1, 2, horizontal_spacing=0.1), _colours(ends.index)
    own = scaled(within(ends), 100)
    for condition, line in results.groupby(["condition", "place"], sort=False)["logs"].mean().groupby(level=0):
        look = {"mode": "lines", "line_color": colours[plain(condition)], "showlegend": False}
        figure.add_scatter(x=line.index.get_level_values("place"), y=line, name=plain(condition), **look, row=1, col=1)
    for name in ends.index:
        row = own.loc[[name]]
        figure.add_scatter(
            x=row["bytes"] / 1e6,
            y=row["mean"],
            error_y=interval_bars(row),
            mode="markers",
            marker={"color": colours[plain(name)], "size": 11},
            name=plain(name),
            hovertemplate="%{x:.2f} MB: %{y:.1f}",
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="tasks so far", range=[0, 1.04 * results["place"].max()], col=1)
    figure.update_xaxes(title_text="MB in the end", rangemode="tozero", col=2)
    for column, name in enumerate(axes, 1):
        figure.update_yaxes(title_text=name, col=column)
    caption = "Left: logs in the store after each task. Right: the score over the size in the end, with 95% intervals."
    return laid_out(figure, title, 460, caption)


def _colours(conditions: Iterable[str]) -> dict[str, str]:
    online = [plain(name) for name in dict.fromkeys(conditions) if name not in _REFERENCES]
    return dict(zip(online, palette.SERIES, strict=False)) | {name: colour for name, (colour, _) in _REFERENCES.items()}
