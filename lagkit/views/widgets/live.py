"""A table of logs and a map of them as parts to press in JupyterLab, each with a script of its own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import anywidget
import pandas as pd
import traitlets

from lagkit.logs.listing import JUDGED, Column, Order
from lagkit.views import palette
from lagkit.views.widgets.logs import COLUMNS, short, texts

_LOOKS = {"cosine": "number", "answer": "wide", "right": "short", "rounds": "number", "bytes": "number"}


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


class LogTable(anywidget.AnyWidget):
    """Rows of logs: a press on a head asks for an `order`, a press on a row or an arrow key is `chosen`."""

    _esm, _css = _text("table.js"), _text("table.css")
    columns: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    rows: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    order: traitlets.List[Any] = traitlets.List(default_value=["added", False], minlen=2, maxlen=2).tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)
    empty = traitlets.Unicode().tag(sync=True)

    @property
    def wanted(self) -> Order:
        """The order that was asked for."""
        by, down = self.order
        return Order(by if by in get_args(Column) else "added", bool(down))

    def show(self, table: pd.DataFrame, chosen: str | None, empty: str) -> None:
        """List the rows of a `search_table`; `empty` is said where there are none."""
        shown, rows = texts(table)
        heads = [("added" if name == "cosine" else name, name) for name in shown]
        with self.hold_sync():
            self.columns = [[by, COLUMNS[name], _LOOKS.get(name, "")] for by, name in heads]
            self.rows = [[str(log), *row] for log, row in zip(table.index, rows, strict=True)]
            self.chosen, self.empty = chosen or "", empty


class LogMap(anywidget.AnyWidget):
    """A map of logs: a press on a point is `chosen`, a line around some is the `lasso`; not `found` ones are faint."""

    _esm, _css = _text("map.js"), _text("map.css")
    points: traitlets.List[list[Any]] = traitlets.List().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    inks = traitlets.Dict(default_value={kind: palette.colour(kind) for kind in JUDGED.values()}).tag(sync=True)
    found: traitlets.List[str] = traitlets.List().tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)
    lasso: traitlets.List[str] = traitlets.List().tag(sync=True)

    def show(self, table: pd.DataFrame, title: str) -> None:
        """Draw the logs of a table of `placed`."""
        points: list[list[Any]] = []
        for log, x, y, right, question, answer in table[["x", "y", "right", "question", "answer"]].itertuples():
            told = f"{short(question)} Answered: {short(answer or 'nothing')} ({right})"
            points.append([log, x, y, right, told])
        with self.hold_sync():
            self.title, self.points = title, points

    def has(self, logs: Collection[str]) -> bool:
        """Whether all these logs are drawn."""
        return {*logs} <= {point[0] for point in self.points}

    def mark(self, found: Collection[str]) -> None:
        """Show which logs are listed."""
        here = {*found}
        self.found = [point[0] for point in self.points if point[0] in here]
