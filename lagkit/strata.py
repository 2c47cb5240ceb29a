"""Results by kind of question: how many hops it has, and how many of them the logged questions share."""

from __future__ import annotations

from typing import get_args

import pandas as pd

from lagkit.data import Stratum, overlap
from lagkit.experiment import Experiment


def facts(experiment: Experiment) -> pd.DataFrame:
    """A row for each question of the run, by id: `split`, `question`, `gold` answer, `hops` (0: not known), `overlap`.

    `overlap` is with the questions that the log store was built on (`data.overlap`), a categorical in its order.
    """
    rows = {
        question.id: {
            "split": split,
            "question": question.text,
            "gold": question.answers[0],
            "hops": len(question.hops),
            "overlap": overlap(experiment.log_questions, question),
        }
        for split in experiment.config.splits
        for question in experiment.questions(split)
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("question_id")
    return table.assign(overlap=pd.Categorical(table["overlap"], get_args(Stratum), ordered=True))


def differences_by(experiment: Experiment, results: pd.DataFrame, kind: pd.Series) -> pd.DataFrame:
    """`Experiment.differences` within each kind of question: `kind` is question id -> kind.

    The index has a level more, in front, named as `kind` is; each of its labels tells the number of questions.
    """
    parts = {}
    for name, ids in kind.groupby(kind, observed=True).groups.items():
        own = results[results["question_id"].isin(ids)]
        if not own.empty:
            parts[f"{name} ({own['question_id'].nunique()})"] = experiment.differences(own)
    return pd.concat(parts, names=[kind.name])
