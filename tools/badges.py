"""The cells under each notebook's title, for the address of the repository: `python -m tools.badges [ADDRESS]`.

Badges lead to Colab, Binder and nbviewer; the cell of the verdict gets lagkit where it is missing. The address stands
in `pyproject.toml` alone: given here, it is written there first, and from there into all notebooks.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import nbformat
import typer
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from lagkit.nightly.pages import BADGES, FIRST

ROOT = Path(__file__).parents[1]
_GITHUB = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
_PLACE = re.compile(r'(?m)^Repository = ".*"$')
_BADGES = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]\
(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})
[![Open in Binder](https://mybinder.org/badge_logo.svg)]\
(https://mybinder.org/v2/gh/{repository}/main?labpath={path})
[![See it as it was run](https://raw.githubusercontent.com/jupyter/design/main/logos/Badges/nbviewer_badge.svg)]\
(https://nbviewer.org/github/{repository}/blob/main/docs/gallery/{name})"""
_FIRST = """\
try:
    import lagkit as lag
except ModuleNotFoundError:  # as on Colab: the repository, and lagkit from it
    get_ipython().system("git clone --quiet --depth 1 {address} lagkit")
    get_ipython().run_line_magic("cd", "lagkit/notebooks")
    get_ipython().run_line_magic("pip", "install --quiet ..")
    import lagkit as lag

lag.table.verdict()"""


def address(root: Path = ROOT) -> str:
    """The repository's address, as `pyproject.toml` has it."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def badges(name: str, where: str) -> str:
    """The badges of a notebook, as Markdown; where: the repository's address."""
    path = quote(f"notebooks/{name}", safe="")
    return _BADGES.format(repository=where.removeprefix("https://github.com/"), name=name, path=path)


def first(where: str) -> str:
    """The source of a notebook's first code cell."""
    return _FIRST.format(address=where)


def renew(notebook: NotebookNode, name: str, where: str) -> None:
    """Put badges below the title, and the cell of the verdict below these."""
    tagged = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    if BADGES not in tagged:
        tagged[BADGES] = new_markdown_cell(id=BADGES, metadata={"tags": [BADGES]})
        notebook.cells.insert(1, tagged[BADGES])
    tagged[BADGES].source = badges(name, where)
    tagged[FIRST].source = first(where)


def main(
    repository: Annotated[str | None, typer.Argument(help="The address of a fork on GitHub; else as it is.")] = None,
    root: Annotated[Path, typer.Option(help="The folder of pyproject.toml and notebooks/.")] = ROOT,
) -> None:
    """Renew the badges of all notebooks."""
    if repository is not None:
        if not _GITHUB.fullmatch(repository):
            raise typer.BadParameter(f"{repository} is no address such as https://github.com/me/lagkit.")
        project = root / "pyproject.toml"
        text = _PLACE.sub(f'Repository = "{repository}"', project.read_text(encoding="utf-8"))
        project.write_text(text, encoding="utf-8")
    where = address(root)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        renew(notebook, path.name, where)
        nbformat.write(notebook, path)
    typer.echo(f"The badges lead to {where}.")


if __name__ == "__main__":
    typer.run(main)
