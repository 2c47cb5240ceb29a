"""Results by kind of question: how many hops it has, and how many of them the logged questions share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

import pandas as pd

from lagkit.datasets import loaders as data
from lagkit.datasets.loaders import Stratum
from lagkit.stats import metrics
from lagkit.stats.intervals import Hops
from lagkit.util.errors import DataError

if TYPE_CHECKING:
    from lagkit.runs.experiment import Experiment


class Strata(NamedTuple):
    """A run's unseen questions by overlap; strata without questions are left out.

    means: as `metrics.summarize`, by (overlap, policy). differences: as `metrics.compare`, by (overlap, policy,
    metric).
    """

    means: pd.DataFrame
    differences: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Means and differences in one row for each (overlap, policy); the baseline has no difference.

        Behind the columns of `means`: `em_diff`, `em_low`, `em_high` and so on, for each score and the rounds.
        """
        wide = self.differences[["mean", "low", "high"]].unstack("metric").swaplevel(axis="columns")
        wide = wide.reindex(columns=self.differences.index.unique("metric"), level=0)
        wide.columns = [f"{metric}_{'diff' if name == 'mean' else name}" for metric, name in wide.columns]
        return self.means.join(wide)


def overlaps(experiment: Experiment) -> pd.Series:
    """Unseen question id -> its overlap with logged questions, an ordered categorical; DataError without hops."""
    if reason := experiment.data.no_strata:
        raise DataError(reason)
    questions = experiment.questions("unseen")
    found = pd.Categorical(data.overlaps(experiment.log_questions, questions), get_args(Stratum), ordered=True)
    index = pd.Index([question.id for question in questions], name="question_id")
    return pd.Series(found, index, name="overlap")


def outcomes(experiment: Experiment, results: pd.DataFrame) -> Strata:
    """The results on unseen questions within each stratum; `results` must have some. Raises DataError as `overlaps`."""
    return by_overlap(results, overlaps(experiment), experiment.data.hops)


def by_overlap(results: pd.DataFrame, kind: pd.Series, hops: Hops) -> Strata:
    """The same without the run; `kind` as `overlaps` gives it."""
    parts = _parts(results[results["split"] == "unseen"], kind)
    means = {name: metrics.summarize(own) for name, own in parts}
    differences = {name: metrics.compare(own, hops) for name, own in parts}
    return Strata(*(pd.concat(found, names=[kind.name]).droplevel("split") for found in (means, differences)))


def about(experiment: Experiment) -> str:
    """Overlap of unseen with logged questions, in a sentence, or why it is not known."""
    if experiment.data.no_strata:
        return experiment.data.no_strata
    found = overlaps(experiment)
    counts = ", ".join(f"{name} {count}" for name, count in found.value_counts(sort=False).items())
    return (
        f"{(found != 'none').sum()} of {len(found)} unseen questions share a hop with a logged one "
        f"(by what they share: {counts})."
    )


def facts(experiment: Experiment) -> pd.DataFrame:
    """A row for each question of the run, by id: `split`, `question`, `gold` answer, `hops` (0: not known), `overlap`.

    `overlap` is with logged questions: a categorical in the order of `data.Stratum`, empty without hops.
    """
    rows = {
        question.id: {
            "split": split,
            "question": question.text,
            "gold": question.answers[0],
            "hops": len(question.hops),
            "overlap": None if experiment.data.no_strata else data.overlap(experiment.log_questions, question),
        }
        for split in experiment.config.data.splits
        for question in experiment.questions(split)
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("question_id")
    return table.assign(overlap=pd.Categorical(table["overlap"], get_args(Stratum), ordered=True))


def differences_by(experiment: Experiment, results: pd.DataFrame, kind: pd.Series) -> pd.DataFrame:
    """`Experiment.differences` within each kind of question: `kind` (question id -> kind) names a level in front."""
    parts = {name: experiment.differences(own) for name, own in _parts(results, kind)}
    return pd.concat(parts, names=[kind.name])


def counted(differences: pd.DataFrame) -> pd.DataFrame:
    """The same with the number of questions behind the labels of the first level, for a figure: `all (12)`."""
    level = differences.index.names[0]
    count = differences["n"].groupby(level=level, sort=False, observed=True).first().astype(int)
    return differences.rename(index={name: f"{name} ({n})" for name, n in count.items()}, level=level)


def _parts(results: pd.DataFrame, kind: pd.Series) -> list[tuple[str, pd.DataFrame]]:
    """The results of each kind that has any."""
    groups = kind.groupby(kind, observed=True).groups.items()
    parts = [(name, results[results["question_id"].isin(ids)]) for name, ids in groups]
    return [(name, own) for name, own in parts if not own.empty]
