"""Question by question: which wrong answers a variant turns right, and which right ones it turns wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lagkit.stats.metrics import SCORES, first_score, normalize
from lagkit.util.errors import ConfigError

OUTCOMES = ("both right", "wrong to right", "right to wrong", "both wrong")

_KEYS = ["policy", "split", "question_id"]
NONE = pd.DataFrame(columns=[*_KEYS, "answer", "right", "rounds", "read", "confidence"])

_LEAST_DOUBT = 1e-6  # nats per token; float32 tells no less


def outcomes(results: pd.DataFrame, baseline: str = "no_logs") -> pd.DataFrame:
    """One row per policy other than the baseline, split and question that both answered.

    Columns: `policy`, `split`, `question_id`, `outcome` (one of `OUTCOMES`), `answer_before` and `answer` (None: none
    was given), `rounds_before` and `rounds`. Right is an exact match, or the right letter. Raises ConfigError without
    results of the baseline.
    """
    score = first_score(results)
    columns = ["policy", "split", "question_id", "answer", "rounds"]
    table = results[columns].assign(right=results[score] == 1.0)
    before = table[table["policy"] == baseline].drop(columns="policy")
    if before.empty:
        raise ConfigError(f"There are no results of {baseline!r} to compare with: run it too, or name another.")
    after = table[table["policy"] != baseline]
    both = after.merge(before, on=["split", "question_id"], suffixes=("", "_before"))
    right, before = both["right"], both["right_before"]
    both["outcome"] = np.select([right & before, right, before], OUTCOMES[:3], default=OUTCOMES[3])
    return both[["policy", "split", "question_id", "outcome", "answer_before", "answer", "rounds_before", "rounds"]]


def turned(results: pd.DataFrame, baseline: str = "no_logs") -> pd.DataFrame:
    """The rows of `outcomes` whose answer was turned right, or wrong."""
    table = outcomes(results, baseline)
    return table[table["outcome"].isin(OUTCOMES[1:3])].reset_index(drop=True)


def counts(results: pd.DataFrame, baseline: str = "no_logs") -> pd.DataFrame:
    """Number of questions of each outcome: a row per policy and split, a column for each of `OUTCOMES`."""
    table = outcomes(results, baseline)
    each = pd.DataFrame({outcome: (table["outcome"] == outcome).astype(int) for outcome in OUTCOMES})
    return each.groupby([table["policy"], table["split"]], sort=False).sum().rename_axis(columns="outcome")


def answers(results: pd.DataFrame) -> pd.DataFrame:
    """Answers as runs are compared by: the columns of `NONE`.

    `answer` in normal form, `right`, `rounds`, the tokens that were `read` (prefilled or injected), and `confidence`.
    What the results lack is missing here, but for `split` (unseen). Where they hold no score, `right` is their own.
    """
    score = next((name for name in SCORES if name in results), "right")
    table = results.assign(right=results[score] == 1.0, rounds=results["rounds"].astype(float))
    if "answer" in table:
        table["answer"] = table["answer"].map(normalize, na_action="ignore")
    if "prefilled" in table:
        table["read"] = (table["prefilled"] + table["injected"]).astype(float)
    if "split" not in table:
        table["split"] = "unseen"
    return table.reindex(columns=NONE.columns).astype({"confidence": float}).reset_index(drop=True)


def compared(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Distance of two runs with the same settings: a row for each policy and split of `before`.

    before, after: as `answers` gives them. Columns: `n`, answers before; how many have `changed`, in words, right or
    wrong, or in rounds, or are in one run alone; for how many other tokens were `read`; and `doubt`, by what power of
    ten confidence differs, median, NaN where none has one.
    """
    both = before.merge(after, how="outer", on=_KEYS, suffixes=("", "_after"), indicator="found")
    missing = both["found"] != "both"
    told = pd.DataFrame({"n": both["found"] != "right_only", "changed": missing, "read": missing})
    for name, column in (("answer", "changed"), ("right", "changed"), ("rounds", "changed"), ("read", "read")):
        one, other = both[name], both[f"{name}_after"]
        told[column] |= (one != other) & ~(one.isna() & other.isna())
    sure = (both[name].astype(float) for name in ("confidence", "confidence_after"))
    doubts = [np.log10((-values).clip(lower=_LEAST_DOUBT)) for values in sure]
    told["doubt"] = (doubts[0] - doubts[1]).abs()
    counts = told.groupby([both[key] for key in _KEYS[:2]]).agg(
        {"n": "sum", "changed": "sum", "read": "sum", "doubt": "median"}
    )
    return counts[counts["n"] > 0]
