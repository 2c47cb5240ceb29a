"""Gates: a metric fails when it has moved from its baseline towards chance by more than its tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from lagkit.config import Settings
from lagkit.files import write_json
from lagkit.nightly.profile import Plan
from lagkit.plainjson import read_json

Verdict = Literal["ok", "better", "regression", "missing"]
Metrics = Mapping[str, Mapping[str, float]]  # job -> metric -> value

FAILED = ("regression", "missing")

_SPREADS = 2.0  # a tolerance is so many standard deviations between seeds ...
_SHARE = 0.02  # ... and at least this share of the way to chance, and ...
_LEAST = 0.01  # ... this much: rounding, which differs between processors, turns a question or two
_NOT_COMPARED = {"data"}  # a folder's place says nothing of what is in it


class Gate(Settings):
    """value: at the profile's own seed. tolerance: of the difference to it. chance: what doing nothing would give."""

    value: float
    tolerance: float
    chance: float

    def verdict(self, found: float | None) -> Verdict:
        """How a metric stands that was measured anew, None if it wasn't: only the way towards chance is a failure."""
        if found is None:
            return "missing"
        gain = (found - self.value) * (1 if self.value >= self.chance else -1)
        if abs(gain) <= self.tolerance:
            return "ok"
        return "better" if gain > 0 else "regression"


class JobGates(Settings):
    """Gates of one job, and the parameters for which they hold."""

    parameters: dict[str, Any]
    metrics: dict[str, Gate]


class Baselines(Settings):
    """The gates of a profile, by job. seeds: whose spread the tolerances were derived from."""

    what: ClassVar[str] = "baselines"

    seeds: tuple[int, ...]
    jobs: dict[str, JobGates]

    @classmethod
    def load(cls, path: Path) -> Baselines | None:
        """From a file; None if there is none. Raises ConfigError if it is damaged."""
        if not path.exists():
            return None
        return cls.parse(read_json(path))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.model_dump(mode="json"))


def comparable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a baseline depends on."""
    return {name: value for name, value in parameters.items() if name not in _NOT_COMPARED}


def compare(baselines: Baselines | None, plan: Plan, measured: Metrics) -> pd.DataFrame:
    """A row per gate of the jobs in `measured`: job, metric, found, value, tolerance, chance, verdict.

    A job that ran with other parameters than its baseline has no rows.
    """
    rows = []
    tasks = {task.name: task for task in plan.tasks}
    for job, gates in baselines.jobs.items() if baselines else ():
        if job in tasks and (job not in measured or comparable(tasks[job].parameters) != gates.parameters):
            continue
        for metric, gate in gates.metrics.items():
            found = measured.get(job, {}).get(metric)
            rows.append(
                {"job": job, "metric": metric, "found": found, **gate.model_dump(), "verdict": gate.verdict(found)}
            )
    columns = ["job", "metric", "found", "value", "tolerance", "chance", "verdict"]
    return pd.DataFrame(rows, columns=columns).astype({"found": float})


def derive(plan: Plan, seeds: Sequence[int], measured: Sequence[Metrics]) -> tuple[Baselines, list[str]]:
    """Baselines from the metrics of several seeds, the profile's own first; also what could not be gated, in sentences.

    A metric whose chance value would pass its gate gets none: such a gate could not fail.
    """
    jobs, left_out = {}, []
    for task in plan.tasks:
        gates = {}
        for metric, value in measured[0][task.name].items():
            chance = _chance(plan, task.notebook.stem, metric)
            values = [run[task.name][metric] for run in measured if metric in run[task.name]]
            if chance is None or len(values) < len(measured):
                why = "no chance value is known" if chance is None else "not every seed has it"
                left_out.append(f"{task.name}: {metric} is not gated: {why}.")
                continue
            spread = float(np.std(values, ddof=1))
            tolerance = max(_SPREADS * spread, _SHARE * abs(value - chance), _LEAST)
            gate = Gate(value=_rounded(value), tolerance=_rounded(tolerance), chance=chance)
            if gate.verdict(chance) == "regression":
                gates[metric] = gate
            else:
                left_out.append(f"{task.name}: {metric} is not gated: {value:.4g} is within {tolerance:.4g} of chance.")
        if gates:
            jobs[task.name] = JobGates(parameters=comparable(task.parameters), metrics=gates)
    return Baselines(seeds=tuple(seeds), jobs=jobs), left_out


def changes(before: Baselines | None, after: Baselines) -> pd.DataFrame:
    """A row per gate that is new, gone or another one: job, metric, then value and tolerance before and after."""
    rows = {}
    for column, baselines in (("before", before), ("after", after)):
        for job, gates in baselines.jobs.items() if baselines else ():
            for metric, gate in gates.metrics.items():
                shown = f"{gate.value:.4g} ± {gate.tolerance:.2g} (chance {gate.chance:g})"
                rows.setdefault((job, metric), {"before": "", "after": ""})[column] = shown
    changed = {key: row for key, row in rows.items() if row["before"] != row["after"]}
    index = pd.MultiIndex.from_tuples(list(changed), names=["job", "metric"])
    return pd.DataFrame(list(changed.values()), index=index, columns=["before", "after"])


def _chance(plan: Plan, notebook: str, metric: str) -> float | None:
    """The first pattern that fits counts."""
    patterns = plan.chance.get(notebook, {})
    return next((value for pattern, value in patterns.items() if fnmatchcase(metric, pattern)), None)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
