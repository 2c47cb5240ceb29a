"""`python -m tests.faults`: see the package."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

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


def main() -> int:
    """Inject, write the page, tell what broke; 1 if anything did."""
    parser = argparse.ArgumentParser(prog="tests.faults", description="Inject faults and look at what they leave.")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first fault of each kind")
    parser.add_argument("--kind", help="only this one")
    parser.add_argument("--page", type=Path, help="write a table here")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", LAGKIT_PROGRESS="off")
    from tests.faults import harness

    faults = (
        harness.plan(args.count, args.seed)
        if not args.kind
        else [(args.kind, args.seed + i) for i in range(args.count)]
    )
    outcomes = []
    for outcome in harness.run(faults):
        outcomes.append(outcome)
        if outcome.broken:
            print(f"{outcome.kind}, seed {outcome.seed}: {outcome.broken}", file=sys.stderr, flush=True)
    print(harness.page(outcomes))
    if args.page:
        pd.DataFrame(map(asdict, outcomes)).to_parquet(args.page.with_suffix(".parquet"), compression="zstd")
        args.page.write_text(remade(args.page.with_suffix(".parquet")), encoding="utf-8")
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
