"""Scripts that bring outputs to life wherever a notebook is shown; the gallery's pages carry their own copy of each."""

from __future__ import annotations

from pathlib import Path


def _script(name: str) -> str:
    return f"<script>{(Path(__file__).parent / name).read_text(encoding='utf-8')}</script>"


SORT = _script("sort.js")  # sorts tables by the column whose head is pressed
TOKENS = _script("tokens.js")  # of `plot.tokens.view`
SCRIPTS = (SORT, TOKENS)
