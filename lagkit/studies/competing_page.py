"""Competing logs as sentences and tables of Markdown: shown by notebook 14 and `docs/results/competing.md`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from lagkit.policy import Keep
from lagkit.stats import wording
from lagkit.stats.intervals import Difference
from lagkit.studies.competing import POSITIONS, Condition
from lagkit.studies.competing_items import RIVALS, Form
from lagkit.studies.competing_rates import gain, label, load, pick, rates
from lagkit.util import markdown

EVERY: Keep = "all_rounds"
APART = Condition("restating", EVERY, "own")
TEXT, DENSE = Condition("restating", EVERY, "text"), Condition("restating", EVERY, "dense")
ALONE = Condition("restating", EVERY, "own", beside="nothing")
TERSE = {reads: Condition("terse", "last_round", reads) for reads in ("own", "stranger", "filler", "none")}
WHOLE, PART = Condition("terse", EVERY, "text"), Condition("terse", "last_round", "text")

# A first trial on Qwen2.5-Coder-1.5B-Instruct, whose items are not in the repository: condition and place -> percent.
TRIAL = {
    (TEXT, "all"): 100,
    (ALONE, "all"): 100,
    (APART, "first"): 42,
    (APART, "middle"): 33,
    (APART, "last"): 92,
    (DENSE, "all"): 100,
    (Condition("restating", EVERY, "same positions"), "all"): 33,
    (Condition("restating", EVERY, "own", beside="paragraph"), "all"): 100,
    (WHOLE, "all"): 67,
    (PART, "all"): 37,
    (TERSE["none"], "all"): 33,
    (TERSE["own"], "all"): 33,
    (TERSE["stranger"], "all"): 33,
    (Condition("terse", EVERY, "own"), "all"): 20,
}
_PARTS: tuple[tuple[str, Form, Keep], ...] = (
    ("Logs that restate whom they are about, all rounds kept", "restating", EVERY),
    (
        "Terse logs, the last round kept: only the first round, which is not kept, says whom they are about",
        "terse",
        "last_round",
    ),
    ("Terse logs, all rounds kept", "terse", EVERY),
    ("Logs that restate whom they are about, the last round kept", "restating", "last_round"),
)


def findings(rows: pd.DataFrame) -> list[str]:
    """What the rows of some models say, in sentences."""
    table, told = rates(rows), []
    for model, own in rows.groupby("model", sort=False):
        mine = table[table["model"] == model]
        told += [f"{model}: {sentence}" for sentence in _said(own, mine)]
    return told


def _said(rows: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Sentences on one model."""
    apart, told = pick(rows, APART), []
    if len(apart):
        cells = pick(table, APART).set_index("at")
        places = ", ".join(f"{_percent(cells.loc[at])} if it stands {_where(at)}" for at in POSITIONS)
        told.append(
            f"of {RIVALS} competing logs that restate everything, each read apart, the right one is read in "
            f"{places} (chance 33%; {cells.loc['all', 'n']} choices in {cells.loc['all', 'groups']} groups)."
        )
        for at in POSITIONS[:2]:
            found = gain(*(apart[apart["at"] == place] for place in (at, POSITIONS[-1])))
            told += [f"the right log last instead of {_where(at)}: {_judged(found)}."] if found else []
        wrong = apart[~apart["right"] & (apart["at"] != POSITIONS[-1])]
        last = (wrong["chosen"] == POSITIONS[-1]).sum()
        told.append(f"of {len(wrong)} wrong choices while another log stands last, {last} are the last log's answer.")
    for condition in (TEXT, ALONE, *repairs(table)):
        if (found := gain(apart, pick(rows, condition))) is not None:
            whole = pick(table, condition).set_index("at").loc["all"]
            anew = f" ({whole['share']:.0%} of tokens)" if whole["share"] else ""
            told.append(f"{label(condition)}{anew}: {_percent(whole)}; against KV read apart {_judged(found)}.")
    own = pick(rows, TERSE["own"])
    for reads in ("stranger", "filler", "none"):
        if (found := gain(pick(rows, TERSE[reads]), own)) is not None:
            words = (
                f"terse last rounds, their own context against {reads}: {_judged(found)}; log-probability of the right"
            )
            told.append(f"{words} answer: {_likelier(gain(pick(rows, TERSE[reads]), own, 'logprob'))}.")
    return told


def repairs(table: pd.DataFrame) -> list[Condition]:
    """The recomputations of restating logs that were measured, by the share of tokens that they compute anew."""
    own = table[(table["recompute"] != "") & (table["form"] == "restating") & (table["at"] == "all")]
    own = own.sort_values("share", kind="stable")
    return [Condition("restating", EVERY, "own", recompute=way) for way in own["recompute"].drop_duplicates()]


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
            gained = gain(none, pick(own, condition), "logprob")
            if pick(own, condition).empty:
                continue
            whole = pick(table, condition).set_index("at").loc["all"]
            share = whole["share"] if part else 1.0
            found.append([model, label(condition), f"{share:.0%}", _percent(whole), _likelier(gained)])
    columns = ["model", "context", "share", "right", "more likely"]
    return pd.DataFrame(found, columns=columns).set_index(columns[:2])


def markdown_page(rows: pd.DataFrame) -> str:
    """The page of all models' rows."""
    table = rates(rows)
    told = "\n".join(f"- {sentence}" for sentence in findings(rows))
    parts = [_HEAD, "## What was found", told]
    for model in table["model"].unique():
        own = table[table["model"] == model]
        parts.append(f"## {model}")
        for title, form, keep in _PARTS:
            some = own[(own["form"] == form) & (own["keep"] == keep)]
            if len(some):
                parts += [f"### {title}", _table(some)]
        if len(some := patched(rows[rows["model"] == model])):
            parts += ["### Terse logs, the last round with a part of its own context", _PATCHED]
            some = some.droplevel("model").reset_index()
            parts.append(markdown.table(some.columns, some.to_numpy()))
    return "\n\n".join([*parts, "## Beside a first trial", _TRIAL, _beside(table)]) + "\n"


def remade(folder: Path) -> str:
    """The page from its committed rows."""
    return markdown_page(load(folder))


def _table(table: pd.DataFrame) -> str:
    heads = ["shown as", "share", "first", "middle", "last", "all places", "wrong: the last log's", "n (groups)"]
    lines = []
    for name, own in table.groupby("label", sort=False):
        cells = own.set_index("at")
        whole = cells.loc["all"]
        alone = ["", "", ""] if "alone" in cells.index else [_cell(cells, at) for at in POSITIONS]
        last = "" if pd.isna(whole["last"]) else f"{whole['last']:.0%}"
        share = f"{whole['share']:.0%}" if whole["share"] else ""
        lines.append([name, share, *alone, _percent(whole), last, f"{whole['n']} ({whole['groups']})"])
    return markdown.table(heads, lines)


def _beside(table: pd.DataFrame) -> str:
    own, lines = table[table["model"] == "qwen"], []
    for (condition, at), percent in TRIAL.items():
        found = pick(own, condition).set_index("at")
        place = "" if at == "all" else f", the right one {_where(at)}"
        kept = "the last round" if condition.keep == "last_round" else "all rounds"
        lines.append(
            [f"{condition.form}, {kept}", label(condition) + place, f"{percent}%", _cell(found, at) or "not measured"]
        )
    return markdown.table(["logs", "shown as", "first trial", "here"], lines)


def _where(at: str) -> str:
    return "in the middle" if at == "middle" else at


def _cell(cells: pd.DataFrame, at: str) -> str:
    return _percent(cells.loc[at]) if at in cells.index else ""


def _percent(row: pd.Series) -> str:
    return f"{row['mean']:.0%} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _judged(found: Difference) -> str:
    row = asdict(found)
    return f"{wording.judged(row, 'right')} ({wording.interval(row, 'right')} points)"


def _likelier(found: Difference | None) -> str:
    return wording.measured(asdict(found), "nats a token", ".2f") if found else ""


_HEAD = """# Which of several competing logs is read?

Logs of invented facts, three at a time: of the same kind (a film, its director, the director's town of birth), about
other entities. One is asked for, and the model chooses between the three answers by log-probability; chance is a
third. Nothing is decoded. Each log is asked for in turn and stands in each place, so that a group of three makes nine
choices; what they share is counted in the 95% intervals. Logs stand behind the prompt's shared head unless a row says
"in front of BOS". Answers take one token each. [Notebook 14](../../notebooks/14_competing_logs.ipynb) shows the same
as figures and measures another model; `python -m tests.pages` makes this page from the rows in `competing/`.

`smollm2` is SmolLM2-135M-Instruct in float32, `qwen` Qwen2.5-Coder-1.5B-Instruct in bfloat16. `qwen, wikihop`: real
logs instead, each the two gold steps of a question of 2WikiMultiHopQA, three with the same two relations. Their
answers take several tokens, so log-probabilities are those a token, and the model may know them: `no logs` says how
often.

The groups are the first ones of seed 0. Those of `smollm2`, and which conditions were measured on how many, were
decided for want of time while its first results were seen; for `qwen` both were fixed before, with earlier results on
six groups known; for `qwen, wikihop` they were cut for want of time, before its results were seen. Differences are
taken on groups that both conditions have. The testbed's model was not asked: its vocabulary spells these words byte
by byte."""

_PATCHED = """A part is taken of what the own context adds to the KV: in some layers, or its largest singular directions
in each layer's keys and values. **share**: numbers of the part over those of the KV. **more likely**: log-probability
of the right answer, less that behind nothing."""

_TRIAL = """A first trial on the same model as `qwen`, of 5 to 30 items that are not in the repository, with other
sentences and names, found the shares in the third column; the last one has those of the items here."""
