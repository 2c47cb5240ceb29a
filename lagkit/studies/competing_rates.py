"""Competing logs in numbers: how often the right one is read, by condition and place, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lagkit.stats.intervals import Difference, mean_interval, paired_interval
from lagkit.studies.competing import CHOICES, POSITIONS, Condition
from lagkit.util.errors import DataError
from lagkit.util.files import intact

_READS = {
    "text": "text",
    "dense": "KV, read in one go",
    "own": "KV, each log read apart",
    "stranger": "KV, behind another log's first round",
    "filler": "KV, behind neutral words",
    "none": "KV, behind nothing",
    "same positions": "KV, all at the same positions",
}
_BESIDE = {"rivals": "", "nothing": ", one log", "paragraph": ", one log and a paragraph"}
_PATCHES = {"from": "from {}% of the layers on", "below": "below {}% of the layers", "rank": "rank {} in every layer"}
_ANEW = {"first": "first {} tokens", "last": "last {} tokens", "most": "{}% that deviate most"}


def load(folder: Path) -> pd.DataFrame:
    """The rows of all models in a folder, a parquet file for each; DataError if there is none, or a wrong one."""
    files = sorted(folder.glob("*.parquet"), key=lambda file: file.stem)
    if not files:
        raise DataError(f"{folder} holds no rows of competing logs: measure some, or give another folder.")
    rows = []
    for file in files:
        with intact(file, "measure that model anew"):
            rows.append(pd.read_parquet(file))
            rows[-1][CHOICES]  # a file without one of them would vanish in silence where rows are grouped
    return pd.concat(rows, ignore_index=True)


def label(condition: Condition | Mapping[str, Any]) -> str:
    """How logs are shown, in words; the form of the logs and what is kept are left out."""
    own = condition.columns if isinstance(condition, Condition) else condition
    if own["beside"] == "no logs":
        return "no logs"
    words = _READS[own["reads"]]
    if own["reads"] == "own" and own["keep"] == "last_round":
        words = "KV, behind its own first round"
    words += _BESIDE[own["beside"]]
    if own["recompute"]:
        way, _, number = own["recompute"].partition(":")
        words += f", {_ANEW[way].format(number)} anew"
    if own["patch"]:
        way, _, number = own["patch"].partition(":")
        words += f", {_PATCHES[way].format(number)}"
    words += ", blank lines around" if own["blanks"] == "around" else ""
    return words + (", in front of BOS" if own["place"] == "front" else "")


def metric(row: Mapping[str, Any]) -> str:
    """The name under which a row of `rates` stands in `metrics.json`: the model, the condition and the place."""
    told = [Path(row["model"]).name, *(row[name] for name in CHOICES if name != "blanks")]
    around = row["blanks"] if row["blanks"] != "between" else ""
    return ".".join(["right", *filter(None, [*told, around, row["at"]])]).replace(" ", "_")


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of right choices by model, condition and place of the right log, and over all places (`at`: `all`).

    A row each, in the order in which they were measured: columns `model`, the condition's, `label`, `at`, `n`,
    `groups`, `mean`, `low`, `high` (choices in one group count as dependent), `share` as of `competing.measure`, and
    `last`: of the wrong choices while another log stands last, the share that is the last log's answer.
    """
    found = []
    columns = ["model", *CHOICES, "at", "chosen", "right", "share", "group"]
    # Of Arrow's strings, each of the many small selections below would take several times as long.
    plain = dict.fromkeys(rows[columns].select_dtypes("str"), object)
    for key, own in rows[columns].astype(plain).assign(id=_ids(rows)).groupby(["model", *CHOICES], sort=False):
        named: dict[str, Any] = dict(zip(["model", *CHOICES], key, strict=True))
        named["label"] = label(named)
        for at in (*(place for place in (*POSITIONS, "alone") if place in set(own["at"])), "all"):
            some = own if at == "all" else own[own["at"] == at]
            values = some["right"].astype(float).groupby(some["id"].to_numpy()).mean()
            interval = mean_interval(values, _hops(values))
            wrong = some[~some["right"] & some["at"].isin(POSITIONS[:-1])]
            last = (wrong["chosen"] == POSITIONS[-1]).mean() if len(wrong) else float("nan")
            # Few groups that differ much give bounds beyond any share.
            bounds = {"mean": interval.mean, "low": max(interval.low, 0.0), "high": min(interval.high, 1.0)}
            count = {"n": len(some), "groups": some["group"].nunique()}
            found.append(named | {"at": at} | count | bounds | {"share": some["share"].mean(), "last": last})
    return pd.DataFrame(found)


def pick(table: pd.DataFrame, condition: Condition) -> pd.DataFrame:
    """The rows of one condition."""
    return table[(table[CHOICES] == pd.Series(condition.columns)).all(axis=1)]


def gain(one: pd.DataFrame, other: pd.DataFrame, column: str = "right") -> Difference | None:
    """A column of `other` rows less that of `one`, of one model, paired by the log that is asked for.

    Where both know the same places, they are paired by place, too; else places are averaged. None without a pair.
    """
    by_place = set(one["at"]) == set(other["at"])
    before, after = (_values(rows, column, by_place=by_place) for rows in (one, other))
    before, after = before.align(after, join="inner")
    return paired_interval(before, after, _hops(before)) if len(before) else None


def _values(rows: pd.DataFrame, column: str, *, by_place: bool = True) -> pd.Series:
    """A column as numbers, by `group/asked/place`."""
    return rows[column].astype(float).groupby(_ids(rows, by_place=by_place)).mean()


def _ids(rows: pd.DataFrame, *, by_place: bool = True) -> np.ndarray:
    """What each row asks, as `group/asked`, and where the right log stands."""
    ids = rows["group"] + "/" + rows["asked"].astype(str) + ("/" + rows["at"] if by_place else "")
    return np.asarray(ids, object)


def _hops(values: pd.Series) -> dict[str, list[str]]:
    return {id: [id.split("/")[0]] for id in values.index}
