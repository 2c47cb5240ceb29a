"""Renderers of figures: each leaves an interactive form and a picture in the notebook, whoever runs it."""

from __future__ import annotations

import os
import shutil
import warnings
from base64 import b64encode
from collections.abc import Iterable
from html import unescape
from importlib.util import find_spec
from threading import Thread
from typing import Any

import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer

from lagkit.util.errors import ConfigError
from lagkit.util.lazy import import_nbformat
from lagkit.util.progress import warn

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Of every figure: nothing that leads to a cloud service.
CONFIG = {"displaylogo": False, "showSendToCloud": False, "responsive": True}
WIDTH = 900  # of a picture in CSS pixels, the width of a notebook's page
SCALE = 1.25  # readable on dense screens; six figures fit into one notebook on GitHub
_SECONDS = 60  # for one picture; the first includes the start of the browser


def use_renderers(*, pictures: bool = True) -> None:
    """Have figures leave their JSON and a PNG in the notebook.

    HTML, which loads plotly.js from a CDN, takes the place of the PNG without `pictures`, with `LAGKIT_PICTURES=off`,
    and where kaleido (of the extra `dev`) or a browser is missing.
    """
    import_nbformat()  # as Plotly's renderers are about to
    pictures = pictures and os.environ.get("LAGKIT_PICTURES") != "off"
    drawn = pictures and find_spec("kaleido") is not None and any(map(shutil.which, BROWSERS))
    pio.renderers["plotly_mimetype"].config = CONFIG
    html = pio.renderers["notebook_connected"]
    # Its opening script would load plotly.js, which each figure's HTML does by itself, and fails without a network.
    html.config, html.global_init = CONFIG, False
    pio.renderers["lagkit_png"] = _Picture()
    pio.renderers.default = "plotly_mimetype+lagkit_png" if drawn else "plotly_mimetype+notebook_connected"


class _Picture(MimetypeRenderer):  # type: ignore[misc]  # Plotly has no types
    """PNG renderer. A figure that cannot be drawn stays without a picture, and so do those after it."""

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        try:
            return {"image/png": b64encode(png(fig_dict)).decode()}
        except ConfigError as error:
            warn(str(error))
            use_renderers(pictures=False)
            return {}


def alt_text(figure: dict[str, Any]) -> str:
    """What a figure shows, in words: its title and caption, its axes, and the names of what is drawn."""
    layout, data = figure.get("layout", {}), figure.get("data", [])
    title = layout.get("title")
    below = _text(title.get("subtitle")) if isinstance(title, dict) else ""
    axes = [axis.get("title") for name, axis in layout.items() if name[1:5] == "axis" and isinstance(axis, dict)]
    names: dict[str, Iterable[str]] = {"Panels": map(_text, layout.get("annotations", [])), "Axes": map(_text, axes)}
    names["Drawn"] = (str(trace.get("name", "")) for trace in data)
    told = [_text(title), below.replace("<br>", " ").rstrip(".")]
    for what, those in names.items():
        if listed := ", ".join(filter(None, dict.fromkeys(those))):
            told.append(f"{what}: {listed}")
    return unescape(". ".join(filter(None, told))) + "."


def _text(part: Any) -> str:
    """The words of a title or an annotation, which Plotly also takes bare."""
    return str(part.get("text", "")) if isinstance(part, dict) else str(part or "")


def browser() -> str:
    """The path of the system's Chromium or Chrome; raises ConfigError if there is none."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise ConfigError(
        f"No browser was found ({', '.join(BROWSERS)}): figures are drawn by one. Install Chromium, for example "
        "with `apt-get install chromium`."
    )


def png(figure: dict[str, Any], width: int = WIDTH, scale: float = SCALE) -> bytes:
    """A PNG of one figure, as high as its layout says. width: in CSS pixels, each of which is `scale` wide.

    The browser is started once in a process, and ends with it. Raises ConfigError if there is none or it draws nothing.
    """
    import kaleido

    page = kaleido.PageGenerator(mathjax=False)  # which would come from a CDN
    kaleido.start_sync_server(silence_warnings=True, n=1, path=browser(), page_generator=page)
    found: list[bytes | Exception] = []

    def draw() -> None:
        try:
            found.append(pio.to_image(figure, format="png", width=width, scale=scale, validate=False))
        except Exception as error:  # told below
            found.append(error)

    # In a thread: kaleido waits for ever for a browser that does not start.
    thread = Thread(target=draw, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Plotly hands over options that a running browser cannot take
        thread.start()
        thread.join(_SECONDS)
    said = found[0] if found else f"nothing came within {_SECONDS} s"
    if isinstance(said, bytes):
        return said
    raise ConfigError(f"The figure could not be drawn with {browser()}: {' '.join(str(said).split())}.")
