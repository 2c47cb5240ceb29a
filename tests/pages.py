"""`python -m tests.pages`: every page of docs/results once more from its committed rows, without measuring anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import page as scale
from lagkit.runs import report
from lagkit.studies import support_page
from tests.faults import __main__ as faults
from tests.gates import page as gates
from tools import choice, closed, competing, forms, pilot, real
from tools.codec import page as codec
from tools.sink import page as sink
from tools.testbed import carry_page
from tools.testbed.page import markdown
from tools.testbed.study import Study

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RUNS = (RESULTS / "wikihop-smollm2", *(RESULTS / "real" / name for name in ("own", "wikihop", "mmlupro")))

PAGES: dict[str, Callable[[], str]] = {
    "scale.md": lambda: scale.markdown(scale.RESULTS),
    "testbed.md": lambda: markdown(Study.load(RESULTS / "testbed")),
    "support.md": lambda: support_page.remade(RESULTS / "support.json"),
    "competing.md": lambda: competing.remade(RESULTS / "competing"),
    "codec.md": lambda: codec.remade(RESULTS / "codec.json"),
    "carry.md": lambda: carry_page.markdown(RESULTS / "carry.parquet"),
    "carried.md": lambda: carry_page.sites(RESULTS / "carried.parquet"),
    "faults.md": lambda: faults.remade(RESULTS / "faults.parquet"),
    "gates.md": lambda: gates.remade(RESULTS / "gates.json"),
    "sink.md": lambda: sink.remade(RESULTS / "sink"),
    "choice.md": lambda: choice.remade(RESULTS / "choice"),
    "forms.md": lambda: forms.remade(RESULTS / "forms"),
    "real/closed.md": lambda: closed.remade(RESULTS / "real" / "closed"),
    "real/study.md": lambda: real.remade(RESULTS / "real" / "own"),
    "real/pilot.md": lambda: pilot.remade(RESULTS / "real" / "pilot"),
}


def remade() -> dict[Path, str]:
    """Each page and table of docs/results as its rows make it now."""
    found = {RESULTS / name: make() for name, make in PAGES.items()}
    for run in RUNS:
        with TemporaryDirectory() as folder:
            report.remake(run, folder)
            found |= {run / path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
    return found


def main() -> int:
    """Write those that have changed, and name them."""
    for path, text in remade().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(RESULTS.parents[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
