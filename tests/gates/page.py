"""The table of planted faults and the gates that catch them, from its rows."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from lagkit.util.markdown import table

HEAD = """# Planted faults, and the gates that catch them

Each fault was planted into the code of a process that runs three notebooks of the nightly with 30 logs and 30 unseen
questions of the testbed (`make gates`; `tests/gates/faults.py` has them). The gates are those that
`--update-baselines` derives from the same run without a fault. The seed is the same, so answers are compared one by
one, and two of a variant may differ. **answers**: how many of {answers} are others than without the fault, in words,
right or wrong, or in rounds. Then how many gates of each notebook fail, of {gates} in all: 02 compares variants, 06
holds injected logs of the testbed's model against dense prefill, 10 does so for tiny models. A test of `make test-all`
fails if a fault fails no gate. Three more fail none and are left to tests of their functions: a scorer that takes
a shared word for a match, which changes no score of the testbed; padding that is attended to, which was tried before
there were gates on tokens read and on doubt; and query and document embeddings that are swapped, since the testbed's
embedder gives a text one vector in either role (`tests/logs/test_roles.py` plants that fault for one that does not).

"""
_NOTEBOOKS = {"02": "notebook 02", "06": "notebook 06", "10": "notebook 10"}


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the page beside its rows, a file of JSON with the same name."""
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    path.write_text(remade(path.with_suffix(".json")), encoding="utf-8")


def remade(rows: Path) -> str:
    """The page of the rows that `save` wrote."""
    found = json.loads(rows.read_text(encoding="utf-8"))
    lines = [[row["fault"], row["changed"], *_counts(row), _first(row)] for row in found]
    heads = ["fault", "answers", *_NOTEBOOKS.values(), "the first gate that fails"]
    return HEAD.format(**found[0]) + table(heads, lines) + "\n"


def _counts(row: dict[str, Any]) -> list[str]:
    """How many gates of each notebook failed."""
    found: defaultdict[str, int] = defaultdict(int)
    for name in row["failed"]:
        found[name[:2]] += 1
    return [str(found[number] or "") for number in _NOTEBOOKS]


def _first(row: dict[str, Any]) -> str:
    return f"`{row['failed'][0]}`" if row["failed"] else row["error"] or "**none**"
