"""The page on what kept tokens carry, from committed rows: `docs/results/carry.md`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lagkit.datasets.world.carry import LOGS, RUNGS, items
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.stats.wording import judged
from lagkit.studies import carry
from lagkit.util import files
from lagkit.util.markdown import table

PLAIN, CONTROL = "plain", "control"

_INTRO = f"""# What do the kept tokens carry?

A log's last round says "Kelan's spouse is Bora", an earlier round of it that Kelan is Arlen. {LOGS} such logs stand in front
of the question "Who is Arlen's spouse?"; in each of them Kelan is somebody else, and no passage tells any more. Which of the
{LOGS} candidates has the highest probability? Chance is a third. The rungs of the ladder differ in where the alias is told:
not needed (`restated`), in the last round itself, one round back, two back.

- **plain**: the testbed's model, trained further on such logs as text, all of which the question sees.
- **control**: its twin, trained on the same logs with a mask that hides all rounds but the last from the question, so that
  carrying pays.

Made by `make carry`; the conditions are explained in [variants](../variants.md#controls-for-the-context). Means with 95%
intervals, in which questions that share a fact count as dependent; "equal" means within 3 points."""  # noqa: E501


def measured(folders: Mapping[str, str], questions: int, seed: int) -> pd.DataFrame:
    """The rows of `studies.carry.measure` for each model, with a column `model`."""
    world, prompt = items(seed, questions), Prompt.load("qa_short")
    found = [
        carry.measure(LM.load(folder, dtype="float32"), world, prompt).assign(model=name)
        for name, folder in folders.items()
    ]
    return pd.concat(found, ignore_index=True)


def save(page: Path, rows: pd.DataFrame) -> None:
    """Write the page beside its rows."""
    page.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(page.with_suffix(".parquet"), compression="zstd")
    files.write(page, markdown(page.with_suffix(".parquet")))


def markdown(rows: Path) -> str:
    """The page of the rows that `save` wrote."""
    by_model = {str(name): own for name, own in pd.read_parquet(rows).groupby("model", sort=False)}
    verdict = "\n".join(f"- {sentence}" for sentence in carry.verdict(by_model, PLAIN, CONTROL))
    parts = [_INTRO, f"## Verdict\n\n{verdict}"]
    for name, own in by_model.items():
        count = own.groupby("rung")["question_id"].nunique().max()
        parts.append(
            f"## {name}: right answers, percent ({count} questions a rung)\n\n{_means(own, 'right', 100, '.1f')}"
        )
        parts.append(f"### {name}: log-probability of the right candidate, nats\n\n{_means(own, 'gold', 1, '.2g')}")
        parts.append(f"### {name}: differences, points of right answers\n\n{_contrasts(own)}")
    return "\n\n".join(parts) + "\n"


def _means(rows: pd.DataFrame, measure: str, scale: float, digits: str) -> str:
    found = carry.means(rows)
    lines = []
    for condition in carry.CONDITIONS:
        cells = [found.loc[(rung, condition, measure)] for rung in RUNGS]
        told = ["{:{d}} [{:{d}}, {:{d}}]".format(*(scale * c[["mean", "low", "high"]]), d=digits) for c in cells]
        lines.append([condition, *told])
    return table(["condition", *RUNGS], lines)


def _contrasts(rows: pd.DataFrame) -> str:
    found = carry.contrasts(rows)
    lines = []
    for name in carry.CONTRASTS:
        cells = [found.loc[(rung, name, "right")] for rung in RUNGS]
        lines.append([name, *(f"{carry.points(cell)}, {judged(cell, 'right')}" for cell in cells)])
    return table(["difference", *RUNGS], lines)
