"""Copies of executed notebooks for a repository: figures carry a picture, nothing tells of the machine or the hour."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lagkit.nightly.gallery.executed import PLOTLY, Executed, outputs
from lagkit.util.errors import DataError
from lagkit.util.files import write

LIMIT = 1_500_000  # bytes; GitHub does not show notebooks that are much larger
_KEPT = ("kernelspec", "language_info")
_LANGUAGE = ("name", "file_extension", "mimetype", "pygments_lexer")
_PROGRESS = re.compile(r"^.+: \d+(?: of \d+)?, \d+ s\n", re.MULTILINE)
_PERSONAL = re.compile(r"/(?:home|root|tmp|work|Users)/[^\s\"'\\]*")


def write_copies(executed: Sequence[Executed], folder: Path, images: Mapping[str, Sequence[bytes]]) -> Path:
    """Write the copies, a PNG of each one's first figure and a `README.md` that shows them; returns its path.

    images: the name of a notebook -> PNGs of its figures, in order. Raises DataError, before anything is written, for a
    copy above `LIMIT` bytes or one that names a path of the machine.
    """
    texts = {one.name: copy_of(one, images[one.name]) for one in executed}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write(folder / f"{name}.ipynb", text)
        if images[name]:
            write(folder / f"{name}.png", images[name][0])
    return write(folder / "README.md", _listing(executed))


def copy_of(one: Executed, images: Sequence[bytes]) -> str:
    """The text of one copy; raises DataError as `write_copies` does."""
    notebook = _without_run(one.notebook)
    figures = [output for output in outputs(notebook) if PLOTLY in output.get("data", {})]
    text = nbformat.writes(notebook)
    if named := _PERSONAL.search(text):
        raise DataError(f"The copy of {one.path} would name {named[0]}, a path of this machine: take it out.")
    for figure, image in zip(figures, images, strict=True):
        figure.data["image/png"] = base64.b64encode(image).decode()
    text = nbformat.writes(notebook) + "\n"
    if (size := len(text.encode())) > LIMIT:
        raise DataError(
            f"The copy of {one.path} would take {size / 1e6:.1f} MB, and {LIMIT / 1e6:.1f} MB are allowed: show fewer "
            "points or fewer figures."
        )
    return str(text)


def _without_run(notebook: NotebookNode) -> NotebookNode:
    """A copy without papermill's notes and lines of progress (hours, durations), and without this machine's folders."""
    clean: NotebookNode = _relative(deepcopy(notebook), _roots())
    clean.metadata = NotebookNode({name: clean.metadata[name] for name in _KEPT if name in clean.metadata})
    language = clean.metadata.get("language_info", {})
    clean.metadata.language_info = NotebookNode({name: language[name] for name in _LANGUAGE if name in language})
    for cell in clean.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_progress, cell.outputs) if output.get("text") != ""]
    return clean


def _without_progress(output: NotebookNode) -> NotebookNode:
    """Printed text without the lines of `progress`: they differ from run to run, and nobody reads them later."""
    if output.output_type == "stream":
        output.text = _PROGRESS.sub("", output.text)
    return output


def _roots() -> list[str]:
    """Folders whose names say nothing to a reader: that of the project, the user's own, the one for scratch."""
    found = {str(Path.cwd()), str(Path.home()), tempfile.gettempdir()} - {"/"}
    return sorted(found, key=len, reverse=True)


def _relative(value: Any, roots: Sequence[str]) -> Any:
    """All text in `value` with paths below `roots` made relative to them."""
    if isinstance(value, str):
        for root in roots:
            value = value.replace(root + "/", "")
        return value
    if isinstance(value, dict):
        return type(value)({key: _relative(item, roots) for key, item in value.items()})
    return [_relative(item, roots) for item in value] if isinstance(value, list) else value


def _listing(executed: Sequence[Executed]) -> str:
    parts = [
        "# Gallery",
        "The notebooks as they were run, with figures that show here as pictures and can be explored when a copy is "
        "opened in JupyterLab. Made by `make gallery`, which writes pages that work offline too.",
    ]
    for one in executed:
        title, question = one.opening
        parts += [f"## [{title}]({one.name}.ipynb)", question]
        if one.figures:
            parts.append(f"[![The first figure of {one.name}]({one.name}.png)]({one.name}.ipynb)")
    return "\n\n".join(parts) + "\n"
