"""Competing logs in sentences: the conditions that are told of, and what the rows of models say on them."""

from __future__ import annotations

from dataclasses import asdict, replace

import pandas as pd

from lagkit.policy import Keep
from lagkit.stats import wording
from lagkit.stats.intervals import Difference
from lagkit.stats.wording import Finding, Told
from lagkit.studies.competing import POSITIONS, Condition
from lagkit.studies.competing_items import RIVALS
from lagkit.studies.competing_rates import gain, label, pick, rates

EVERY: Keep = "all_rounds"
APART = Condition("restating", EVERY, "own")
TEXT, DENSE = Condition("restating", EVERY, "text"), Condition("restating", EVERY, "dense")
ALONE = Condition("restating", EVERY, "own", beside="nothing")
TERSE = {reads: Condition("terse", "last_round", reads) for reads in ("own", "stranger", "filler", "none")}
WHOLE, PART = Condition("terse", EVERY, "text"), Condition("terse", "last_round", "text")


def findings(rows: pd.DataFrame) -> list[str]:
    """What the rows of some models say, in sentences."""
    models = rows.groupby("model", sort=False)
    return [sentence for model, own in models for sentence in _said(str(model), own)]


def _said(model: str, rows: pd.DataFrame) -> list[str]:
    """Sentences on one model; differences are rows of a table, too."""
    table, apart, told = rates(rows), pick(rows, APART), list[str]()
    if len(apart):
        cells = pick(table, APART).set_index("at")
        places = ", ".join(f"{percent(cells.loc[at])} if it stands {where(at)}" for at in POSITIONS)
        told.append(
            f"{model}: of {RIVALS} competing logs that restate everything, each read apart, the right one is read in "
            f"{places} (chance 33%; {cells.loc['all', 'n']} choices in {cells.loc['all', 'groups']} groups)."
        )
        for at in POSITIONS[:2]:
            found = gain(*(apart[apart["at"] == place] for place in (at, POSITIONS[-1])))
            what = f"{model}: the right log last instead of {where(at)}"
            told += [Finding(f"{what}: {_judged(found)}.", _row(what, found))] if found else []
        wrong = apart[~apart["right"] & (apart["at"] != POSITIONS[-1])]
        last = (wrong["chosen"] == POSITIONS[-1]).sum()
        misread = f"{len(wrong)} wrong choices while another log stands last, {last} are the last log's answer."
        told.append(f"{model}: of {misread}")
    repaired = table[(table["recompute"] != "") & (table["form"] == "restating") & (table["at"] == "all")]
    ways = repaired.sort_values("share", kind="stable")["recompute"].drop_duplicates()
    for condition in (TEXT, ALONE, *(replace(APART, recompute=way) for way in ways)):
        if (found := gain(apart, pick(rows, condition))) is not None:
            whole = pick(table, condition).set_index("at").loc["all"]
            anew = f" ({whole['share']:.0%} of tokens)" if whole["share"] else ""
            what = f"{model}: {label(condition)}{anew}"
            said = f"{what}: {percent(whole)}; against KV read apart {_judged(found)}."
            told.append(Finding(said, _row(f"{what}, against KV read apart", found)))
    own = pick(rows, TERSE["own"])
    for reads in ("stranger", "filler", "none"):
        other = pick(rows, TERSE[reads])
        if (found := gain(other, own)) is not None:
            what = f"{model}: terse last rounds, their own context against {reads}"
            likelier = gain(other, own, "logprob")
            said = f"{what}: {_judged(found)}; log-probability of the right answer: {_likelier(likelier)}."
            more = [_row(f"{what}, log-probability", likelier, "nats a token")] if likelier else []
            told.append(Finding(said, _row(what, found), *more))
    return told


def patched(rows: pd.DataFrame) -> pd.DataFrame:
    """Terse last rounds with parts of their own context: what the right answer gains over that of no context.

    Index `model` and `context`; columns `share` of the numbers of the KV that the part has, `right`, and `more likely`,
    nats a token of the right answer. Models of which no part was measured are left out.
    """
    found = []
    for model, own in rows.groupby("model", sort=False):
        parts = own[own["patch"] != ""].sort_values("patch", kind="stable")["patch"].unique()
        none, table = pick(own, TERSE["none"]), rates(own)
        for part in (*parts, "") if len(parts) else ():
            condition = replace(TERSE["own"], patch=part)
            if (shown := pick(own, condition)).empty:
                continue
            whole = pick(table, condition).set_index("at").loc["all"]
            share, gained = f"{whole['share'] if part else 1:.0%}", gain(none, shown, "logprob")
            found.append([model, label(condition), share, percent(whole), _likelier(gained)])
    columns = ["model", "context", "share", "right", "more likely"]
    return pd.DataFrame(found, columns=columns).set_index(columns[:2])


def where(at: str) -> str:
    return "in the middle" if at == "middle" else at


def percent(row: pd.Series) -> str:
    return f"{row['mean']:.0%} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _row(what: str, found: Difference, unit: str = "points") -> Told:
    scale, digits, metric = (100, "+.1f", "right") if unit == "points" else (1, "+.2f", "nats")
    mean, low, high = (scale * end for end in (found.mean, found.low, found.high))
    return Told(what, wording.judged(asdict(found), metric), mean, low, high, unit, digits)


def _judged(found: Difference) -> str:
    row = asdict(found)
    return f"{wording.judged(row, 'right')} ({wording.interval(row, 'right')} points)"


def _likelier(found: Difference | None) -> str:
    return wording.measured(asdict(found), "nats a token", ".2f") if found else ""
