"""What earlier nights measured: `history.parquet`, a row per execution of a job and metric."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lagkit.nightly.gates import Metrics, comparable
from lagkit.nightly.profile import Plan, Task
from lagkit.nightly.run import Outcome
from lagkit.runs.manifest import git_state
from lagkit.util.files import intact, replacing

FILE = "history.parquet"
COLUMNS = ["job", "started", "parameters", "commit", "status", "seconds", "metric", "value"]


def read(out: Path) -> pd.DataFrame:
    """The history in `out`, oldest first; empty if there is none. `value` is NaN where a job did not succeed.

    Raises DataError if the file is damaged.
    """
    path = out / FILE
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    with intact(path, "delete it, and a new history begins"):
        return pd.read_parquet(path)[COLUMNS]


def record(out: Path, plan: Plan, outcomes: Mapping[str, Outcome], measured: Metrics) -> pd.DataFrame:
    """Add the executions that the history does not hold yet; returns all of it, and writes it whole or not at all."""
    before = read(out)
    known = set(zip(before["job"], before["started"], strict=True))
    commit = (git_state() or {}).get("commit", "")
    rows = []
    tasks = {task.name: task for task in plan.tasks}
    for name, outcome in outcomes.items():
        if (name, outcome.started) in known:
            continue
        facts = [name, outcome.started, _parameters(tasks[name]), commit, outcome.status, outcome.seconds]
        values = measured.get(name) or {"": float("nan")}
        rows += [[*facts, metric, value] for metric, value in values.items()]
    if not rows:
        return before
    new = pd.DataFrame(rows, columns=COLUMNS)
    history = pd.concat([before, new], ignore_index=True) if len(before) else new
    with replacing(out / FILE) as aside:
        history.to_parquet(aside)
    return history


def last_values(history: pd.DataFrame, task: Task, metric: str, nights: int = 10) -> list[float]:
    """The metric's values in the last executions that measured it with the task's parameters, oldest first."""
    same = (history["job"] == task.name) & (history["parameters"] == _parameters(task))
    values: list[float] = history[same & (history["metric"] == metric)]["value"].astype(float).tolist()
    return values[-nights:]


def _parameters(task: Task) -> str:
    return json.dumps(comparable(task.parameters), sort_keys=True)
