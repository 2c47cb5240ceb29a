"""`python -m tests.faults`: see the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from typer import Option

from lagkit.util import cli

HEAD = """# Faults

Faults injected on purpose into log stores, journals and experiments (`make faults`), each of a kind and a seed. After
each: the store opens or says why not, every committed log is there and right, damage is named, `prune` removes it, and
the store takes new logs. `tests/faults/` says what each kind does; `make test` injects 100 of them.

"""
TAIL = """
Kills are at a random line of lagkit's code or at a random moment. *Named, beyond repair*: pages of SQLite's own are
damaged, which `verify` or every use says; what can still be read is right. Of a write-ahead log that is torn, SQLite
keeps the commits before the tear: the files of later ones are named as orphans.
"""


def remade(rows: Path) -> str:
    """The page of the outcomes that `--page` has written beside it."""
    from tests.faults import harness

    outcomes = pd.read_parquet(rows).replace({np.nan: None}).to_dict("records")
    return HEAD + harness.page([harness.Outcome(**row) for row in outcomes]) + TAIL


app = cli.application("Inject faults and look at what they leave.")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 if anything broke, 2 (an error)."""
    return cli.call(app, "python -m tests.faults", words)


@app.command()
def inject(
    count: Annotated[int, Option(metavar="N")] = 100,
    seed: Annotated[int, Option(metavar="N", help="of the first fault of each kind")] = 0,
    kind: Annotated[str | None, Option(metavar="NAME", help="only this one")] = None,
    page: Annotated[Path | None, Option(metavar="FILE.md", help="for a table of them")] = None,
) -> int:
    """Inject faults, write the page, tell what broke."""
    os.environ.update(HF_HUB_OFFLINE="1", LAGKIT_PROGRESS="off")
    from tests.faults import harness

    faults = harness.plan(count, seed) if not kind else [(kind, seed + i) for i in range(count)]
    outcomes = []
    for outcome in harness.run(faults):
        outcomes.append(outcome)
        if outcome.broken:
            print(f"{outcome.kind}, seed {outcome.seed}: {outcome.broken}", file=sys.stderr, flush=True)
    print(harness.page(outcomes))
    if page:
        pd.DataFrame(map(asdict, outcomes)).to_parquet(page.with_suffix(".parquet"), compression="zstd")
        page.write_text(remade(page.with_suffix(".parquet")), encoding="utf-8")
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
