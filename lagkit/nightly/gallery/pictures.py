"""Pictures of figures, drawn by a browser on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import plotly.io as pio

from lagkit.util.errors import ConfigError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH = 900  # CSS pixels, the width of a notebook's page
HEIGHT = 450  # of a figure whose layout says none, here and on pages
_SCALE = 1.25  # readable on dense screens; six figures fit into one copy


def browser() -> str:
    """The path of the system's Chromium or Chrome; raises ConfigError if there is none."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise ConfigError(
        f"No browser was found ({', '.join(BROWSERS)}): figures are drawn by one. Install Chromium, for example "
        "with `apt-get install chromium`."
    )


def png(figures: Sequence[dict[str, Any]]) -> list[bytes]:
    """A PNG for each figure (as JSON values), `WIDTH` wide and as high as its layout says.

    Raises ConfigError if there is no browser, or kaleido (an extra: `dev`) is not installed.
    """
    if not figures:
        return []
    path = browser()
    before = os.environ.get("BROWSER_PATH")
    os.environ["BROWSER_PATH"] = path  # where kaleido looks
    try:
        with TemporaryDirectory() as folder:
            files = [Path(folder) / f"{number}.png" for number in range(len(figures))]
            # Given each, since Plotly's default goes before the height of the layout.
            heights = [figure["layout"].get("height", HEIGHT) for figure in figures]
            pio.write_images(list(figures), files, format="png", width=WIDTH, height=heights, scale=_SCALE)
            return [file.read_bytes() for file in files]
    except RuntimeError as error:
        raise ConfigError(f"The figures could not be drawn with {path}: {' '.join(str(error).split())}") from error
    finally:
        os.environ.pop("BROWSER_PATH") if before is None else os.environ.update(BROWSER_PATH=before)
