"""`lagkit gallery`: pages and copies of a folder of executed notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lagkit.nightly.gallery import pictures
from lagkit.nightly.gallery.copies import write_copies
from lagkit.nightly.gallery.executed import PLOTLY, Executed, find
from lagkit.nightly.gallery.pages import write_pages
from lagkit.util.errors import DataError
from lagkit.util.terminal import tell


def make(folder: Path, pages: Path, copies: Path | None) -> None:
    """Pages from the notebooks of a folder, and copies of them."""
    if copies and copies.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"The copies in {copies} would be taken for executed notebooks: choose another folder.")
    executed = find(folder)
    images = draw(executed)
    previews = {name: found[0] for name, found in images.items() if found}
    if copies:
        tell(f"Copies: {write_copies(executed, copies, images)}")
    tell(f"Pages: {write_pages(executed, pages, previews)}")


def draw(executed: Sequence[Executed]) -> dict[str, list[bytes]]:
    """PNGs of all figures, by the notebook's name; one browser draws them all."""
    found = iter(pictures.png([figure.data[PLOTLY] for one in executed for figure in one.figures]))
    return {one.name: [next(found) for _ in one.figures] for one in executed}
