"""A run's results as a page of Markdown: tables with intervals, what the logs hold, and findings in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lagkit.stats.metrics import scores_in
from lagkit.stats.strata import Strata
from lagkit.stats.wording import interval, judged
from lagkit.util.markdown import literal, table

_SCORE_NAMES = {
    **{"em": "EM", "f1": "SQuAD F1", "f1_hotpot": "HotpotQA F1"},
    **{"accuracy": "accuracy", "accuracy_flexible": "flexible accuracy"},
}
# What stands over a column of costs, and how its numbers are shown.
_COSTS = {name: (f"{name} tokens", ".0f") for name in ("prefilled", "injected", "generated")}
_COSTS |= {"seconds": ("seconds", ".2f"), "cost": ("cost", ".3g")}
_FOLDERS = ("data", "out", "store")
_IN_PARENTHESES = "In parentheses: difference to `no_logs` with its 95% interval."
_SHARED = {"all": "All hops", "final": "The final hop, not all", "other": "Another hop only", "none": "No hop"}


def markdown(
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    strata: Strata | None,
    logs: pd.DataFrame,
    manifest: dict[str, Any],
    facts: Sequence[str],
) -> str:
    """The report of one run.

    summary, differences: as `metrics.summarize` and `metrics.compare` give them. strata: the unseen questions by
    overlap, None where it is not known (`facts` should say so). logs: `LogStore.summary()`. facts:
    sentences on the questions and logs, for the reader to judge the numbers by.
    """
    settings = manifest["settings"]
    scores = scores_in(summary)
    title = literal(f"{settings['dataset'] or 'Run'} with {settings['model']}")
    parts = [f"# {title}", "\n".join(f"- {literal(fact)}" for fact in facts)]
    for split in summary.index.unique("split"):
        part = summary.xs(split, level="split")
        parts.append(f"## {split.capitalize()} questions (n = {part['n'].iloc[0]})")
        parts.append(_outcomes(part, _at(differences, "split", split), scores) + f"\n\n{_IN_PARENTHESES}")
        parts.append(f"Per question:\n\n{_costs(part)}")
        parts.append("\n".join(f"- {sentence}" for sentence in findings(differences, split)))
        if strata and split == "unseen":
            parts += _by_overlap(strata, scores)
    parts.append(f"## Stored logs\n\n{table(['block', *logs.columns], logs.reset_index().values.tolist())}")
    shown = [[name, _plain(value)] for name, value in settings.items() if name not in _FOLDERS]
    parts.append(f"## Settings\n\n{table(['setting', 'value'], shown)}")
    return "\n\n".join(parts) + "\n"


def findings(differences: pd.DataFrame, split: str) -> list[str]:
    """One sentence per policy: in what it differs from no logs, in what it equals it, and what remains open."""
    sentences = []
    for policy, rows in _at(differences, "split", split).groupby(level="policy", sort=False):
        told = []
        for (_, metric), row in rows.iterrows():
            words = ("more", "fewer") if metric == "rounds" else ("higher", "lower")
            told.append(f"{_SCORE_NAMES.get(metric, metric)} {judged(row, metric, *words)} ({interval(row, metric)})")
        sentences.append(f"`{policy}` against `no_logs`: {'; '.join(told)}.")
    return sentences


def _by_overlap(strata: Strata, scores: Sequence[str]) -> list[str]:
    """A heading and a table for each stratum."""
    parts = ["### Unseen questions by what they share with logged ones", _IN_PARENTHESES]
    for stratum in strata.means.index.unique("overlap"):
        means, differences = (_at(frame, "overlap", stratum) for frame in strata)
        parts.append(f"#### {_SHARED[stratum]} (n = {means['n'].iloc[0]})")
        parts.append(_outcomes(means, differences, scores))
    return parts


def _outcomes(part: pd.DataFrame, differences: pd.DataFrame, scores: Sequence[str]) -> str:
    rows = []
    for policy, row in part.iterrows():
        cells = [f"`{policy}`"]
        for metric in (*scores, "rounds"):
            value = f"{row[metric]:.2f}" if metric == "rounds" else f"{100 * row[metric]:.1f}"
            if (policy, metric) in differences.index:
                value += f" ({interval(differences.loc[(policy, metric)], metric)})"
            cells.append(value)
        rows.append([*cells, f"{100 * row['abstention']:.0f}%", int(row["failures"])])
    heads = ["variant", *(_SCORE_NAMES.get(s, s) for s in scores), "rounds", "abstained", "failed"]
    return table(heads, rows)


def _at(frame: pd.DataFrame, level: str, value: str) -> pd.DataFrame:
    """The rows at one label of a level, which may be none: a run without variants has no differences."""
    return frame[frame.index.get_level_values(level) == value].droplevel(level)


def _costs(part: pd.DataFrame) -> str:
    names = [name for name in _COSTS if name in part]
    rows = [[f"`{policy}`", *(format(row[name], _COSTS[name][1]) for name in names)] for policy, row in part.iterrows()]
    return table(["variant", *(_COSTS[name][0] for name in names)], rows)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
