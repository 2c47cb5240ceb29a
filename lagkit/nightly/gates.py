"""Gates: a metric fails when it moves from its baseline by more than its tolerance, for the worse or for the better.

A run with the baseline's own seed gives the same answers but for rounding, so its answers are compared one by one, and
tolerances are those of a flip or two. Only a run with another seed is allowed the spread between worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from scipy.stats import t

from lagkit.nightly.profile import Plan
from lagkit.stats.changed import NONE, compared
from lagkit.util.files import intact, write_json, write_table
from lagkit.util.plainjson import read_json
from lagkit.util.settings import Settings

Verdict = Literal["ok", "better", "regression", "missing"]
Metrics = Mapping[str, Mapping[str, float]]  # job -> metric -> value
Answers = Mapping[str, pd.DataFrame]  # job -> rows, as `changed.answers` gives them

FAILED = ("regression", "better", "missing")  # what is better fails until it is accepted as the new baseline

# What rounding, which differs between processors, may do to a variant: answers changed, share of the questions that
# read another log, and shift of the median answer's doubt in powers of ten.
_FLIPS = 2
_READ = 0.05
_DOUBT = 0.03
_SHARE = 0.02  # the tolerance of what is no mean over answers, as a share of its value
_NOT_COMPARED = {"data"}  # the path of a folder says nothing of its content


class RegressionGate(Settings):
    """What a metric was with the profile's own seed, and what it may be.

    value: with that seed. tolerance: of the difference to it. chance: what it would be if the method did nothing.
    mean, spread: over seeds; with another seed a metric lies within `spread` of `mean` nineteen times out of twenty.
    None where that is indistinguishable from chance: such a gate could not fail.
    """

    value: float
    tolerance: float
    chance: float
    mean: float | None = None
    spread: float | None = None

    def verdict(self, found: float | None, *, own: bool = True) -> Verdict:
        """Verdict on a new measurement, None if the metric is missing. own: measured with the profile's own seed."""
        if found is None:
            return "missing"
        centre, tolerance = (self.value, self.tolerance) if own else (self.mean or 0.0, self.spread or 0.0)
        if abs(found - centre) <= tolerance * (1 + 1e-9):
            return "ok"
        return "better" if (found > centre) == (centre >= self.chance) else "regression"


class JobGates(Settings):
    """Gates of one job, and the parameters for which they hold."""

    parameters: dict[str, Any]
    metrics: dict[str, RegressionGate]


class Baselines(Settings):
    """The gates of a profile, by job. seeds: whose spread those of other seeds were derived from, its own first."""

    what: ClassVar[str] = "baselines"

    seeds: tuple[int, ...]
    jobs: dict[str, JobGates]

    @classmethod
    def load(cls, path: Path) -> Baselines | None:
        """From a file; None if there is none. Raises ConfigError if it is damaged."""
        if not path.exists():
            return None
        return cls.parse(read_json(path))

    def save(self, path: Path, answers: Answers) -> None:
        """Write the file, and the answers of the jobs beside it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        gated = {job: rows for job, rows in answers.items() if job in self.jobs} or {"": NONE}
        write_table(path.with_suffix(".parquet"), pd.concat(gated, names=["job"]).droplevel(1).reset_index())
        write_json(path, self.model_dump(mode="json", exclude_none=True))


def load_answers(path: Path) -> dict[str, pd.DataFrame]:
    """The answers of each job that stand beside the baselines at `path`; empty if there are none."""
    file = path.with_suffix(".parquet")
    with intact(file, "take it from version control"):
        rows = pd.read_parquet(file) if file.exists() else NONE.assign(job="")
    return {str(job): own.drop(columns="job") for job, own in rows.groupby("job")}


def count(measured: Metrics, answers: Answers, kept: Answers) -> dict[str, dict[str, float]]:
    """The metrics, and how far each variant's answers are from those that are `kept`: `changed.compared`, as metrics.

    These are `changed.VARIANT.SPLIT`, and likewise `read` and `doubt`.
    """
    found = {job: dict(own) for job, own in measured.items()}
    for job in found.keys() & kept.keys():
        for (policy, split), row in compared(kept[job], answers.get(job, NONE)).iterrows():
            told = row[["changed", "read", "doubt"]].dropna().items()
            found[job] |= {f"{name}.{policy}.{split}": float(value) for name, value in told}
    return found


def comparable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a baseline depends on."""
    return {name: value for name, value in parameters.items() if name not in _NOT_COMPARED}


def compare(baselines: Baselines | None, plan: Plan, measured: Metrics) -> pd.DataFrame:
    """A row per gate of the jobs in `measured`: job, metric, found, value, tolerance, chance, verdict.

    measured: as `count` gives it. A job that ran with another seed is held against the spread between seeds; one that
    ran with other parameters has no rows.
    """
    rows = []
    planned = {task.name: comparable(task.parameters) for task in plan.tasks}
    for job, gates in baselines.jobs.items() if baselines else ():
        parameters = planned.get(job, gates.parameters)
        failed, own = job in planned and job not in measured, parameters == gates.parameters
        if failed or {**parameters, "seed": None} != {**gates.parameters, "seed": None}:
            continue
        for metric, gate in gates.metrics.items():
            centre, tolerance = (gate.value, gate.tolerance) if own else (gate.mean, gate.spread)
            if centre is not None:
                found = measured.get(job, {}).get(metric)
                rows.append([job, metric, found, centre, tolerance, gate.chance, gate.verdict(found, own=own)])
    columns = ["job", "metric", "found", "value", "tolerance", "chance", "verdict"]
    return pd.DataFrame(rows, columns=columns).astype({"found": float})


def derive(
    plan: Plan, seeds: Sequence[int], measured: Sequence[Metrics], answers: Answers
) -> tuple[Baselines, list[str]]:
    """Baselines from the metrics of several seeds, the profile's own first, and from the answers with that one.

    Also what is not gated, in sentences.
    """
    jobs, left_out = {}, []
    for task in plan.tasks:
        gates, rows = {}, answers.get(task.name, NONE)
        sizes = rows.groupby(["policy", "split"]).size()
        for metric, value in measured[0][task.name].items():
            chance = _known(plan.chance, task.notebook.stem, metric)
            values = [run[task.name][metric] for run in measured if metric in run[task.name]]
            if chance is None or len(values) < len(measured):
                why = "no chance value is known" if chance is None else "not every seed has it"
                left_out.append(f"{task.name}: {metric} is not gated: {why}.")
                continue
            usual = _FLIPS / _behind(metric, sizes) if len(sizes) else _SHARE * abs(value)
            given = _known(plan.tolerance, task.notebook.stem, metric)
            tolerance = _rounded(usual if given is None else given)
            limits = {"value": _rounded(value), "tolerance": tolerance, **_spread(values, chance, tolerance)}
            gates[metric] = RegressionGate(chance=chance, **limits)
        for (policy, split), row in compared(rows, rows).iterrows():
            tolerances = {"changed": _FLIPS, "read": max(_FLIPS, _READ * row["n"]), "doubt": _DOUBT}
            for name in row[list(tolerances)].dropna().index:
                chance, tolerance = 1.0 if name == "doubt" else row["n"], _rounded(tolerances[name])
                gates[f"{name}.{policy}.{split}"] = RegressionGate(value=0, tolerance=tolerance, chance=chance)
        if gates:
            jobs[task.name] = JobGates(parameters=comparable(task.parameters), metrics=gates)
    return Baselines(seeds=tuple(seeds), jobs=jobs), left_out


def _behind(metric: str, sizes: pd.Series) -> int:
    """How many answers a metric is a mean of: those of the policy (and split) that it ends with, else the fewest."""
    named = [n for (policy, split), n in sizes.items() if metric.endswith((f".{policy}.{split}", f".{policy}"))]
    return int(min(named or sizes))


def _spread(values: Sequence[float], chance: float, least: float) -> dict[str, float]:
    """The mean over seeds and the half-width of the 95% prediction interval of another; none that holds chance."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return {}
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) * np.sqrt(1 + 1 / n))
    spread = max(half, least, _SHARE * abs(mean - chance))
    return {} if abs(chance - mean) <= spread else {"mean": _rounded(mean), "spread": _rounded(spread)}


def changes(before: Baselines | None, after: Baselines) -> pd.DataFrame:
    """A row per gate that is new, removed or different: job, metric, then value and tolerance before and after."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for column, baselines in (("before", before), ("after", after)):
        for job, gates in baselines.jobs.items() if baselines else ():
            for metric, gate in gates.metrics.items():
                shown = f"{gate.value:.4g} ± {gate.tolerance:.2g} (chance {gate.chance:g})"
                rows.setdefault((job, metric), {"before": "", "after": ""})[column] = shown
    changed = {key: row for key, row in rows.items() if row["before"] != row["after"]}
    index = pd.MultiIndex.from_tuples(list(changed), names=["job", "metric"])
    return pd.DataFrame(list(changed.values()), index=index, columns=["before", "after"])


def _known(patterns: Mapping[str, Mapping[str, float]], notebook: str, metric: str) -> float | None:
    """The number of the first pattern that fits."""
    own = patterns.get(notebook, {})
    return next((number for pattern, number in own.items() if fnmatchcase(metric, pattern)), None)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
