"""The cells of the notebooks, run in this process with parameters, as far as a test needs; no kernel is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

import lagkit as lag
from lagkit.nightly import notebook as nb
from lagkit.runs.config import TIERS
from lagkit.runs.experiment import Experiment
from lagkit.views import lab
from lagkit.views.parameters import check

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
PARAMETERS = {name: nb.declared(path) for name, path in NOTEBOOKS.items()}
WORLD = {"entities": 90, "log_questions": 14, "unseen_questions": 8, "hops": [1, 2]}


def cells(name: str) -> tuple[str, list[str]]:
    """The source of a notebook's parameters, and that of the code cells behind them."""
    code = [cell for cell in nbformat.read(NOTEBOOKS[name], as_version=4).cells if cell.cell_type == "code"]
    _, first, *rest = code  # the first is the place for the verdict
    assert "parameters" in first.metadata.tags
    return first.source, [cell.source for cell in rest]


def small_tier(folder: Path, **settings: Any) -> str:
    """A file of settings: the testbed in a small world, without an embedder to load; `settings` go before these."""
    tier = yaml.safe_load(TIERS["testbed"].read_text(encoding="utf-8"))
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**tier, "world": WORLD, "embedder": "hash", **settings}), encoding="utf-8")
    return str(path)


def run(name: str, until: str = "", **parameters: Any) -> dict[str, Any]:
    """Run a notebook's cells with these parameters; the names that they leave.

    until: a name; what stands behind the cell that first gives it a value is not run.
    """
    given = check(NOTEBOOKS[name].name, PARAMETERS[name], parameters)
    first, rest = cells(name)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER)
        exec(first, names)
        names |= given
        before = set(names)
        for cell in rest:
            exec(compile(cell, name, "exec"), names)
            if until in names.keys() - before:
                break
    return names


def metrics(out: Path) -> dict[str, float]:
    """What a notebook measured."""
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["metrics"]


class _Opened(BaseException):
    """The run that a notebook has opened."""


def opened(name: str, **parameters: Any) -> Experiment:
    """The run that a notebook opens with these parameters; nothing behind that is run."""
    real: Callable[..., Experiment] = lab.open_run

    def open_run(*given: Any, **settings: Any) -> Experiment:
        raise _Opened(real(*given, **settings))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lag, "open_run", open_run)
        with pytest.raises(_Opened) as stopped:
            run(name, **parameters)
    [experiment] = stopped.value.args
    return experiment
