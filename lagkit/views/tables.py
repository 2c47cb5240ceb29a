"""DataFrames as tables to read, each column in its own form, and as flat numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape

import pandas as pd
from pandas.io.formats.style import Styler

from lagkit.stats.metrics import SCORES, apart
from lagkit.stats.wording import interval
from lagkit.stats.wording import number as number
from lagkit.views.findings import verdict as verdict

_Form = str | Callable[[float], str]
_FORMATS: dict[str, _Form] = {
    **dict.fromkeys((*SCORES, "abstention", "agreement", "same"), "{:.1%}"),
    **dict.fromkeys(("right", "low", "high", "share", "last"), "{:.1%}"),
    "rounds": "{:.2f}",
    "seconds": "{:.3f}",
    **dict.fromkeys(("prefilled", "injected", "generated", "tokens", "bytes", "text_bytes"), "{:,.0f}"),
    "score": "{:.2f}",
    "cost": "{:.3g}",
    "kl": partial(number, digits=2),
}


def use_numbers() -> None:
    """Have all tables of a notebook show `number` and whole texts, those that pandas shows by itself among them."""
    pd.set_option("display.max_colwidth", None)
    pd.set_option("display.float_format", number)
    pd.set_option("styler.format.na_rep", "")
    pd.set_option("styler.format.precision", 4)


def shown(frame: pd.DataFrame, caption: str = "") -> Styler:
    """The table with each column in the form of its name; text is escaped and stands left, missing values are empty.

    F1 is left out where it is EM throughout.
    """
    if {"em", "f1"} <= {*frame.columns} and frame["em"].equals(frame["f1"]):
        frame = frame.drop(columns="f1")
    forms: dict[str, _Form] = dict.fromkeys(frame.select_dtypes("integer"), "{:,}")
    forms |= {name: _FORMATS.get(name, number) for name in frame.select_dtypes("floating")}
    words = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    style = frame.style.format(forms, na_rep="", escape="html")
    style = style.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    style = style.set_properties(subset=words, **{"text-align": "left"})
    style = style.apply_index(lambda heads: ["text-align: left" if head in words else "" for head in heads], axis=1)
    return style.set_caption(escape(caption)) if caption else style


def intervals(differences: pd.DataFrame) -> pd.DataFrame:
    """Differences (index: ..., metric) as text with their intervals, a column for each metric; scores in points."""
    table = apart(differences)
    # pandas names the columns of text wrongly where a level holds a metric that no row has, such as F1 left out.
    index = table.index.remove_unused_levels()
    told = pd.Series([interval(row, key[-1]) for key, row in table.iterrows()], index)
    return told.unstack("metric", sort=False).rename_axis(columns=None)


def flat(table: pd.DataFrame | pd.Series, name: str = "{column}.{key}") -> dict[str, float]:
    """The numbers of a table by flat names, for `metrics.json`.

    name: `{column}` stands for a number's column, `{key}` for its row, whose levels are joined by dots.
    """
    columns = table.to_frame() if isinstance(table, pd.Series) else table
    labels = [key if isinstance(key, tuple) else (key,) for key in columns.index]
    keys = [".".join(map(str, label)).replace(" ", "_") for label in labels]
    rows = zip(keys, columns.to_dict("records"), strict=True)
    return {name.format(column=column, key=key): value for key, row in rows for column, value in row.items()}
