"""Choices of `placement` against each other: factors by which the KL of a typical question changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from lagkit.stats.intervals import paired_interval
from lagkit.stats.wording import judged

Hops = Mapping[str, Collection[str]]
FLOOR = 1e-9  # a divergence of exactly zero has no logarithm


def effects(responses: pd.DataFrame, choices: Mapping[str, Sequence[str]], hops: Hops) -> pd.DataFrame:
    """Each value of a choice against its first one, paired by question: differences in log10 of the KL.

    responses: as `placement.fidelity` gives them, with a column for each choice. A question's cells are averaged over
    the other choices; all choices but `place` are compared within each place. Columns: as in
    `intervals.Difference`.
    """
    logged, found = responses.assign(log=_log(responses["kl"])), {}
    for choice, (base, *others) in choices.items():
        within = {"": logged} if choice == "place" else {f" at {name}": own for name, own in logged.groupby("place")}
        for where, table in within.items():
            means = table.groupby([choice, "question_id"])["log"].mean()
            for other in others:
                pair = paired_interval(means[base], means[other], hops)
                found[f"{choice}{where}, {other} against {base}"] = asdict(pair)
    return pd.DataFrame.from_dict(found, orient="index")


def healed(rows: Mapping[str, pd.DataFrame], base: str, hops: Hops) -> pd.DataFrame:
    """What hiding each part of the conversation does to log10 of the KL; `rows` named `PART hidden` against `base`."""
    logs = {name: _log(own.set_index("question_id")["kl"]) for name, own in rows.items()}
    parts = [name for name in logs if name.endswith(" hidden") and name != base]
    found = {name: asdict(paired_interval(logs[base], logs[name], hops)) for name in parts}
    return pd.DataFrame.from_dict(found, orient="index")


def factors(differences: pd.DataFrame) -> pd.DataFrame:
    """Differences in log10 as factors, with their intervals and what they show."""
    told = {name: (_factor(row), _verdict(row)) for name, row in differences.iterrows()}
    return pd.DataFrame.from_dict(told, orient="index", columns=["factor of the KL", "verdict"])


def findings(differences: pd.DataFrame, what: str) -> list[str]:
    """A sentence for each difference: `what` with its name in place of `{}`, the verdict and the factor."""
    return [f"{what.format(name)}: {_verdict(row)} ({_factor(row)} times)." for name, row in differences.iterrows()]


def _log(kl: pd.Series) -> pd.Series:
    return np.log10(kl.clip(lower=FLOOR))


def _factor(row: pd.Series) -> str:
    return "{:.3g} [{:.3g}, {:.3g}]".format(*(10 ** row[["mean", "low", "high"]]))


def _verdict(row: pd.Series) -> str:
    return judged(row, "log10", "a higher KL", "a lower KL")
