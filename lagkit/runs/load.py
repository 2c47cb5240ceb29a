"""Load a finished run: no model is loaded, and no question is answered."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from lagkit.policy import named_policies
from lagkit.runs.claim import recorded
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import RUN_DEPTH, Experiment
from lagkit.runs.report import read_table
from lagkit.util.errors import DataError
from lagkit.util.paths import at, refuse_links


def reopen(folder: str | Path, *, data: str = "", store: str = "") -> tuple[Experiment, pd.DataFrame]:
    """A run and its results on unseen questions, of every named variant that has answers.

    data: the run's folder of questions, where it has moved. store: the place of its log store, required where that is
    not in the run's folder: the run may come from a stranger, and resuming it writes there. Raises DataError where
    there is no run, where its store lies elsewhere, and where answers are missing.
    """
    folder = at(folder)
    refuse_links(folder, DataError, depth=RUN_DEPTH)
    settings = recorded(folder).get("settings", {})
    if not settings or not (folder / "traces").is_dir():
        raise DataError(
            f"There is no run in {folder}: make it with `lagkit run testbed out={folder}`, or name "
            "the folder of another one."
        )
    noted = settings.get("store")
    inside = "://" not in str(noted) and at(str(noted)).resolve().is_relative_to(folder.resolve())
    if noted is not None and not store and not inside:
        raise DataError(
            f"The run in {folder} notes a log store outside of its folder, {noted}: give that place as `store` if it "
            "is yours."
        )
    settings = {**settings, **{name: place for name, place in (("data", data), ("store", store)) if place}}
    experiment = Experiment(RunConfig.parse({**settings, "out": folder}))
    policies = [name for name in named_policies() if experiment.answers(name, "unseen").path.exists()]
    if "no_logs" not in policies:
        raise DataError(f"The run in {folder} has no answers without logs: nothing can be measured against them.")
    results, asked = experiment.scored(policies, ("unseen",)), len(experiment.questions("unseen"))
    for name in policies:
        if (answered := int((results["policy"] == name).sum())) < asked:
            raise DataError(
                f"The run in {folder} is not finished: {name} has answered {answered} of {asked} unseen questions. "
                "The command that began it resumes it."
            )
    return experiment, results


def published(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and differences as a run has reported them, where its traces are not at hand (`docs/results/`).

    The form is that of `Experiment.run` and `metrics.compare`. Raises DataError if a table is missing or damaged.
    """
    folder = at(folder)
    refuse_links(folder, DataError, depth=RUN_DEPTH)
    return (
        read_table(folder / "results.parquet", pd.read_parquet),
        read_table(folder / "differences.csv", partial(pd.read_csv, index_col=["policy", "split", "metric"])),
    )
