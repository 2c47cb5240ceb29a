"""A run's results as a page of Markdown: tables with intervals, what the logs hold, and findings in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

_SCORE_NAMES = {"em": "EM", "f1": "F1", "accuracy": "accuracy", "accuracy_flexible": "accuracy (flexible)"}
# What stands over a column of costs, and how its numbers are shown.
_COSTS = {name: (f"{name} tokens", ".0f") for name in ("prefilled", "injected", "generated")}
_COSTS |= {"seconds": ("seconds", ".2f"), "cost": ("cost", ".3g")}
_FOLDERS = ("data", "out")


def markdown(
    summary: pd.DataFrame, differences: pd.DataFrame, logs: pd.DataFrame, manifest: dict[str, Any], facts: Sequence[str]
) -> str:
    """The report of one run.

    summary, differences: as `metrics.summarize` and `metrics.compare` give them. logs: `LogStore.summary()`. facts:
    sentences on the questions and logs, for the reader to judge the numbers by.
    """
    settings = manifest["settings"]
    scores = [name for name in _SCORE_NAMES if name in summary]
    parts = [f"# {settings['dataset'] or 'Run'} with {settings['model']}", "\n".join(f"- {fact}" for fact in facts)]
    for split in summary.index.unique("split"):
        part = summary.xs(split, level="split")
        parts.append(f"## {split.capitalize()} questions (n = {part['n'].iloc[0]})")
        parts.append(_outcomes(part, differences, split, scores))
        parts.append(f"Per question:\n\n{_costs(part)}")
        parts.append("\n".join(f"- {sentence}" for sentence in findings(differences, split)))
    parts.append(f"## Stored logs\n\n{table(['block', *logs.columns], logs.reset_index().values.tolist())}")
    shown = [[name, _plain(value)] for name, value in settings.items() if name not in _FOLDERS]
    parts.append(f"## Settings\n\n{table(['setting', 'value'], shown)}")
    return "\n\n".join(parts) + "\n"


def findings(differences: pd.DataFrame, split: str) -> list[str]:
    """One sentence per policy: what differs from no logs, and what cannot be told apart from it."""
    sentences = []
    part = differences.xs(split, level="split") if split in differences.index.get_level_values("split") else None
    if part is None:
        return sentences
    for policy, rows in part.groupby(level="policy", sort=False):
        told = []
        for (_, metric), row in rows.iterrows():
            name, size = _SCORE_NAMES.get(metric, metric), interval(row, metric)
            if row["low"] <= 0 <= row["high"]:
                told.append(f"no difference detected in {name} ({size})")
            else:
                told.append(
                    f"{'more' if row['mean'] > 0 else 'fewer'} rounds ({size})"
                    if metric == "rounds"
                    else f"{'higher' if row['mean'] > 0 else 'lower'} {name} ({size})"
                )
        sentences.append(f"`{policy}` against `no_logs`: {'; '.join(told)}.")
    return sentences


def _outcomes(part: pd.DataFrame, differences: pd.DataFrame, split: str, scores: Sequence[str]) -> str:
    rows = []
    for policy, row in part.iterrows():
        cells = [f"`{policy}`"]
        for metric in (*scores, "rounds"):
            value = f"{row[metric]:.2f}" if metric == "rounds" else f"{100 * row[metric]:.1f}"
            if (policy, split, metric) in differences.index:
                value += f" ({interval(differences.loc[(policy, split, metric)], metric)})"
            cells.append(value)
        rows.append([*cells, f"{100 * row['abstention']:.0f}%", int(row["failures"])])
    heads = ["variant", *(_SCORE_NAMES[s] for s in scores), "rounds", "abstained", "failed"]
    return table(heads, rows) + "\n\nIn parentheses: difference to `no_logs` with its 95% interval."


def _costs(part: pd.DataFrame) -> str:
    names = [name for name in _COSTS if name in part]
    rows = [[f"`{policy}`", *(format(row[name], _COSTS[name][1]) for name in names)] for policy, row in part.iterrows()]
    return table(["variant", *(_COSTS[name][0] for name in names)], rows)


def interval(row: pd.Series, metric: str) -> str:
    """Mean and interval; scores in points of 100."""
    scale, digits = (1, 2) if metric == "rounds" else (100, 1)
    mean, low, high = (f"{scale * row[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def table(heads: Iterable[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [list(heads)]
    lines.append(["---"] * len(lines[0]))
    lines += rows
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
