"""What every notebook begins and ends with: a run opened from its parameters, and findings put on record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from lagkit import files, flips, manifest, plots
from lagkit.config import RunConfig
from lagkit.errors import ConfigError, DataError
from lagkit.experiment import Experiment
from lagkit.paths import at
from lagkit.progress import quiet
from lagkit.report import interval, judged, literal

ANSWERS = "answers.parquet"


def open_run(tier: str, run: str | Path, *, data: str = "", seed: int = 0, **settings: Any) -> Experiment:
    """A run of `tier` in the folder `run`, whose finished stages stay as they are; also sets figures and warnings up.

    `data`: a folder of questions, where the tier's own are not wanted. `seed`: of the test world, or of the samples
    that are drawn from `data`. `settings`: as in `RunConfig`; an empty one (`""`, 0, None) leaves the tier's, and so
    does each control that `world` doesn't name.
    Raises ConfigError, DataError.
    """
    quiet()
    plots.for_notebooks()
    given = {name: value for name, value in settings.items() if value not in ("", 0, None, (), [])}
    world = given.pop("world", {})
    if data:
        given["data"] = data
    config = RunConfig.of(tier, out=run, seed=seed, **given)
    if config.world is not None:
        given["world"] = {**config.world, **world, "seed": seed}
        config = RunConfig.of(tier, out=run, seed=seed, **given)
    elif world:
        raise ConfigError(
            f"The questions of {tier} are no test world, which has controls: give their folder as `data`."
        )
    return Experiment(config)


def at_least_one(**given: int | Sequence[Any]) -> None:
    """Refuse parameters of a notebook, numbers or lists, of which it needs at least one; raises ConfigError."""
    for name, value in given.items():
        if (value if isinstance(value, int) else len(value)) < 1:
            what = "a whole number above 0" if isinstance(value, int) else "at least one"
            raise ConfigError(f"Nothing could be shown with {name} = {value!r}: give {what}.")


def difference(policy: str, row: Mapping[str, float], metric: str, baseline: str = "no_logs") -> str:
    """A sentence on a row of `metrics.compare`: a gain, a loss, equal within the margin, or inconclusive."""
    name = metric if metric == "rounds" else f"points of {metric.upper() if len(metric) < 3 else metric}"
    shown = f"{interval(row, metric)} {name}"
    return f"`{policy}` against `{baseline}`: {judged(row, metric)} ({shown})."


def conclude(
    out: str | Path,
    measured: Mapping[str, Any],
    findings: Sequence[str],
    settings: Experiment | Mapping[str, Any],
    answers: pd.DataFrame | None = None,
) -> Markdown:
    """Write `metrics.json` into `out`; returns the findings as a list to show, in which tags and links are mere text.

    measured: a name and a finite number each, which the nightly gates compare. settings: what they were made with, by
    name, or the run whose settings these are. answers: what the numbers come from, a row for each policy, split and
    question as in results, which the gates compare one by one; written to `answers.parquet` (`flips.answers`).
    Raises DataError if a number is not finite, or if a question has two answers of one policy.
    """
    for name, value in measured.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise DataError(f"The metric {name} is {value!r}: metrics.json holds finite numbers only.")
    folder = at(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ANSWERS).unlink(missing_ok=True)
    if answers is not None:
        rows = flips.answers(answers)
        if twice := rows[rows.duplicated(["policy", "split", "question_id"])].to_dict("records"):
            raise DataError(f"{twice[0]['policy']} answers {twice[0]['question_id']} twice: name the policies apart.")
        rows.to_parquet(folder / ANSWERS, compression="zstd")
    record = {
        "metrics": {name: float(value) for name, value in measured.items()},
        "findings": list(findings),
        "settings": settings.config.model_dump(mode="json") if isinstance(settings, Experiment) else dict(settings),
        "git": manifest.git_state(),
        "machine": manifest.machine(),
    }
    files.write_json(folder / "metrics.json", record)
    return Markdown("\n".join(f"- {literal(finding)}" for finding in findings))
