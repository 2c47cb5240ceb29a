"""The gallery: `python -m lagkit.nightly.gallery EXECUTED`, a folder of executed notebooks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lagkit.nightly.gallery import pictures
from lagkit.nightly.gallery.copies import write_copies
from lagkit.nightly.gallery.executed import PLOTLY, Executed, find
from lagkit.nightly.gallery.pages import write_pages
from lagkit.util.cli import exit_code
from lagkit.util.errors import DataError
from lagkit.util.paths import at
from lagkit.util.terminal import tell


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pages, and the copies if asked; returns the exit code: 0, or 2 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m lagkit.nightly.gallery", description="Share executed notebooks.")
    parser.add_argument("executed", type=at, metavar="EXECUTED", help="folder of executed notebooks")
    parser.add_argument("--pages", type=at, metavar="DIR", help="where the HTML goes (default: EXECUTED)")
    parser.add_argument("--copies", type=at, metavar="DIR", help="write copies with pictures for GitHub there, too")
    parser.set_defaults(command=make)
    args = parser.parse_args(argv)
    return exit_code(args.command, args)


def make(args: argparse.Namespace) -> None:
    """Pages from the notebooks of a folder, and copies of them."""
    if args.copies and args.copies.resolve().is_relative_to(args.executed.resolve()):
        raise DataError(f"The copies in {args.copies} would be taken for executed notebooks: choose another folder.")
    executed = find(args.executed)
    images = draw(executed)
    previews = {name: found[0] for name, found in images.items() if found}
    if args.copies:
        tell(f"Copies: {write_copies(executed, args.copies, images)}")
    tell(f"Pages: {write_pages(executed, args.pages or args.executed, previews)}")


def draw(executed: Sequence[Executed]) -> dict[str, list[bytes]]:
    """PNGs of all figures, by the notebook's name; one browser draws them all."""
    found = iter(pictures.png([figure.data[PLOTLY] for one in executed for figure in one.figures]))
    return {one.name: [next(found) for _ in one.figures] for one in executed}


if __name__ == "__main__":
    sys.exit(main())
