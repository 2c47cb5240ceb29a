"""Headless notebooks: `lagkit notebook NOTEBOOK OUT -p name value` runs papermill, once the parameters are checked."""

from __future__ import annotations

import ast
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from lagkit.util.errors import ConfigError, NotebookFailed
from lagkit.util.home import BUNDLED
from lagkit.util.paths import at
from lagkit.util.progress import progress_mode
from lagkit.util.secrets import scrub
from lagkit.views.parameters import TYPES, check

KERNEL = "python3"
_STARTS = 3  # kernels per notebook: those that start at the same moment may draw the same port, and die at once
logging.getLogger("papermill").setLevel(logging.ERROR)  # what it warns of, unknown parameters, is an error here


class _Scrubbed(LocalHandler):  # type: ignore[misc]  # papermill has no types
    """Local files for papermill, saved after each cell and never with a secret in them."""

    def write(self, buf: str, path: str) -> None:
        super().write(scrub(buf), path)


def execute(
    notebook: str | Path, out_dir: str | Path, parameters: Mapping[str, Any] | None = None, timeout: int = 900
) -> Path:
    """Run a notebook with `parameters` and write the executed copy into `out_dir`; returns its path.

    The kernel starts in the notebook's folder, as in JupyterLab. A parameter `out` defaults to `out_dir`, and `run` to
    its folder `run` for a notebook that was installed with lagkit, beside which nothing may be written. timeout: of one
    cell, in seconds. Raises ConfigError for a missing notebook and for wrong parameters before anything runs, and
    NotebookFailed when a cell fails; the copy then holds everything up to the failure.
    """
    notebook, out_dir = at(notebook), at(out_dir)
    known = declared(notebook)
    given = check(notebook.name, known, parameters or {})
    copy = out_dir / notebook.name
    if copy.resolve() == notebook.resolve():
        raise ConfigError(f"The executed copy would replace {notebook}: choose another folder.")
    out_dir.mkdir(parents=True, exist_ok=True)
    ours = {"out": out_dir, "run": out_dir / "run"} if notebook.resolve().is_relative_to(BUNDLED) else {"out": out_dir}
    paths = {name: os.path.relpath(path.resolve(), notebook.resolve().parent) for name, path in ours.items()}
    _run(notebook, copy, {name: path for name, path in paths.items() if name in known} | given, timeout)
    return copy


def declared(notebook: Path) -> dict[str, type]:
    """The notebook's parameters and their types; raises ConfigError if it cannot be read or declares none.

    A type is the annotation if that is str, int, float or bool, else the type of the default.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells
        tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        lines = [line for source in tagged for line in ast.parse(source).body]
    except (OSError, ValueError, TypeError, AttributeError, SyntaxError, nbformat.ValidationError) as error:
        raise ConfigError(f"The notebook {notebook} cannot be read ({' '.join(str(error).split())}).") from error
    found: dict[str, type] = {}
    for line in lines:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as default):
                kind = TYPES.get(ast.unparse(annotation).strip("'"))
            case ast.Assign(targets=[ast.Name(id=name)], value=default):
                kind = None
            case ast.Expr() | ast.Import() | ast.ImportFrom() | ast.Assert():
                continue
            case _:
                told = f"Line {line.lineno} of the parameters of {notebook}, `{ast.unparse(line).splitlines()[0]}`,"
                raise ConfigError(f"{told} cannot be read: give each parameter a line `name: type = value`.")
        try:
            found[name] = kind or type(ast.literal_eval(default))
        except (ValueError, TypeError) as error:
            said = f"The default of parameter {name} must be a literal, not {ast.unparse(default)}."
            raise ConfigError(said) from error
    if not found:
        raise ConfigError(f"The notebook {notebook} has no parameters: tag a cell of `name: type = value` lines.")
    return found


def _run(notebook: Path, copy: Path, parameters: Mapping[str, Any], timeout: int, starts: int = _STARTS) -> None:
    """Execute by papermill; starts another kernel if one dies before it has begun."""
    papermill_io.register(str(copy), _Scrubbed())
    try:
        papermill.execute_notebook(
            notebook,
            copy,
            parameters=dict(parameters),
            kernel_name=KERNEL,
            execution_timeout=timeout,
            cwd=notebook.resolve().parent,
            progress_bar=progress_mode() == "bar",
            # Kernels warn at each start that they talk over TCP, and of closed sockets when they are stopped.
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except PapermillExecutionError as error:
        said = scrub(f"{error.ename}: {' '.join(str(error.evalue).split())}")
        raise NotebookFailed(f"{notebook.name} failed in cell {error.exec_count} ({said}); see {copy}.") from None
    except TimeoutError as error:
        raise NotebookFailed(f"A cell of {notebook.name} took more than {timeout} s; see {copy}.") from error
    except RuntimeError as error:  # nbclient's DeadKernelError, or jupyter_client's of a kernel that never answered
        if starts == 1 or "before replying to kernel_info" not in str(error):
            raise NotebookFailed(f"The kernel of {notebook.name} stopped ({error}); see {copy}.") from error
        _run(notebook, copy, parameters, timeout, starts - 1)


def from_words(notebook: Path, words: Mapping[str, str]) -> dict[str, Any]:
    """Values from a command line: text where a parameter is text, Python literals elsewhere, `true` and `false` too."""
    known = declared(notebook)
    return {name: _value(word, known.get(name, str)) for name, word in words.items()}


def _value(word: str, kind: type) -> Any:
    try:
        return word if kind is str else ast.literal_eval(word.title() if kind is bool else word)
    except (ValueError, SyntaxError):
        return word  # which `check` refuses, in words
