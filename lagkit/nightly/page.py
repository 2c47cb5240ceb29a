"""A nightly run as one HTML page: verdict, headline figure, what failed or changed; all else is folded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import numpy as np
import pandas as pd

from lagkit.nightly import history
from lagkit.nightly.gates import FAILED, Metrics
from lagkit.nightly.history import Since
from lagkit.nightly.pages import template
from lagkit.nightly.profile import Plan, Task
from lagkit.nightly.run import METRICS, Outcome, read_metrics
from lagkit.runs.manifest import git_state, versions
from lagkit.util import files

FILE = "report.html"

_NIGHTS = 30  # that figures show
_REACH = 3.0  # tolerances above and below the baseline that a sparkline shows: the same for all
_CHANGED = 6  # gates that stand open because their value changed, those nearest to their limit


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
    nights = {task.name: history.nights(past, task) for task in plan.tasks}
    ran = {job: table.loc[~table["failed"]] for job, table in nights.items()}
    gates = [_gate(row, ran.get(row["job"])) for row in compared.to_dict("records")]
    jobs = [_job(out, task, outcomes[task.name], gates, measured.get(task.name, {}), nights) for task in plan.tasks]
    failed = [job for job in jobs if job["failed"]]
    worse = [gate for gate in gates if gate["failed"]]
    changed = sorted((gate for gate in gates if gate["changed"]), key=lambda gate: -gate["off"])
    page = template("report.html.j2").render(
        nonce=token_urlsafe(),
        plan=plan,
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        git=git_state(),
        versions=versions(),
        headline=_headline(len(failed), len(worse), len(gates)),
        since=min((one["since"] for one in [*failed, *worse] if one["since"]), default=None),
        panels=_panels(plan, gates, nights),
        failed=failed,
        worse=worse,
        changed=changed[:_CHANGED],
        changes=len(changed),
        gated=bool(gates),
        jobs=sorted(jobs, key=lambda job: (not job["failed"], job["passed"] == len(job["gates"]))),
        summary=summary,
    )
    return files.write(out / FILE, page)


def _headline(failed: int, worse: int, gates: int) -> str:
    parts = [f"{failed} {'job' if failed == 1 else 'jobs'} did not succeed"] if failed else []
    if worse:
        parts.append(f"{worse} of {gates} gates failed")
    if not parts:
        parts.append(f"All jobs succeeded and all {gates} gates passed" if gates else "All jobs succeeded; no gates")
    return "; ".join(parts) + "."


def _gate(row: dict[str, Any], ran: pd.DataFrame | None) -> dict[str, Any]:
    """A row of the tables. off: distance to the baseline in tolerances. spark: the last nights, on that scale.

    ran: the nights in which the job did not fail.
    """
    missing = row["verdict"] == "missing"
    values = None if ran is None else ran.get(row["metric"])
    values = pd.Series(dtype=float) if values is None else values if missing else values.dropna()
    numbers = values.to_numpy(float)  # arithmetic on thousands of short series takes seconds
    off = (numbers - row["value"]) / (row["tolerance"] or 1e-12)
    change = float(numbers[-1] - numbers[-2]) if len(numbers) > 1 and not missing else 0.0
    failed = row["verdict"] in FAILED
    bad = values.isna() if missing else pd.Series(abs(off) > 1 + 1e-9, values.index)
    recent = off[~np.isnan(off)].clip(-_REACH, _REACH)[-_NIGHTS:]
    return {
        **row,
        "failed": failed,
        "change": change,
        "changed": not failed and abs(change) > 1e-9,
        "off": abs(float(off[-1])) if len(off) and not missing else math.inf,
        "since": history.since(bad) if failed and len(bad) else None,
        "spark": _points(recent.tolist(), -_REACH, _REACH) if len(recent) > 1 else [],
    }


def _job(
    out: Path,
    task: Task,
    outcome: Outcome,
    gates: Sequence[dict[str, Any]],
    measured: Mapping[str, float],
    nights: Mapping[str, pd.DataFrame],
) -> dict[str, Any]:
    """A foldable row of the list of jobs, and what is behind it."""
    folder, failed, table = out / "jobs" / task.name, outcome.status != "ok", nights[task.name]
    own = [gate for gate in gates if gate["job"] == task.name]
    gated = {gate["metric"] for gate in own}
    links = {
        "notebook": folder / f"{task.notebook.stem}.html",
        "source": folder / task.notebook.name,
        "metrics": folder / METRICS,
        "log": folder / "log.txt",
    }
    since: Since | None = history.since(table["failed"]) if failed and len(table) else None
    record = read_metrics(folder)
    return {
        "name": task.name,
        "outcome": outcome,
        "failed": failed,
        "since": since,
        "gates": own,
        "passed": sum(not gate["failed"] for gate in own),
        "others": {metric: value for metric, value in measured.items() if metric not in gated},
        "parameters": ", ".join(f"{name}={value}" for name, value in task.parameters.items()),
        "findings": [str(finding) for finding in record.get("verdict") or record.get("findings", [])],
        "links": {name: path.relative_to(out).as_posix() for name, path in links.items() if path.exists()},
    }


def _panels(plan: Plan, gates: Sequence[dict[str, Any]], nights: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """The headline figure: EM and rounds of one variant over the nights; of KV's last round on unseen questions, if
    the profile's main job measures that."""
    for job in [plan.summary, *nights]:
        table = nights.get(job or "", pd.DataFrame())
        names = [str(name).removeprefix("em.") for name in table.columns if str(name).startswith("em.")]
        if not names:
            continue
        name = min(names, key=lambda name: ("kv_last_round" not in name, "unseen" not in name, "no_logs" in name))
        limits = {gate["metric"]: gate for gate in gates if gate["job"] == job}
        wanted = {f"em.{name}": "exact match", f"rounds_ratio.{name}": "rounds / no_logs"}
        return [
            _panel(f"{name}, {what}", table[metric].dropna().tail(_NIGHTS), limits.get(metric))
            for metric, what in wanted.items()
            if metric in table and table[metric].notna().any()
        ]
    return []


def _panel(title: str, values: pd.Series, gate: dict[str, Any] | None) -> dict[str, Any]:
    """A metric over the nights; its axis ends at multiples of 0.05 around the values and the baseline's band."""
    band = [gate["value"] - gate["tolerance"], gate["value"] + gate["tolerance"]] if gate else []
    low = math.floor(20 * min([*values, *band]) - 0.5) / 20
    high = math.ceil(20 * max([*values, *band]) + 0.5) / 20
    return {
        "title": title,
        "gate": gate,
        "now": values.iloc[-1],
        "low": low,
        "high": high,
        "band": [100 * (high - edge) / (high - low) for edge in reversed(band)],
        "points": _points(values.tolist(), low, high),
        "bad": [bool(band) and not min(band) - 1e-9 <= value <= max(band) + 1e-9 for value in values],
        "days": [started[:10] for started, _ in values.index],
    }


def _points(values: Sequence[float], low: float, high: float) -> list[tuple[float, float]]:
    """Values as points of a square of 100 by 100, the last at its right edge."""
    step = 100 / max(len(values) - 1, 1)
    return [
        (round(100 - step * (len(values) - 1 - i), 1), round(100 * (high - value) / (high - low), 1))
        for i, value in enumerate(values)
    ]
