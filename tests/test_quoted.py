"""Intervals that README and docs quote are those of results in the repository: a notebook, a page or a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUOTING = (
    "README.md",
    "docs/findings.md",
    "docs/paper.md",
    "docs/testbed.md",
    "docs/variants.md",
    "docs/speed.md",
    "data/README.md",
)
_NUMBER = r"[-+\u2212]?\d+(?:\.\d+)?(?:e-?\d+)?"
INTERVAL = re.compile(rf"({_NUMBER})%?\s*\[({_NUMBER})%?,\s*({_NUMBER})%?\]")

Numbers = tuple[float, float, float]


def intervals(text: str) -> Iterator[tuple[str, ...]]:
    """Mean and ends of each interval in a text, as words without signs, the end nearer to zero first."""
    for found in INTERVAL.finditer(text):
        mean, *ends = (number.lstrip("+-\u2212") for number in found.groups())
        yield mean, *sorted(ends, key=float)


@cache
def measured() -> set[Numbers]:
    """All intervals of the gallery's notebooks and of the pages in docs/results."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "results").rglob("*.md"))]
    for path in sorted((ROOT / "docs" / "gallery").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for data in (output.get("data", {}) for output in cell.get("outputs", [])):
                kinds = ("text/plain", "text/markdown", "text/html")
                texts += [re.sub("<[^>]+>", " ", "".join(data[kind])) for kind in kinds if kind in data]
    return {tuple(map(float, found)) for text in texts for found in intervals(text)}


def unmeasured(text: str) -> list[str]:
    """The intervals of a text that no result gives, when it is rounded to their digits."""
    return [
        " ".join(quoted)
        for quoted in intervals(text)
        if not any(
            all(
                abs(own - float(number)) <= 0.51 * 10 ** -_decimals(number)
                for own, number in zip(one, quoted, strict=True)
            )
            for one in measured()
        )
    ]


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])


@pytest.mark.parametrize("name", QUOTING)
def test_quoted_intervals_were_measured(name):
    assert unmeasured((ROOT / name).read_text(encoding="utf-8")) == []


def test_an_interval_that_nobody_measured_is_found():
    assert unmeasured("It gains +15.8 [+12.7, +99.9] points, 3% [2, 2001].") == ["15.8 12.7 99.9", "3 2 2001"]
