"""Run notebooks with and without a fault, each in a process of its own, and say which gates fail."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.gates.faults import FAULTS

FILE = Path(__file__).parents[2] / "nightly.yaml"
# What the nightly's jobs ask, of fewer questions: all notebooks that it gates re-alignment, answers and costs by.
JOBS = {
    "02_compare_variants": {"policies": ["kv_last_round"], "seen_questions": 5},
    "06_position_realignment": {"asked": 3, "steps": 1, "dtypes": ["float32"]},
    "10_architectures": {"families": ["llama", "gemma3"], "models": [], "timed": 64},
}
SIZES = {"log_questions": 30, "unseen_questions": 30}


def measure(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each fault: `fault`, `seconds`, how many `answers` there are and have `changed`, how many `gates` there
    are, the names of those that `failed`, and the `error` of notebooks that did not come to their end."""
    from lagkit.nightly import gates

    wanted = _plan()
    good, given, errors = run(folder / "good", None)
    if errors:
        raise RuntimeError(f"without a fault: {errors}")
    baselines, _ = gates.derive(wanted, (0,), [good], given)
    for name in names:
        began = time.monotonic()
        metrics, answers, errors = run(folder / str(list(FAULTS).index(name)), name)
        counted = gates.count(metrics, answers, given)
        compared = gates.compare(baselines, wanted, counted)
        changed = [value for own in counted.values() for metric, value in own.items() if metric.startswith("changed.")]
        failed = compared[compared["verdict"].isin(gates.FAILED)]
        yield {
            "fault": name,
            "seconds": round(time.monotonic() - began, 1),
            "answers": sum(map(len, given.values())),
            "changed": int(sum(changed)),
            "gates": len(compared),
            "failed": [f"{job}: {metric}" for job, metric in zip(failed["job"], failed["metric"], strict=True)],
            "error": "; ".join(errors.values()),
        }


def run(folder: Path, fault: str | None) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Metrics and answers of each job that ended, and the last words of those that did not."""
    import pandas as pd

    # Forked from a process that has imported all, and computed nothing: an import takes longer than a notebook.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.gates.warm"])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(folder, fault, writer))
    process.start()
    writer.close()
    try:
        errors = reader.recv()
    except EOFError:
        errors = {"all": f"the process ended with {process.exitcode}"}
    process.join()
    jobs = [name for name in JOBS if name not in errors and "all" not in errors]
    metrics = {name: json.loads((folder / name / "metrics.json").read_text())["metrics"] for name in jobs}
    answers = {
        name: pd.read_parquet(folder / name / "answers.parquet")
        for name in jobs
        if (folder / name / "answers.parquet").exists()
    }
    return metrics, answers, errors


def _run(folder: Path, fault: str | None, writer: Any) -> None:
    if fault:
        FAULTS[fault]()
    errors = {}
    for task in _plan().tasks:
        given = {**task.parameters, "out": str(folder / task.name), "run": str(folder / (task.run or "run"))}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                _execute(task.notebook, given)
        except Exception as error:  # told in the row: a fault that stops the run is no silent one
            errors[task.name] = f"{task.name}: {type(error).__name__}: {error}"
    writer.send(errors)


def _execute(notebook: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook's cells in this process: a kernel would take longer to start than it works."""
    os.chdir(notebook.parent)
    names: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                names |= parameters


def _plan() -> Any:
    """The profile `test` with the jobs and sizes of this module."""
    from dataclasses import replace

    from lagkit.nightly.profile import plan

    found = plan(FILE, "test")
    tasks = []
    for task in found.tasks:
        if task.name in JOBS:
            sizes = {} if task.name == "10_architectures" else SIZES
            tasks.append(replace(task, parameters={**task.parameters, **sizes, **JOBS[task.name]}))
    return replace(found, tasks=tuple(tasks))
