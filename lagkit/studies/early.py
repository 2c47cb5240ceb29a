"""Attention from a log's kept tokens to its earlier rounds, and from generated tokens to injected ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice, product

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.policy import Policy
from lagkit.runs.experiment import Experiment
from lagkit.stats.metrics import normalize
from lagkit.studies import asking
from lagkit.studies.attention import mass, uniform_mass
from lagkit.studies.examples import Case
from lagkit.types import Question, Trace
from lagkit.util.progress import progress

_Spans = Mapping[int, Sequence[int]]


def to_rounds(run: Experiment, cases: Sequence[Case], policy: Policy) -> pd.DataFrame:
    """Attention from each log's kept tokens to every earlier round, while the log is encoded.

    One row per question, layer, head and `back` (1: the round next to the last). `mass`: the share of attention that
    goes to that round. `null`: the same when another log's words stand in the slots of all earlier rounds. `uniform`:
    the round's share of what a kept token sees. The very first slot, where attention rests, counts to no round.
    """
    encoder, tables = Encoder(run.local_lm, run.prompt), []
    for case in progress(cases, "Attention to earlier rounds"):
        reading = encoder.read(case.log, policy)
        last = len(reading.rounds) - 1
        spans = {back: [slot for slot in reading.rounds[last - back] if slot] for back in range(1, last + 1)}
        swapped = _swapped(encoder, reading.context, spans, case.stranger)
        tables.append(_table(run.local_lm, (reading.context, swapped), reading.kept, spans, case))
    return pd.concat(tables, ignore_index=True)


def to_log(run: Experiment, cases: Sequence[Case], policy: Policy) -> pd.DataFrame:
    """Attention from what the model generates in its first round to the injected log.

    One row per question, layer and head. `null`: the same words generated, but another log's KV in the log's slots,
    repeated or cut to as many tokens. Otherwise as in `to_rounds`. Questions to which it says nothing are left out.
    """
    builder, tables = KVContextBuilder(run.local_lm, run.prompt, policy), []
    blocks = [builder.encoder.encode(case.log, policy) for case in progress(cases, "Encoding logs")]
    contexts = [
        builder.build(case.question, case.user_turn, (block,)) for case, block in zip(cases, blocks, strict=True)
    ]
    said = asking.respond(run, contexts)
    rows = [row for row in zip(cases, blocks, contexts, said, strict=True) if row[3].ids]
    for case, block, context, response in progress(rows, "Attention to logs"):
        other = builder.encoder.encode(case.stranger, policy)
        other = other.take([i % len(other) for i in range(len(block))])
        *before, _ = context.blocks
        ids = (*context.ids, *response.ids)
        whole, swapped = (Context(ids, (*before, shown)) for shown in (block, other))
        end = whole.injected + len(ids)
        start = sum(map(len, before))
        log = [slot for slot in range(start, start + len(block)) if slot]
        generated = range(end - len(response.ids), end)
        tables.append(_table(run.local_lm, (whole, swapped), generated, {0: log}, case))
    return pd.concat(tables, ignore_index=True).drop(columns="back")


def repetition(logs: Sequence[Trace], questions: Sequence[Question]) -> pd.DataFrame:
    """What the last round repeats of each earlier one: one row per log and `back`.

    `words`: the share of the round's distinct words (NaN if it has none). `found`: how many answers of the log
    question's hops the round names; `found_again`: how many of these the last round names too.
    """
    hops = {question.id: [normalize(hop.answer) for hop in question.hops] for question in questions}
    rows = []
    for log in logs:
        *earlier, last = [normalize(round_.response) for round_ in log.rounds if round_.response]
        for back, said in enumerate(reversed(earlier), 1):
            words = {*said.split()}
            found = [answer for answer in hops.get(log.question_id, ()) if f" {answer} " in f" {said} "]
            rows.append(
                {
                    "question_id": log.question_id,
                    "back": back,
                    "words": len(words & {*last.split()}) / len(words) if words else float("nan"),
                    "found": len(found),
                    "found_again": sum(f" {answer} " in f" {last} " for answer in found),
                }
            )
    return pd.DataFrame(rows, columns=["question_id", "back", "words", "found", "found_again"])


def _table(
    lm: LM, contexts: tuple[Context, Context], queries: Sequence[int], spans: _Spans, case: Case
) -> pd.DataFrame:
    """Rows for one case, from the true context and from the one with a stranger's tokens in its place."""
    named = {str(key): slots for key, slots in spans.items()}
    found, null = (mass(lm, context, queries, named) for context in contexts)
    uniform = uniform_mass(queries, named)
    return pd.DataFrame(
        {
            "question_id": case.question.id,
            "layer": layer,
            "head": head,
            "back": key,
            "mass": float(found[layer, head, i]),
            "null": float(null[layer, head, i]),
            "uniform": float(uniform[i]),
        }
        for layer, head in product(*map(range, found.shape[:2]))
        for i, key in enumerate(spans)
    )


def _swapped(encoder: Encoder, context: Context, spans: _Spans, stranger: Trace) -> Context:
    """The context with a stranger's words, repeated or cut to fit, in the slots of `spans`."""
    slots = sorted(slot - context.injected for span in spans.values() for slot in span)
    lm = encoder.lm
    words = lm.tokenize(lm.plain(" ".join(round_.response for round_ in stranger.rounds)))
    ids = list(context.ids)
    for slot, word in zip(slots, islice(cycle(words), len(slots)), strict=True):
        ids[slot] = word
    return replace(context, ids=tuple(ids))
