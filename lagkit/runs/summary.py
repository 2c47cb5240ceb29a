"""Summary of a run for other programs: `summary.json`; the same as flat metrics, and as a table for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.runs import manifest
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics, strata
from lagkit.util import files
from lagkit.util.errors import DataError
from lagkit.util.paths import at

FILE = "summary.json"
_BASELINE = "no_logs"
_NAMES = {"em": "EM", "f1": "F1", "accuracy": "accuracy", "accuracy_flexible": "flexible"}

Numbers = dict[str, Any]


def summarize(experiment: Experiment, results: pd.DataFrame) -> Numbers:
    """`{"seconds": s, "variants": {policy: {split: numbers}}, "strata": {policy: {stratum: numbers}}}`.

    seconds: wall time of the run's sessions that came to an end. numbers: `n`, the mean scores (of
    `metrics.score`), `rounds`, `abstention`; and against `no_logs`, whose own are 0 and 1:
    `em_diff` (or `accuracy_diff`) as `[mean, low, high]`, where a bound that cannot be told is null, and
    `rounds_ratio`, the quotient of mean rounds (null where `no_logs` failed before its first). strata: the unseen
    questions by what they share with the logged ones; where the data name no hops it is empty, and `no_strata` says
    why.
    """
    means, differences = metrics.summarize(results), experiment.differences(results)
    by_overlap: Numbers = {"strata": {}}
    if experiment.data.no_strata:
        by_overlap["no_strata"] = experiment.data.no_strata
    elif "unseen" in set(results["split"]):
        found = strata.outcomes(experiment, results)
        by_overlap["strata"] = _numbers(found.means.swaplevel(0, 1), found.differences.swaplevel(0, 1))
    sessions = manifest.read_manifest(experiment.out).get("sessions", ())
    seconds = sum(session["seconds"] or 0.0 for session in sessions)
    return {"seconds": seconds, "variants": _numbers(means, differences), **by_overlap}


def _numbers(means: pd.DataFrame, differences: pd.DataFrame) -> dict[str, dict[str, Numbers]]:
    """The numbers of each policy in each part of the questions; `means` has an index (policy, part)."""
    scores = metrics.scores_in(means)
    told: dict[str, dict[str, Numbers]] = {}
    for (policy, part), row in means.iterrows():
        against: list[float | None] = [0.0, 0.0, 0.0]
        if policy != _BASELINE:
            found = differences.loc[(policy, part, scores[0])]
            against = [_number(found[name]) for name in ("mean", "low", "high")]
        rounds = float(means.loc[(_BASELINE, part), "rounds"])
        told.setdefault(policy, {})[part] = {
            "n": int(row["n"]),
            **{name: float(row[name]) for name in (*scores, "rounds", "abstention")},
            f"{scores[0]}_diff": against,
            "rounds_ratio": float(row["rounds"]) / rounds if rounds else None,
        }
    return told


def write(path: str | Path, summary: Numbers) -> None:
    """Write a summary as JSON, whole or not at all; makes the folder."""
    path = at(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, summary)


def flat(summary: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a summary as `name.policy.split`, for `lag.conclude`, without null; `no_logs` has no differences."""
    measured = {}
    for policy, splits in summary["variants"].items():
        for split, numbers in splits.items():
            for name, value in numbers.items():
                against = name == "rounds_ratio" or name.endswith("_diff")
                if name != "n" and value is not None and not (against and policy == _BASELINE):
                    measured[f"{name}.{policy}.{split}"] = value[0] if isinstance(value, list) else value
    return measured


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def lift(job: Path, out: Path, seconds: float) -> Numbers:
    """Copy the `summary.json` of a nightly job into `out`, with the `seconds` of the whole night; returns it.

    Raises DataError if the job wrote none, or it is damaged.
    """
    if not (job / FILE).exists():
        raise DataError(f"The job {job.name} wrote no {FILE}: name one that does as the profile's `summary`.")
    with files.intact(job / FILE, "delete the job's folder, and it runs again"):
        summary = {**json.loads((job / FILE).read_text(encoding="utf-8")), "seconds": round(seconds, 3)}
    files.write_json(out / FILE, summary)
    return summary


def shown(summary: Numbers) -> str:
    """The variants as a table of plain text, unseen questions first; scores in percent, differences in points."""
    rows = {}
    for split in ("unseen", "seen"):
        for policy, splits in summary["variants"].items():
            if split in splits:
                rows[split, policy] = _cells(policy, splits[split])
    return str(pd.DataFrame.from_dict(rows, orient="index").rename_axis(["questions", "variant"]).to_string())


def _cells(policy: str, row: Numbers) -> dict[str, str]:
    scores = {name: head for name, head in _NAMES.items() if name in row}
    main, against, rounds_ratio = next(iter(scores)), "", ""
    if policy != _BASELINE:
        bounds, ratio = row[f"{main}_diff"], row["rounds_ratio"]
        mean, low, high = ("?" if value is None else f"{100 * value:+.1f}" for value in bounds)
        against, rounds_ratio = f"{mean} [{low}, {high}]", "?" if ratio is None else f"{ratio:.2f}"
    return {
        "n": str(row["n"]),
        **{head: f"{100 * row[name]:.1f}" for name, head in scores.items()},
        f"{scores[main]} against no_logs": against,
        "rounds": f"{row['rounds']:.2f}",
        "share of its rounds": rounds_ratio,
        "no answer": f"{100 * row['abstention']:.0f}%",
    }
