"""Markdown: text that stays text, tables, and pages from templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

# A pair of single backticks; longer runs of them begin what a renderer may end elsewhere.
_CODE = re.compile(r"((?<!`)`(?!`)[^`]+(?<!`)`(?!`))")
# What opens HTML, an entity, a link, the definition of one, an address, a formula, code, or an escape.
_ACTIVE = re.compile(r"<|&(?=#?\w+;)|(?<=\])[(:\[]|(?<=:)//|(?<=(?i:www))\.(?=\S)|(?<=[\w.+-])@(?=[\w-]+\.)|[$`\\]")
# nbconvert takes `\\(` for the start of a formula; GitHub finds mail addresses in what escapes and entities stand for.
_INSTEAD = {"<": "&lt;", "&": "&amp;", "\\": "&#92;", "@": "@<!-- -->"}
_AT_START = re.compile(r"^(\d*)([-+*#>.)](?=\s|$)|([-*_])(?=(?:\s|\3)*$)|#|>|~|\[|=)")

Columns = Mapping[str, tuple[str, str | Callable[[Any], str]]]  # column -> its heading, and a format or a function


def page(template: Path, **parts: str) -> str:
    """A page from a Jinja template; `parts` are Markdown, and stand where the template names them."""
    pages = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return pages.from_string(template.read_text(encoding="utf-8")).render(parts)


def framed(frame: pd.DataFrame, columns: Columns, head: str) -> str:
    """A table of a frame, its index under `head`; missing values are empty. `DataFrame.to_markdown` escapes nothing."""

    def shown(value: Any, form: str | Callable[[Any], str]) -> str:
        return "" if pd.isna(value) else form(value) if callable(form) else format(value, form)

    cells = {name: [shown(value, form) for value in frame[name]] for name, (_, form) in columns.items()}
    rows = zip(frame.index, *cells.values(), strict=True)
    return table([head, *(heading for heading, _ in columns.values())], rows)


def table(heads: Iterable[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; what cells hold is text, but for code in backticks."""
    lines = [[literal(cell).replace("|", "\\|") for cell in line] for line in (list(heads), *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def literal(text: Any) -> str:
    """Text in one line of Markdown in which nothing but `code` has a meaning: no HTML, link, picture, list or formula.

    nbconvert, for one, makes pages of Markdown in which scripts run, and so do links of `javascript:`.
    """
    pieces = _CODE.split(" ".join(str(text).split()))  # what is code has odd numbers
    pieces[::2] = [_ACTIVE.sub(_escaped, piece) for piece in pieces[::2]]
    pieces[0] = _AT_START.sub(r"\1\\\2", pieces[0])
    return "".join(pieces)


def _escaped(active: re.Match[str]) -> str:
    return _INSTEAD.get(active[0], f"\\{active[0]}")
