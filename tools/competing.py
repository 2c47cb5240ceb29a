"""The page on competing logs, from the rows of all measured models: `docs/results/competing.md`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lagkit.policy import Keep
from lagkit.studies.competing import POSITIONS, Condition
from lagkit.studies.competing_items import Form
from lagkit.studies.competing_page import (
    ALONE,
    APART,
    DENSE,
    EVERY,
    PART,
    TERSE,
    TEXT,
    WHOLE,
    findings,
    patched,
    percent,
    where,
)
from lagkit.studies.competing_rates import label, load, pick, rates
from lagkit.util import markdown

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
        lines.append([name, share, *alone, percent(whole), last, f"{whole['n']} ({whole['groups']})"])
    return markdown.table(heads, lines)


def _beside(table: pd.DataFrame) -> str:
    own, lines = table[table["model"] == "qwen"], []
    for (condition, at), share in TRIAL.items():
        found = pick(own, condition).set_index("at")
        place = "" if at == "all" else f", the right one {where(at)}"
        kept = "the last round" if condition.keep == "last_round" else "all rounds"
        lines.append(
            [f"{condition.form}, {kept}", label(condition) + place, f"{share}%", _cell(found, at) or "not measured"]
        )
    return markdown.table(["logs", "shown as", "first trial", "here"], lines)


def _cell(cells: pd.DataFrame, at: str) -> str:
    return percent(cells.loc[at]) if at in cells.index else ""


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
