"""Question by question: which wrong answers a variant turns right, and which right ones it turns wrong."""

from __future__ import annotations

import pandas as pd

from lagkit.errors import ConfigError
from lagkit.metrics import SCORES, normalize

OUTCOMES = ("both right", "wrong to right", "right to wrong", "both wrong")

_KEYS = ["policy", "split", "question_id"]
NONE = pd.DataFrame(columns=[*_KEYS, "answer", "right", "rounds"])


def outcomes(results: pd.DataFrame, baseline: str = "no_logs") -> pd.DataFrame:
    """One row per policy other than the baseline, split and question that both answered.

    results: as `Experiment.run` gives them. Columns: `policy`, `split`, `question_id`, `outcome` (one of `OUTCOMES`),
    `answer_before` and `answer` (None: none was given), `rounds_before` and `rounds`. Right is an exact match, or the
    right letter. Raises ConfigError without results of the baseline.
    """
    score = next(name for name in SCORES if name in results)
    columns = ["policy", "split", "question_id", "answer", "rounds"]
    table = results[columns].assign(right=results[score] == 1.0)
    before = table[table["policy"] == baseline].drop(columns="policy")
    if before.empty:
        raise ConfigError(f"There are no results of {baseline!r} to compare with: run it too, or name another.")
    after = table[table["policy"] != baseline]
    both = after.merge(before, on=["split", "question_id"], suffixes=("", "_before"))
    same, turned = both["right"] == both["right_before"], both["right"].map({True: OUTCOMES[1], False: OUTCOMES[2]})
    kept = both["right"].map({True: OUTCOMES[0], False: OUTCOMES[3]})
    both["outcome"] = kept.where(same, turned)
    return both[["policy", "split", "question_id", "outcome", "answer_before", "answer", "rounds_before", "rounds"]]


def counts(results: pd.DataFrame, baseline: str = "no_logs") -> pd.DataFrame:
    """How many questions of each outcome: a row per policy and split, a column for each of `OUTCOMES`."""
    table = outcomes(results, baseline)
    found = table.groupby(["policy", "split", "outcome"], sort=False).size().unstack(fill_value=0)
    order = list(dict.fromkeys(zip(table["policy"], table["split"], strict=True)))
    return (
        found.reindex(index=pd.MultiIndex.from_tuples(order, names=["policy", "split"]), columns=list(OUTCOMES))
        .fillna(0)
        .astype(int)
    )


def answers(results: pd.DataFrame) -> pd.DataFrame:
    """What another run is compared by: `policy`, `split`, `question_id`, `answer` in normal form, `right`, `rounds`.

    results: as `Experiment.run` gives them; `split` may be missing, and where it holds no score, `right` is its own.
    """
    score = next((name for name in SCORES if name in results), "right")
    told = {"right": results[score] == 1.0, "rounds": results["rounds"].astype(float)}
    if "answer" in results:
        told["answer"] = results["answer"].map(normalize, na_action="ignore")
    table = results.assign(**({"split": "unseen"} if "split" not in results else {}), **told)
    return table.reindex(columns=NONE.columns).reset_index(drop=True)


def changed(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series:
    """How many answers are others now, by policy and split of `before`: in words, right or wrong, or in rounds.

    before, after: as `answers` gives them. A question that only one of them holds has changed.
    """
    both = before.merge(after, how="left", on=_KEYS, suffixes=("", "_after"), indicator="found")
    same = both["found"] == "both"
    for name in ("answer", "right", "rounds"):
        one, other = both[name], both[f"{name}_after"]
        same &= (one == other) | (one.isna() & other.isna())
    more = after.groupby(_KEYS[:2]).size() - both.groupby(_KEYS[:2])["found"].agg(lambda found: (found == "both").sum())
    counts = (~same).groupby([both[key] for key in _KEYS[:2]]).sum()
    return counts + more.reindex(counts.index).fillna(0).clip(lower=0).astype(int)
