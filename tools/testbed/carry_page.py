"""The page on what kept tokens carry, from committed rows: `docs/results/carry.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from lagkit.datasets.world.carry import LOGS, RUNGS, items
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.stats.wording import judged
from lagkit.util import files
from lagkit.util.markdown import table
from tools.testbed import carry_sites, carry_study

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


_SITS = """# Where does carried context sit?

The question behind the three logs of [carry](carry.md), on the rungs that only an earlier round can tell. Each log
stands there with the KV that its last round has alone (`block`). What its own context adds (`own` less `block`) is put
into some layers only (the first is 0), or cut to its largest singular directions, in each layer's keys and values.

**gain**: the share of the gain in log-probability of the right candidate (own less block, of the means) that the patch
recovers. **size**: numbers of the patch over those of the block. Means with
95% intervals, in which questions that share a fact count as dependent.

Made by `make carry`."""


def measured(folders: Mapping[str, str], questions: int, seed: int) -> pd.DataFrame:
    """The rows of `carry_study.measure` for each model, with a column `model`."""
    world, prompt = items(seed, questions), Prompt.load("qa_short")
    found = [
        carry_study.measure(LM.load(folder, dtype="float32"), world, prompt).assign(model=name)
        for name, folder in folders.items()
    ]
    return pd.concat(found, ignore_index=True)


def sited(folders: Mapping[str, str], questions: int, seed: int) -> pd.DataFrame:
    """The rows of `carry_sites.measure` for each model, with a column `model`."""
    world = [item for item in items(seed, questions) if item.scoped.rung in carry_study.BEYOND]
    prompt = Prompt.load("qa_short")
    found = [
        carry_sites.measure(LM.load(folder, dtype="float32"), world, prompt).assign(model=name)
        for name, folder in folders.items()
    ]
    return pd.concat(found, ignore_index=True)


def save(page: Path, rows: pd.DataFrame, told: Callable[[Path], str]) -> None:
    """Write a page beside its rows, which `told` makes it of."""
    page.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(page.with_suffix(".parquet"), rows)
    files.write(page, told(page.with_suffix(".parquet")))


def markdown(rows: Path) -> str:
    """The page of the rows that `save` wrote."""
    by_model = {str(name): own for name, own in pd.read_parquet(rows).groupby("model", sort=False)}
    verdict = "\n".join(f"- {sentence}" for sentence in carry_study.verdict(by_model, PLAIN, CONTROL))
    parts = [_INTRO, f"## Verdict\n\n{verdict}"]
    for name, own in by_model.items():
        count = own.groupby("rung")["question_id"].nunique().max()
        parts.append(
            f"## {name}: right answers, percent ({count} questions a rung)\n\n{_means(own, 'right', 100, '.1f')}"
        )
        parts.append(f"### {name}: log-probability of the right candidate, nats\n\n{_means(own, 'gold', 1, '.2g')}")
        parts.append(f"### {name}: differences, points of right answers\n\n{_contrasts(own)}")
    return "\n\n".join(parts) + "\n"


def sites(rows: Path) -> str:
    """The page of the rows of `sited` that `save` wrote."""
    parts = [_SITS]
    for name, own in pd.read_parquet(rows).groupby("model", sort=False):
        count, tokens = own.groupby("rung")["question_id"].nunique().max(), own["tokens"].mean()
        parts.append(f"## {name} ({count} questions a rung, {tokens:.1f} tokens kept of a log)\n\n{_sites(own)}")
    return "\n\n".join(parts) + "\n"


def _sites(rows: pd.DataFrame) -> str:
    found, gained = carry_study.means(rows), carry_sites.gains(rows)
    lines = []
    for condition, own in rows.groupby("condition", sort=False):
        cells = []
        for rung in carry_study.BEYOND:
            gain = gained.loc[(rung, condition)] if (rung, condition) in gained.index else None
            share = "" if gain is None else f"{carry_study.points(gain, '')}%"
            cells += [carry_study.points(found.loc[(rung, condition, "right")], ""), share]
        lines.append([condition, *cells, f"{own['share'].mean():.0%}"])
    names = [f"{rung}, {what}" for rung in carry_study.BEYOND for what in ("right, %", "gain")]
    return table(["patch", *names, "size"], lines)


def _means(rows: pd.DataFrame, measure: str, scale: float, digits: str) -> str:
    found = carry_study.means(rows)
    lines = []
    for condition in carry_study.CONDITIONS:
        cells = [found.loc[(rung, condition, measure)] for rung in RUNGS]
        told = ["{:{d}} [{:{d}}, {:{d}}]".format(*(scale * c[["mean", "low", "high"]]), d=digits) for c in cells]
        lines.append([condition, *told])
    return table(["condition", *RUNGS], lines)


def _contrasts(rows: pd.DataFrame) -> str:
    found = carry_study.contrasts(rows)
    lines = []
    for name in carry_study.CONTRASTS:
        cells = [found.loc[(rung, name, "right")] for rung in RUNGS]
        lines.append([name, *(f"{carry_study.points(cell)}, {judged(cell, 'right')}" for cell in cells)])
    return table(["difference", *RUNGS], lines)
