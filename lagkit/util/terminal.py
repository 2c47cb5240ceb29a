"""Safe text for a terminal: text of data, models and errors cannot move the cursor, change colours or hide anything."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

# Control and format characters (escape sequences, bidirectional overrides, zero width), surrogates, line separators.
_ACTIVE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: object) -> str:
    r"""Text in one line whose control, format and line-break characters are spelled out, as `\x1b` and `\n`."""
    spelled = str(text)
    if spelled.isprintable():
        return spelled
    return "".join(_spelled(c) if unicodedata.category(c) in _ACTIVE else c for c in spelled)


def tell(text: str, file: TextIO | None = None) -> None:
    """Print text line by line, each `printable`, on standard output or `file`."""
    print("\n".join(map(printable, text.split("\n"))), file=file or sys.stdout, flush=True)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
