"""Earlier nights: `history.parquet`, a row per execution of a job and metric, and how long something has failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lagkit.nightly.gates import Metrics, comparable
from lagkit.nightly.profile import Plan, Task
from lagkit.nightly.run import Outcome
from lagkit.runs.manifest import git_state
from lagkit.util.files import intact, write_table

FILE = "history.parquet"
COLUMNS = ["job", "started", "parameters", "commit", "status", "seconds", "metric", "value"]


class Since(NamedTuple):
    """The first of the latest executions that all failed. last_good: the commit before; empty if there was none."""

    day: str
    commit: str
    last_good: str


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
    for task in plan.tasks:
        outcome = outcomes[task.name]
        if (task.name, outcome.started) not in known:
            facts = [task.name, outcome.started, _parameters(task), commit, outcome.status, outcome.seconds]
            values = measured.get(task.name) or {"": float("nan")}
            rows += [[*facts, metric, value] for metric, value in values.items()]
    if not rows:
        return before
    new = pd.DataFrame(rows, columns=COLUMNS)
    history = pd.concat([before, new], ignore_index=True) if len(before) else new
    write_table(out / FILE, history)
    return history


def nights(history: pd.DataFrame, task: Task) -> pd.DataFrame:
    """A row per execution with the task's parameters, by (started, commit), oldest first: `failed`, and each metric."""
    own = history[(history["job"] == task.name) & (history["parameters"] == _parameters(task))]
    by = ["started", "commit"]
    values = own.pivot(index=by, columns="metric", values="value").astype(float)
    failed = own.drop_duplicates("started").set_index(by)["status"].ne("ok")
    return values.assign(failed=failed.reindex(values.index)).sort_index()


def since(bad: pd.Series) -> Since | None:
    """Since when all executions are bad; None if the last one is good. bad: by (started, commit), oldest first."""
    good = np.flatnonzero(~bad.to_numpy(bool))
    first = int(good[-1]) + 1 if len(good) else 0
    if first == len(bad):
        return None
    (started, commit), before = bad.index[first], bad.index[first - 1][1] if first else ""
    return Since(started[:10], commit[:10], before[:10])


def _parameters(task: Task) -> str:
    return json.dumps(comparable(task.parameters), sort_keys=True)
