"""`python -m tests.gates`: see the package."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def main() -> int:
    """Plant the faults, write the page; 1 if one of them fails no gate."""
    parser = argparse.ArgumentParser(prog="tests.gates", description="Plant faults, and see which gates fail.")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="write the table here, and its rows beside it")
    parser.add_argument("--fault", action="append", metavar="WORDS", help="only those whose name holds these words")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", LAGKIT_PROGRESS="off", OMP_NUM_THREADS="1")
    from tests.gates import harness, page
    from tests.gates.faults import FAULTS

    names = [name for name in FAULTS if not args.fault or any(words in name for words in args.fault)]
    rows = []
    with TemporaryDirectory() as folder:
        for row in harness.measure(Path(folder), names):
            rows.append(row)
            print(f"{row['fault']}: {len(row['failed'])} of {row['gates']} gates fail {row['error']}", flush=True)
    if args.page:
        page.save(args.page, rows)
    return int(any(not row["failed"] and not row["error"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
