"""A nightly run as one HTML page: status of each job, metrics against baselines and earlier nights, links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from lagkit.nightly import history
from lagkit.nightly.gates import FAILED, Metrics
from lagkit.nightly.profile import Plan, Task
from lagkit.nightly.run import METRICS, Outcome, read_metrics
from lagkit.runs.manifest import git_state, versions
from lagkit.util import files

FILE = "report.html"

_WIDTH, _HEIGHT = 90, 18  # of a sparkline, in pixels


def write(
    out: Path,
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    measured: Metrics,
    compared: pd.DataFrame,
    past: pd.DataFrame,
    summary: str = "",
) -> Path:
    """Write the page into `out`; returns its path. Links are relative, so the folder can be moved.

    compared: as `gates.compare` gives it. past: the history, this run included. summary: a table as plain text.
    """
    environment = Environment(
        loader=PackageLoader("lagkit.nightly", "."),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    failed = [name for name, outcome in outcomes.items() if outcome.status != "ok"]
    worse = compared[compared["verdict"].isin(FAILED)]
    page = environment.get_template("page.html").render(
        profile=plan.profile,
        about=plan.about,
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=_headline(failed, len(worse), len(compared)),
        good=not failed and worse.empty,
        jobs=[_job(out, task, outcomes[task.name]) for task in plan.tasks],
        worse=worse.to_dict("records"),
        tables={t.name: _metrics(t, measured[t.name], compared, past) for t in plan.tasks if measured.get(t.name)},
        summary=summary,
        baseline=plan.baseline.name if plan.baseline.exists() else None,
        git=git_state(),
        versions=versions(),
    )
    path = out / FILE
    files.write(path, page)
    return path


def _headline(failed: Sequence[str], worse: int, gates: int) -> str:
    parts = []
    if failed:
        parts.append(f"{len(failed)} {'job' if len(failed) == 1 else 'jobs'} did not succeed")
    if worse:
        parts.append(f"{worse} of {gates} gates failed")
    if not parts:
        parts.append(f"All jobs succeeded and all {gates} gates passed" if gates else "All jobs succeeded; no gates")
    return "; ".join(parts) + "."


def _job(out: Path, task: Task, outcome: Outcome) -> dict[str, Any]:
    folder = out / "jobs" / task.name
    record = folder / METRICS
    findings = [str(finding) for finding in read_metrics(folder).get("findings", [])]
    files = {
        "page": folder / f"{task.notebook.stem}.html",
        "notebook": folder / task.notebook.name,
        "metrics": record,
        "log": folder / "log.txt",
    }
    return {
        "name": task.name,
        "outcome": outcome,
        "parameters": ", ".join(f"{name}={value}" for name, value in task.parameters.items()),
        "findings": findings,
        "links": {name: path.relative_to(out).as_posix() for name, path in files.items() if path.exists()},
    }


def _metrics(
    task: Task, measured: Mapping[str, float], compared: pd.DataFrame, past: pd.DataFrame
) -> list[dict[str, Any]]:
    """A row per metric, gated ones first."""
    gates = {row["metric"]: row for row in compared[compared["job"] == task.name].to_dict("records")}
    rows = []
    for metric in [*(m for m in measured if m in gates), *(m for m in measured if m not in gates)]:
        values = history.last_values(past, task, metric)
        change = f"{values[-1] - values[-2]:+.4g}" if len(values) > 1 else ""
        rows.append(
            {
                "metric": metric,
                "found": measured[metric],
                "gate": gates.get(metric),
                "change": change,
                "nights": len(values),
                "line": _points(values),
            }
        )
    return rows


def _points(values: Sequence[float]) -> str:
    """The points of an SVG polyline through the values; empty for fewer than two."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (_WIDTH - 4) / (len(values) - 1)
    return " ".join(
        f"{2 + i * step:.1f},{_HEIGHT - 3 - (v - low) / span * (_HEIGHT - 6):.1f}" for i, v in enumerate(values)
    )
