"""Templates of outputs, and scripts that bring them to life; the gallery's pages have their own copy of each script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined


def _script(name: str) -> str:
    return f"<script>{(Path(__file__).parent / name).read_text(encoding='utf-8')}</script>"


SORT = _script("sort.js")  # sorts tables by the column whose head is pressed
TOKENS = _script("tokens.js")  # of `plot.tokens.view`
SCRIPTS = (SORT, TOKENS)


def macros(template: Path, **filters: Callable[..., Any]) -> Any:
    """The macros of a template, which escape all that they show."""
    pages = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters.update(filters)
    return pages.from_string(template.read_text(encoding="utf-8")).module
