"""Intervals of what the analyses measure, and for how many rounds back they show a difference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from lagkit.stats.intervals import paired_interval
from lagkit.stats.wording import judged
from lagkit.studies.knockout import INTACT, back_name

Hops = Mapping[str, Collection[str]]
MEASURES = ("gold", "right")
_UNITS = {"gold": "nats of the answer's log-probability", "right": "of right answers"}


def against_null(table: pd.DataFrame, hops: Hops, by: Sequence[str] = (), *, level: float = 0.95) -> pd.DataFrame:
    """`mass` minus `null` for each group of `by`: columns `mean`, `low`, `high`, `n`, `effective`, as in `Difference`.

    A question's rows within a group are averaged first. `hops`: as in `metrics.paired_interval`.
    """
    keys = list(by)
    means = table.groupby([*keys, "question_id"])[["mass", "null"]].mean().reset_index()
    groups = means.groupby(keys[0] if len(keys) == 1 else keys) if keys else [("all", means)]
    rows = {}
    for key, group in groups:
        own = group.set_index("question_id")
        rows[key] = asdict(paired_interval(own["null"], own["mass"], hops, level=level))
    found = pd.DataFrame(rows).T
    found.index.names = keys or [None]
    return found


def heads_apart(table: pd.DataFrame, hops: Hops, by: str) -> pd.DataFrame:
    """For each value of `by`, how many heads give `more` and `less` than the null, of how many `heads`.

    Intervals are widened by the number of heads (Bonferroni): chance alone finds some head in at most one group of
    twenty.
    """
    counts = {}
    for key, part in table.groupby(by):
        heads = len(part[["layer", "head"]].drop_duplicates())
        found = against_null(part, hops, ["layer", "head"], level=1 - 0.05 / heads)
        counts[key] = {"more": int((found["low"] > 0).sum()), "less": int((found["high"] < 0).sum()), "heads": heads}
    return pd.DataFrame(counts).T.rename_axis(by)


def against_intact(answers: pd.DataFrame, hops: Hops) -> pd.DataFrame:
    """Each condition minus the intact log, over the questions that have it; index (condition, measure)."""
    rows = {}
    intact = answers[answers["condition"] == INTACT].set_index("question_id")
    for condition, part in answers[answers["condition"] != INTACT].groupby("condition", sort=False):
        own = part.set_index("question_id")
        for measure in MEASURES:
            rows[condition, measure] = asdict(paired_interval(intact.loc[own.index, measure], own[measure], hops))
    return pd.DataFrame(rows).T.rename_axis(["condition", "measure"])


def attention_reach(found: pd.DataFrame) -> int:
    """For how many rounds back in a row, from the next to last on, attention exceeds the null (index `back`)."""
    back = 0
    while back + 1 in found.index and found.loc[back + 1, "low"] > 0:
        back += 1
    return back


def causal_reach(found: pd.DataFrame, measure: str) -> int:
    """For how many rounds back in a row cutting that round alone lowers `measure`; `found` as of `against_intact`."""
    back = 0
    while (back_name(back + 1), measure) in found.index and found.loc[(back_name(back + 1), measure), "high"] < 0:
        back += 1
    return back


def findings(found: pd.DataFrame, what: str) -> list[str]:
    """One sentence for each row of `against_null`, or for each condition of `against_intact`.

    what: its beginning, with the row's or the condition's name in place of `{}`. Behind it stand the verdict, the mean
    and its interval.
    """
    if "measure" not in found.index.names:
        return [f"{what.format(name)}: {_told(row, 'of all')}." for name, row in found.iterrows()]
    return [
        f"{what.format(name)}: {' and '.join(_told(row, _UNITS[key[1]]) for key, row in own.iterrows())}."
        for name, own in found.groupby(level="condition", sort=False)
    ]


def _told(row: pd.Series, unit: str) -> str:
    verdict = judged(row, unit.split()[0])
    return f"{verdict}, {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] {unit}"
