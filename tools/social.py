"""The picture that GitHub shows beside a link to the repository: `python -m tools.social`.

It is made of a figure of the gallery, and has to be uploaded by hand (CONTRIBUTING.md says where).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lagkit.nightly.gallery import Executed
from lagkit.nightly.pages import PLOTLY
from lagkit.util.files import write
from lagkit.util.terminal import tell
from lagkit.views.pictures import png

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 1280, 640  # the size that GitHub asks for
_TITLE = "lagkit: reuse the reasoning of past tasks"
_BELOW = "A Jupyter-first laboratory for log-augmented generation. Here: {}"


def picture(notebook: Path) -> bytes:
    """A PNG of a notebook's first figure under the project's name; raises DataError as `Executed.read`."""
    figure: dict[str, Any] = dict(Executed.read(notebook).figures[0][PLOTLY])
    shown = figure["layout"]["title"]["text"]
    layout = {**figure["layout"], "width": WIDTH, "height": HEIGHT, "margin": {"t": 170, "b": 90, "l": 250, "r": 40}}
    title = {"text": _TITLE, "font": {"size": 44}, "x": 0.03, "xref": "container", "y": 0.93, "yanchor": "top"}
    layout["title"] = {**title, "subtitle": {"text": _BELOW.format(shown), "font": {"size": 20}}}
    layout["font"] = {**layout.get("font", {}), "size": 16}
    return png({"data": figure["data"], "layout": layout}, WIDTH, 1)


def main(
    notebook: Annotated[Path, typer.Argument(help="executed")] = ROOT / "docs/gallery/90_gallery.ipynb",
    out: Annotated[Path, typer.Option()] = ROOT / "docs/social-preview.png",
) -> None:
    """Draw the social preview."""
    tell(str(write(out, picture(notebook))))


if __name__ == "__main__":
    typer.run(main)
