"""What a notebook found: the verdict under its title, and the details in a table that sorts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown, display, update_display

from lagkit.stats.wording import Finding, Told
from lagkit.util.markdown import literal
from lagkit.views.scripts import SORT

_HEADS = ("about", "verdict", "difference", "low", "high", "unit")
_LEFT = ' style="text-align: left"'
_LOOKS = (_LEFT, _LEFT, "", "", "", ' style="text-align: left; white-space: nowrap"')
_ID = "lagkit-verdict"
_placed: set[int] = set()  # kernels' shells that show a place for the verdict


def verdict() -> None:
    """Show the place under a notebook's title that `lag.conclude` fills with its verdict, also in batch runs."""
    if InteractiveShell.initialized():
        _placed.add(id(InteractiveShell.instance()))
        display(Markdown("> *The verdict stands here once the last cell has run.*"), display_id=_ID)


def say(sentences: Sequence[str]) -> Markdown:
    """Fill the place of `verdict` where there is one; returns what stands in it."""
    shown = Markdown("> **Verdict.** " + " ".join(map(literal, sentences)))
    if InteractiveShell.initialized() and id(InteractiveShell.instance()) in _placed:
        update_display(shown, display_id=_ID)
    return shown


class Details:
    """Findings to show: sentences in a list, and the differences that they tell in a table that sorts."""

    def __init__(self, findings: Sequence[str]) -> None:
        self.findings = findings

    @property
    def html(self) -> str:
        """The list and the table, in which tags and links are mere text."""
        items = "".join(f"<li>{_text(one)}</li>" for one in self.findings if not getattr(one, "rows", ()))
        rows = "".join(_row(row, one) for one in self.findings if isinstance(one, Finding) for row in one.rows)
        heads = "".join(f"<th{look}>{head}</th>" for head, look in zip(_HEADS, _LOOKS, strict=True))
        body = f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
        table = f'<table class="dataframe lagkit-sortable">{body}</table>'
        return f"<ul>{items}</ul>" * bool(items) + table * bool(rows)

    def _repr_html_(self) -> str:
        return self.html + SORT

    def __repr__(self) -> str:
        return "\n".join(f"- {finding}" for finding in self.findings)


def _row(row: Told, sentence: str) -> str:
    """A row of the table; under the pointer stands the whole sentence."""
    ends = (row.low, row.high)
    numbers = [format(number, row.digits) if number == number else "" for number in (row.mean, *ends)]
    cells = [_text(row.what), escape(row.verdict), *numbers, escape(row.unit)]
    told = "".join(f"<td{look}>{cell}</td>" for look, cell in zip(_LOOKS, cells, strict=True))
    return f'<tr title="{escape(sentence)}">{told}</tr>'


def _text(text: str) -> str:
    """Text as HTML, in which code in backticks stands as code and nothing else has a meaning."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
