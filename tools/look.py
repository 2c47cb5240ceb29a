"""Pages and executed notebooks, looked at as a picky reader would: `python -m tools.look PAGE... [--pictures DIR]`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import nbformat
import typer
from playwright.sync_api import Page, sync_playwright

from lagkit.nightly.pages import PLOTLY
from lagkit.views.pictures import alt_text, browser

THEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
HIGHEST = 900  # pixels of a figure; more does not fit on a screen
_SECONDS, _DRAWN = 120, 500  # of a page on a busy machine; and milliseconds in which a theme's figures are drawn
_SCRIPT = Path(__file__).parent / "look.js"
_DECIMAL = re.compile(r"(?<![\w.,])[+-]?(\d[\d,]*\.\d+)(?![\w.]*\d|\.\w)")
_MISSING = re.compile(r"\b(nan|NaN|NaT|None|inf)\b|<NA>")
_REPR = re.compile(
    r"<[\w.]+ (?:object )?at 0x|\b(?:VBox|HBox|Figure|array|Series)\(|dtype: |dtype=|Timestamp\(|\{'\w+':"
)
_DIGITS = 4


def words(text: str) -> list[str]:
    """What is wrong with a piece of text that a reader sees: missing values, too many digits, raw representations."""
    found = [f"{missing[0]!r} in {_short(text)!r}" for missing in _MISSING.finditer(text)]
    found += [f"raw {raw[0]!r} in {_short(text)!r}" for raw in _REPR.finditer(text)]
    for number in _DECIMAL.finditer(text):
        digits = number[1].replace(",", "").replace(".", "").lstrip("0")
        if len(digits) > _DIGITS:
            found.append(f"{len(digits)} digits: {number[0]} in {_short(text)!r}")
    return found


def notebook(path: Path) -> list[str]:
    """What is wrong with an executed notebook where no script runs: figures without a picture, a caption or a name."""
    cells = nbformat.read(path, as_version=4).cells
    shown = [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]
    found = []
    for number, data in enumerate((data for data in shown if PLOTLY in data), 1):
        layout = data[PLOTLY].get("layout", {})
        if "image/png" not in data:
            found.append(f"figure {number} has no picture")
        if not layout.get("title", {}).get("subtitle", {}).get("text"):
            found.append(f"figure {number} has no caption: {alt_text(data[PLOTLY])}")
    return found


def look(page: Page, path: Path, pictures: Path | None = None) -> list[str]:
    """What is wrong with one page, in both themes. pictures: a folder for a screenshot of each."""
    found: list[str] = []
    page.emulate_media(color_scheme="light")
    page.goto(path.resolve().as_uri())
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        page.wait_for_timeout(_DRAWN)
        seen: dict[str, Any] = page.evaluate(_SCRIPT.read_text(encoding="utf-8"), HIGHEST)
        faults = [*seen["faults"], *(fault for text in seen["texts"] for fault in words(text))]
        found += [f"{theme}: {fault}" for fault in faults if f"{THEMES[0]}: {fault}" not in found]
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=pictures / f"{path.stem}-{theme}.png", full_page=True)
    return list(dict.fromkeys(found))


def faults(paths: Iterable[Path], pictures: Path | None = None) -> list[str]:
    """What is wrong with pages (`.html`) and executed notebooks (`.ipynb`), each fault behind its file's name."""
    found: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(1000 * _SECONDS)
        for path in paths:
            own = notebook(path) if path.suffix == ".ipynb" else look(page, path, pictures)
            found += [f"{path.name}: {fault}" for fault in own]
        chromium.close()
    return found


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:57]}..."


def main(
    pages: Annotated[list[Path], typer.Argument(help="Pages and executed notebooks.")],
    pictures: Annotated[Path | None, typer.Option(help="A folder for screenshots in both themes.")] = None,
) -> None:
    """Report what a reader would notice; ends with 1 if there is anything."""
    found: Sequence[str] = faults(pages, pictures)
    typer.echo("\n".join(found) or f"Nothing to see on {len(pages)} pages.")
    raise typer.Exit(bool(found))


if __name__ == "__main__":
    typer.run(main)
