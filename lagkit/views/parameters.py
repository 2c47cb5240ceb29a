"""Parameters of a notebook, checked in its kernel, whoever runs it; and the folder that its paths start from."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from IPython.core.interactiveshell import InteractiveShell

from lagkit.util.errors import ConfigError

TYPES: Mapping[str, type] = {kind.__name__: kind for kind in (str, int, float, bool, list, dict)}
_INJECTED = "# Parameters\n"  # the first line of the cell that papermill adds behind the notebook's own
_OWN = "PAPERMILL_"  # what papermill adds by itself (`--inject-paths`)


def check(notebook: str, known: Mapping[str, type], given: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook's given parameters, integers as float where that is the type; raises ConfigError for a wrong one."""
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{notebook} has no parameter {name!r}; it has {', '.join(known)}.")
        fits = (int, float) if known[name] is float else known[name]
        if not isinstance(value, fits) or (isinstance(value, bool) and known[name] is not bool):
            raise ConfigError(f"The parameter {name} of {notebook} is of type {known[name].__name__}: {value!r}.")
        if known[name] is float and isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ConfigError(f"The parameter {name} of {notebook} is too large for a float: give a smaller number.")
    return {name: float(value) if known[name] is float else value for name, value in given.items()}


def settle() -> None:
    """Check the parameters of the notebook that runs here, and enter its folder where papermill started elsewhere.

    Does nothing outside of IPython, and in a notebook without a cell of `name: type = value` lines. Raises ConfigError
    for an unknown parameter, which papermill itself only warns of, and for a value of another type.
    """
    if not InteractiveShell.initialized():
        return
    if folder := _started_elsewhere():
        os.chdir(folder)
    shell = InteractiveShell.instance()
    if shell.history_manager is None:
        return
    known: dict[str, type] = {}
    given: list[str] = []
    for source in shell.history_manager.input_hist_raw:
        if source.startswith(_INJECTED):
            given = [*_assigned(source)]
        elif declared := _declared(source):
            known, given = declared, []
    if known:
        values = {name: shell.user_ns.get(name) for name in (*known, *given) if not name.startswith(_OWN)}
        check("this notebook", known, values)


def _declared(source: str) -> dict[str, type]:
    """Names and types of a cell that is nothing but `name: type = value` lines; empty for any other cell."""
    lines = _statements(source)
    if not all(isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) for line in lines):
        return {}
    named = {line.target.id: ast.unparse(line.annotation).partition("[")[0] for line in lines}  # type: ignore[attr-defined]  # as was just asked
    return {name: TYPES[kind] for name, kind in named.items() if kind in TYPES}


def _assigned(source: str) -> set[str]:
    """Names that a cell gives a value."""
    nodes = [node for line in _statements(source) for node in ast.walk(line)]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a cell with a magic
        return []


def _started_elsewhere() -> Path | None:
    """The folder of a notebook that the command `papermill` runs, without `--cwd`, from another folder.

    The command tells its kernel nothing of the notebook, so this reads the words of its process.
    """
    try:
        parent = psutil.Process(os.getppid())
        words, where = parent.cmdline(), Path(parent.cwd())
    except psutil.Error:
        return None
    stems = [Path(word).stem for word in words]
    if "papermill" not in stems[:3]:  # `papermill`, `python .../papermill`, `python -m papermill`
        return None
    from papermill.cli import papermill as command

    given = words[stems.index("papermill") + 1 :]
    read = command.make_context("papermill", given, resilient_parsing=True).params
    notebook = where / (read.get("notebook_path") or "")
    return notebook.parent if notebook.is_file() and not read.get("cwd") else None
