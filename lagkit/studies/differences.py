"""Differences between the conditions of a study, paired by question: their intervals, reach and findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count, takewhile

import numpy as np
import pandas as pd

from lagkit.stats.intervals import Hops, paired_intervals
from lagkit.stats.wording import Finding, Told, judged, measured
from lagkit.studies.knockout import INTACT, back_name

_UNITS = {"gold": "nats of the answer's log-probability", "right": "of right answers"}
_FLOOR = 1e-9  # a divergence of exactly zero has no logarithm


def contrast(
    table: pd.DataFrame, column: str, base: str, other: str, hops: Hops, by: Sequence[str], value: str = "kl"
) -> pd.DataFrame:
    """`value` at one value of a column less that at another, paired by question: a row for each group of `by`.

    A question's measurements are averaged first. Columns: as in `intervals.Difference`.
    """
    pairs = {}
    for key, own in table.groupby(by[0] if len(by) == 1 else list(by), sort=False):
        means = own.groupby([column, "question_id"])[value].mean()
        pairs[key] = means[base], means[other]
    return paired_intervals(pairs, hops, by)


def effects(responses: pd.DataFrame, choices: Mapping[str, Sequence[str]], hops: Hops) -> pd.DataFrame:
    """Each value of a choice against its first one: differences in log10 of the KL, as of `contrast`.

    responses: as `placement.fidelity` gives them, with a column for each choice; all but `place` are compared within
    each place.
    """
    logged, found = responses.assign(log=_log(responses["kl"]), where=""), []
    for choice, (base, *others) in choices.items():
        places = logged if choice == "place" else logged.assign(where=" at " + logged["place"])
        for where, own in places.groupby("where"):
            for other in others:
                row = contrast(own, choice, base, other, hops, ["where"], "log")
                found.append(row.set_axis([f"{choice}{where}, {other} against {base}"]))
    return pd.concat(found)


def healed(rows: Mapping[str, pd.DataFrame], base: str, hops: Hops) -> pd.DataFrame:
    """The change of log10 of the KL by hiding each part of the conversation; `rows`: `PART hidden` against `base`."""
    logs = {name: _log(own.set_index("question_id")["kl"]) for name, own in rows.items()}
    parts = [name for name in logs if name.endswith(" hidden") and name != base]
    return paired_intervals({name: (logs[base], logs[name]) for name in parts}, hops)


def against_null(table: pd.DataFrame, hops: Hops, by: Sequence[str] = (), *, level: float = 0.95) -> pd.DataFrame:
    """`mass` minus `null` for each group of `by`: columns `mean`, `low`, `high`, `n`, `effective`, as in `Difference`.

    A question's rows within a group are averaged first. `hops`: as in `intervals.paired_interval`.
    """
    means = table.groupby([*by, "question_id"])[["mass", "null"]].mean().reset_index([*by])
    groups = means.groupby(by[0] if len(by) == 1 else list(by)) if by else [("all", means)]
    return paired_intervals({key: (own["null"], own["mass"]) for key, own in groups}, hops, by, level=level)


def heads_apart(table: pd.DataFrame, hops: Hops, by: str) -> pd.DataFrame:
    """For each value of `by`, how many heads give `more` and `less` than the null, of how many `heads` (Bonferroni)."""
    counts = {}
    for key, part in table.groupby(by):
        heads = len(part[["layer", "head"]].drop_duplicates())
        found = against_null(part, hops, ["layer", "head"], level=1 - 0.05 / heads)
        counts[key] = {"more": int((found["low"] > 0).sum()), "less": int((found["high"] < 0).sum()), "heads": heads}
    return pd.DataFrame(counts).T.rename_axis(by)


def against_intact(answers: pd.DataFrame, hops: Hops) -> pd.DataFrame:
    """Each condition minus the intact log, over the questions that have it; index (condition, measure)."""
    parts = {name: own.set_index("question_id") for name, own in answers.groupby("condition", sort=False)}
    intact, pairs = parts.pop(INTACT), {}
    for condition, own in parts.items():
        for measure in _UNITS:
            pairs[condition, measure] = intact.loc[own.index, measure], own[measure]
    return paired_intervals(pairs, hops, ["condition", "measure"])


def attention_reach(found: pd.DataFrame) -> int:
    """The rounds back in a row, from the next to last on, for which attention exceeds the null (index `back`)."""
    return _reach(lambda back: back in found.index and found.loc[back, "low"] > 0)


def causal_reach(found: pd.DataFrame, measure: str) -> int:
    """The rounds back in a row for which cutting that round alone lowers `measure`; `found` as of `against_intact`."""
    highs = found["high"].xs(measure, level="measure")
    return _reach(lambda back: back_name(back) in highs and highs[back_name(back)] < 0)


def findings(found: pd.DataFrame, what: str, unit: str = "of all") -> list[str]:
    """A sentence for each row, or for each condition of `against_intact`: the verdict, the mean and its interval.

    what: its beginning, with the row's or the condition's name in place of `{}`. Values in nats are shown as powers.
    """
    if "measure" not in found.index.names:
        names = [", ".join(key) if isinstance(key, tuple) else key for key in found.index]
        return [_finding(what.format(name), [(found.iloc[n], unit)]) for n, name in enumerate(names)]
    return [
        _finding(what.format(name), [(row, _UNITS[key[1]]) for key, row in own.iterrows()])
        for name, own in found.groupby(level="condition", sort=False)
    ]


def _finding(what: str, rows: Sequence[tuple[pd.Series, str]]) -> Finding:
    cells = [
        Told(what, judged(row, unit.split()[0]), row["mean"], row["low"], row["high"], unit, f"+{_digits(row, unit)}")
        for row, unit in rows
    ]
    said = " and ".join(measured(row, unit, _digits(row, unit)) for row, unit in rows)
    return Finding(f"{what}: {said}.", *cells)


def _digits(row: pd.Series, unit: str) -> str:
    """Three decimals, or as many as leave four digits of the largest number; powers for nats."""
    if unit == "nats":
        return ".1e"
    before = len(f"{row[['mean', 'low', 'high']].abs().max():.0f}")
    return f".{max(0, min(3, 4 - before))}f"


def factors(differences: pd.DataFrame) -> pd.DataFrame:
    """Differences in log10 of the KL as factors, with their intervals and verdicts."""
    told = {}
    for name, row in differences.iterrows():
        factor = "{:.3g} [{:.3g}, {:.3g}]".format(*(10 ** row[["mean", "low", "high"]]))
        told[name] = factor, judged(row, "log10", "a higher KL", "a lower KL")
    return pd.DataFrame.from_dict(told, orient="index", columns=["factor of the KL", "verdict"])


def factor_findings(differences: pd.DataFrame, what: str) -> list[str]:
    """A sentence for each row of `factors`: `what` with its name in place of `{}`, the verdict and the factor."""
    told = factors(differences).itertuples()
    return [f"{what.format(name)}: {verdict} ({factor} times)." for name, factor, verdict in told]


def _reach(holds: Callable[[int], bool]) -> int:
    return len([*takewhile(holds, count(1))])


def _log(kl: pd.Series) -> pd.Series:
    return np.log10(kl.clip(lower=_FLOOR))
