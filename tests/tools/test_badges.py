"""Badges: in every notebook, for one address, which a fork changes by one command."""

from __future__ import annotations

import builtins
import shutil

import nbformat
import pytest
import typer
from nbformat.v4 import new_markdown_cell, new_notebook
from typer.testing import CliRunner

from lagkit.nightly import pages
from lagkit.views import tables
from tests.helpers.cells import NOTEBOOKS
from tools import badges

FORK = "https://github.com/somebody/their-lagkit"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_s_first_cells_are_those_that_the_command_writes(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    _, shown, code = notebook.cells[:3]
    assert (shown.metadata.tags, code.metadata.tags) == (["badges"], ["verdict"])
    assert shown.source == badges.badges(f"{name}.ipynb", badges.address())
    assert code.source == badges.first(badges.address())


def test_a_fork_renews_all_badges_by_one_command(tmp_path):
    root = badges.ROOT
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for name in ("13_scale.ipynb", "_template.ipynb"):
        shutil.copy(root / "notebooks" / name, tmp_path / "notebooks")
    app = typer.Typer()
    app.command()(badges.main)
    assert CliRunner().invoke(app, [FORK, "--root", str(tmp_path)]).exit_code == 0
    assert badges.address(tmp_path) == FORK
    old = badges.address().removeprefix("https://github.com/")
    for path in [tmp_path / "pyproject.toml", *(tmp_path / "notebooks").iterdir()]:
        before = (root / path.relative_to(tmp_path)).read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8") == before.replace(old, "somebody/their-lagkit")
    shown = nbformat.read(tmp_path / "notebooks" / "13_scale.ipynb", as_version=4).cells[1].source
    for link in (
        "(https://colab.research.google.com/github/somebody/their-lagkit/blob/main/notebooks/13_scale.ipynb)",
        "(https://mybinder.org/v2/gh/somebody/their-lagkit/main?labpath=notebooks%2F13_scale.ipynb)",
        "(https://nbviewer.org/github/somebody/their-lagkit/blob/main/docs/gallery/13_scale.ipynb)",
    ):
        assert link in shown
    refused = CliRunner().invoke(app, ["somebody/their-lagkit", "--root", str(tmp_path)])
    assert (refused.exit_code, badges.address(tmp_path)) == (2, FORK)


def test_on_a_page_badges_are_words_apart():
    cell = new_markdown_cell(badges.badges("13_scale.ipynb", FORK), metadata={"tags": [pages.BADGES]})
    page = pages.render(new_notebook(cells=[cell]), "A notebook", script=pages.SCRIPT)
    assert page.count("</a> · <a ") == 2
    assert pages.loaded(page) == []


class Shell:
    """Notes what a cell asks of IPython; lagkit can be imported once it was installed."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def system(self, command: str) -> None:
        self.asked.append(command)

    def run_line_magic(self, name: str, line: str) -> None:
        self.asked.append(f"%{name} {line}")


@pytest.mark.parametrize("missing", [False, True])
def test_the_first_cell_installs_lagkit_where_it_is_missing_alone(monkeypatch, missing):
    shell, placed, imports = Shell(), [], builtins.__import__

    def load(name: str, *given, **more):
        if missing and name == "lagkit" and not shell.asked:
            raise ModuleNotFoundError(name)
        return imports(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", load)
    monkeypatch.setattr(tables, "verdict", lambda: placed.append(1))
    exec(badges.first(FORK), {"get_ipython": lambda: shell})
    cloned = [f"git clone --quiet --depth 1 {FORK} lagkit", "%cd lagkit/notebooks", "%pip install --quiet .."]
    assert (shell.asked, placed) == (cloned if missing else [], [1])
