"""What kept tokens carry: which of three candidates a model prefers when only an earlier round of a log can tell.

Three logs that use the same alias stand in front of a question of the carry world (`lagkit.datasets.world.carry`). The
conditions differ in what is kept of them, and in what the kept tokens have read. Chance is a third.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from lagkit.agent.context import KVContextBuilder
from lagkit.datasets.world.carry import RUNGS, Item
from lagkit.datasets.world.world import plain
from lagkit.logs.encode import SEPARATOR, Encoder, kept_text
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import Policy
from lagkit.stats.intervals import Hops, mean_interval, paired_intervals
from lagkit.stats.wording import judged
from lagkit.studies import sanity
from lagkit.types import Trace
from lagkit.util.errors import DataError
from lagkit.util.progress import progress

NONE, LAST, ALL, BLOCK, OWN, STRANGER = "none", "text of the last round", "text of all", "block", "own", "stranger"
TEXTS = {LAST: "last_round", ALL: "all_rounds"}
# What the kept tokens of the last round have read before them.
ENCODED = {
    BLOCK: Policy("kv", encode="kept"),
    STRANGER: Policy("kv", encode="stranger"),
    "filler": Policy("kv", encode="filler"),
    OWN: Policy("kv"),
    "conversation": Policy("kv", encode="conversation"),
}
CONDITIONS = (NONE, *TEXTS, *ENCODED)
CHANCE = 1 / 3
BEYOND = tuple(rung for rung in RUNGS if rung.endswith("back"))  # the last round alone cannot tell
CONTRASTS = {"own - stranger": (STRANGER, OWN), "stranger - block": (BLOCK, STRANGER), "own - block": (BLOCK, OWN)}
CONTRASTS |= {"text of all - own": (OWN, ALL)}
_BATCH = 24


def measure(lm: LM, items: Sequence[Item], prompt: Prompt, conditions: Sequence[str] = CONDITIONS) -> pd.DataFrame:
    """A row per item and condition: `rung`, `question_id`, `condition`, `right`, `gold` and `hops`.

    gold: log-probability of the right candidate among the three (nats), by the first token of each, behind the question
    and the words that lead to its answer. right: whether it is the likeliest. Raises DataError where candidates begin
    with the same token.
    """
    rows = []
    logs = {rung: {log.id: log for i in items if i.scoped.rung == rung for log in i.logs} for rung in RUNGS}
    for start in progress(range(0, len(items), _BATCH), "Which log is believed?"):
        some = items[start : start + _BATCH]
        for condition in conditions:
            contexts = [_context(lm, item, prompt, condition, logs[item.scoped.rung]) for item in some]
            rows += scored(lm, some, contexts, condition)
    return pd.DataFrame(rows)


def scored(lm: LM, items: Sequence[Item], contexts: Sequence[Context], condition: str) -> list[dict[str, object]]:
    """The rows of `measure` for the contexts of some items under one condition. Raises DataError as it does."""
    answers = [item.question.answers[0] for item in items]
    first = sanity.read(lm, {condition: contexts}, answers, new_tokens=0)[condition].first
    return [_row(lm, item, condition, scores) for item, scores in zip(items, first, strict=True)]


def asked(lm: LM, item: Item, prompt: Prompt, blocks: Sequence[KVBlock], words: Sequence[int] = ()) -> Context:
    """The question behind these logs, and the words that lead to its answer."""
    question, fact = item.question, item.scoped.facts[item.right][-1]
    builder = KVContextBuilder(lm, prompt, Policy("kv"))
    context = builder.build(question, prompt.user_turn(question, item.passages), blocks, words)
    leading = plain(fact.relation).partition(" $o")[0].replace("$s", fact.subject)
    return builder.proceed(context, f"{question.text} {leading}")


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """`right` and `gold` by `rung` and `condition`, with intervals as of `mean_interval`."""
    found = {}
    for (rung, condition), own in rows.groupby(["rung", "condition"], sort=False):
        for measure in ("right", "gold"):
            values = own.set_index("question_id")[measure]
            found[rung, condition, measure] = vars(mean_interval(values, hops(own)))
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(["rung", "condition", "measure"])


def contrasts(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences between conditions, paired by question: index `rung`, `contrast`, `measure`."""
    pairs = {}
    for rung, own in rows.groupby("rung", sort=False):
        for name, (base, other) in CONTRASTS.items():
            for measure in ("right", "gold"):
                values = own.pivot(index="question_id", columns="condition", values=measure)
                pairs[rung, name, measure] = values[base], values[other]
    return paired_intervals(pairs, hops(rows), ["rung", "contrast", "measure"])


def carries(found: pd.DataFrame, rung: str) -> str:
    """`more`, `less`, `equal within 3 points` or `inconclusive`: own context against a stranger's, in right answers."""
    return judged(found.loc[(rung, "own - stranger", "right")], "right")


def verdict(rows: Mapping[str, pd.DataFrame], plain_model: str, control: str) -> list[str]:
    """The answer in sentences, by model.

    One on the plain model is given only on rungs where the positive control succeeds, and where the plain model itself
    finds the answer in the text of all rounds: what it cannot use as text, it has no reason to carry.
    """
    found = {name: contrasts(own) for name, own in rows.items()}
    succeeds = [rung for rung in BEYOND if carries(found[control], rung).startswith("more")]
    if not succeeds:
        return [
            "The positive control fails: on no rung that the last round cannot tell does it do better behind its own "
            "context than behind a stranger's. So nothing follows from what the plain model does."
        ]
    told = [f"The positive control succeeds ({', '.join(map(_named, succeeds))}): KV can carry an earlier round."]
    shown = means(rows[plain_model])
    for rung in succeeds:
        text = shown.loc[(rung, ALL, "right")]
        if text["low"] <= CHANCE:
            told.append(
                f"Plain model, {_named(rung)}: nothing follows, since the text of all rounds does not help it either "
                f"({points(text, '')}% right, chance is 33.3%)."
            )
            continue
        row = found[plain_model].loc[(rung, "own - stranger", "right")]
        told.append(
            f"Plain model, {_named(rung)}: its own context against a stranger's: {carries(found[plain_model], rung)} "
            f"right answers, {points(row)} points."
        )
    return told


def points(row: Mapping[str, float] | pd.Series, sign: str = "+") -> str:
    """Mean and interval of a share in points."""
    told = [round(100 * row[name], 1) + 0.0 for name in ("mean", "low", "high")]  # no -0.0
    return "{:{s}.1f} [{:{s}.1f}, {:{s}.1f}]".format(*told, s=sign)


def _named(rung: str) -> str:
    return rung.replace("_", " ")


def _context(lm: LM, item: Item, prompt: Prompt, condition: str, logs: Mapping[str, Trace]) -> Context:
    if condition in TEXTS:
        text = SEPARATOR.join(kept_text(log, TEXTS[condition]) for log in item.logs)
        return asked(lm, item, prompt, [], lm.tokenize(lm.plain(text)))
    encoder = Encoder(lm, prompt, logs)
    encoded = [encoder.encode(log, ENCODED[condition]) for log in item.logs] if condition in ENCODED else []
    return asked(lm, item, prompt, encoded)


def _row(lm: LM, item: Item, condition: str, scores: torch.Tensor) -> dict[str, object]:
    first = [lm.tokenize(lm.plain(f" {name}"))[0] for name in item.candidates]
    if len({*first}) < len(first):
        raise DataError(f"The candidates {', '.join(item.candidates)} begin with the same token of {lm.name}.")
    likely = scores[first].log_softmax(-1)
    return {
        "rung": item.scoped.rung,
        "question_id": item.question.id,
        "condition": condition,
        "right": float(likely.argmax() == item.right),
        "gold": float(likely[item.right]),
        "hops": [hop.id for hop in item.question.hops],
    }


def hops(rows: pd.DataFrame) -> Hops:
    """Hops by question, from the rows of `measure`."""
    return dict(zip(rows["question_id"], rows["hops"], strict=True))
