"""The variants of a finished run as `summary.json` and as a table for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.util.errors import DataError
from lagkit.util.files import intact, write_json

FILE = "summary.json"

_HEADS = ("n", "EM", "F1", "EM against no_logs", "rounds", "share of its rounds", "no answer")


def lift(job: Path, out: Path, seconds: float) -> dict[str, Any]:
    """Copy the `summary.json` (`run.summary`) of a job into `out`, with the `seconds` of the whole run; returns it.

    Raises DataError if the job wrote none, or it is damaged.
    """
    if not (job / FILE).exists():
        raise DataError(f"The job {job.name} wrote no {FILE}: name one that does as the profile's `summary`.")
    with intact(job / FILE, "delete the job's folder, and it runs again"):
        summary = {**json.loads((job / FILE).read_text(encoding="utf-8")), "seconds": round(seconds, 3)}
    write_json(out / FILE, summary)
    return summary


def shown(summary: dict[str, Any]) -> str:
    """The variants as a table of plain text, unseen questions first; scores in percent, differences in points."""
    rows = {}
    for split in ("unseen", "seen"):
        for policy, splits in summary["variants"].items():
            if split in splits:
                rows[split, policy] = dict(zip(_HEADS, _cells(policy, splits[split]), strict=True))
    return str(pd.DataFrame.from_dict(rows, orient="index").rename_axis(["questions", "variant"]).to_string())


def _cells(policy: str, row: dict[str, Any]) -> list[str]:
    against = ""
    if policy != "no_logs":
        mean, low, high = ("?" if value is None else f"{100 * value:+.1f}" for value in row["em_diff"])
        against = f"{mean} [{low}, {high}]"
    scores = [f"{100 * row[name]:.1f}" for name in ("em", "f1")]
    rounds = [f"{row['rounds']:.2f}", "" if policy == "no_logs" else f"{row['rounds_ratio']:.2f}"]
    return [str(row["n"]), *scores, against, *rounds, f"{100 * row['abstention']:.0f}%"]
