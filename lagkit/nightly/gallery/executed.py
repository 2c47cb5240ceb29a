"""An executed notebook as the gallery sees it: its title and question, its figures, and what it was made with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lagkit.util.errors import DataError

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
_NO_WIDGET = "*A widget stands here in JupyterLab. It needs a running kernel, so a page cannot show it.*"


@dataclass(frozen=True)
class Executed:
    """A notebook that came to its end, with the outputs that only a live front end can use already taken out."""

    path: Path
    notebook: NotebookNode

    @classmethod
    def read(cls, path: Path) -> Executed:
        """Raises DataError if the file is no notebook, was not executed, or did not come to its end."""
        try:
            notebook = nbformat.read(path, as_version=4)
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read as a notebook ({' '.join(str(error).split())}).") from error
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        if any(output.output_type == "error" for cell in code for output in cell.outputs):
            raise DataError(f"{path} holds an error: run the notebook again, and make the gallery then.")
        if not code or any(cell.execution_count is None for cell in code):
            raise DataError(f"{path} was not run to its end: run it again, and make the gallery then.")
        return cls(path, without_live_parts(notebook))

    @property
    def name(self) -> str:
        """The file's name without its suffix; pages, copies and pictures bear it too."""
        return self.path.stem

    @cached_property
    def opening(self) -> tuple[str, str]:
        """The title and the first paragraph after it (with its list, if it ends in a colon), as Markdown.

        Raises DataError if there are none.
        """
        first = next((cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"), "")
        title, *blocks = [block.strip() for block in re.split(r"\n\s*\n", first)]
        if not title.startswith("# ") or not blocks:
            raise DataError(f"{self.path} must begin with a Markdown cell of a `# title` and a paragraph.")
        question = " ".join(blocks[0].split())
        if question.endswith(":"):
            question = "\n\n".join([question, *blocks[1:2]])
        return title.removeprefix("# ").strip(), question

    @cached_property
    def figures(self) -> list[NotebookNode]:
        """The outputs that hold a Plotly figure, in order."""
        return [output for output in outputs(self.notebook) if PLOTLY in output.get("data", {})]

    @cached_property
    def made(self) -> dict[str, str]:
        """When and with what: the day, the duration, parameters given, code, versions and machine, where known."""
        run = self.notebook.metadata.get("papermill", {})
        facts: dict[str, str] = {}
        if run.get("end_time"):
            facts["made"] = f"{run['end_time'][:16].replace('T', ' ')} UTC, in {run['duration']:.0f} s"
        given = {name: value for name, value in run.get("parameters", {}).items() if name not in ("out", "run")}
        facts["parameters"] = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "defaults"
        if version := self.notebook.metadata.get("language_info", {}).get("version"):
            facts["Python"] = version
        return facts | _of_record(self.path.parent / "metrics.json")


def find(folder: Path) -> list[Executed]:
    """All executed notebooks in `folder` and below, by name; raises DataError if there are none or two of a name."""
    paths = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not paths:
        raise DataError(f"There is no executed notebook in {folder}: make some with `lagkit notebook`.")
    names: dict[str, Path] = {}
    for path in paths:
        if path.stem in names:
            raise DataError(f"{names[path.stem]} and {path} have one name: their pages would replace each other.")
        names[path.stem] = path
    return [Executed.read(names[name]) for name in sorted(names)]


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """The outputs of all code cells, in order."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from cell.outputs


def without_live_parts(notebook: NotebookNode) -> NotebookNode:
    """The notebook, changed in place: no scripts that load plotly.js from elsewhere, a sentence in place of widgets."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not _is_loader(output)]
        for output in cell.outputs:
            data = output.get("data", {})
            if WIDGET in data:
                output.data = NotebookNode({"text/markdown": _NO_WIDGET})
            elif PLOTLY in data:
                data.pop("text/html", None)  # the figure once more, with a script from a CDN
    return notebook


def _is_loader(output: NotebookNode) -> bool:
    """True for what Plotly's notebook renderer emits once, before the first figure."""
    data = output.get("data", {})
    return PLOTLY not in data and "window.PlotlyConfig" in data.get("text/html", "")


def _of_record(path: Path) -> dict[str, str]:
    """Code and machine as `lab.conclude` noted them in `metrics.json`; nothing if there is none."""
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): run its notebook again.") from error
    facts = {}
    if git := record.get("git"):
        facts["commit"] = git["commit"][:10] + (" with changes" if git["changed"] else "")
    if machine := record.get("machine"):
        gpu = f", {machine['gpu']}" if machine["gpu"] else ""
        facts["machine"] = f"{machine['system']} {machine['processor']}, {machine['cores']} cores{gpu}"
    return facts
