"""Fidelity of KV to dense prefill, by the place of logs and by what stood before them when they were encoded.

Dense prefill reads the words of the logs, in the same places and order, in one go with the prompt. There a log has read
the prompt's head, or nothing, and the logs in front of it; injected KV has read what its policy says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import get_args

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import EncodedText, Encoder
from lagkit.logs.stranger import Span
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import POLICIES, Before, Place, Policy, Variant, get_policy
from lagkit.runs.experiment import Experiment
from lagkit.stats.wording import number
from lagkit.studies import asking
from lagkit.studies.attention import hidden_slots, response_mass, watching
from lagkit.studies.drift import divergence, response_logits
from lagkit.studies.examples import Meeting
from lagkit.types import Trace
from lagkit.util.errors import ConfigError
from lagkit.util.progress import progress

LAST, NO_LOGS = "+best_log=last", "no_logs"
HEAD, EARLIER, QUESTIONS = "head", "earlier responses", "questions"
LEAD, REST = "words before the questions", "rest of the user turns"


@dataclass(frozen=True)
class Pair:
    """A meeting under one variant: the contexts with KV, with the same words read (`dense`), and without logs.

    said: ids of the model's response to dense prefill, which it is made to say after each. logs: slots of each log, and
    bos: that of the head's first token, in `kv` and `dense` alike.
    """

    question_id: str
    variant: str
    kv: Context
    dense: Context
    without: Context
    logs: tuple[range, ...]
    bos: int
    said: tuple[int, ...] = ()


def grid() -> pd.DataFrame:
    """Variants that keep the last round as KV, by name: columns `place`, `before` and `best_log` (`first` or
    `last`)."""
    names, rows = {policy: name for name, policy in POLICIES.items()}, {}
    places = (place for place in get_args(Place) if place != "user_turn")
    befores = (before for before in get_args(Before) if before != "usual")
    for place, before, best in product(places, befores, ("first", "last")):
        policy = Policy("kv", place=place)
        if before != policy.reads_first:
            policy = replace(policy, before=before)
        name = names.get(policy, str(policy)) + (LAST if best == "last" else "")
        rows[name] = {"place": place, "before": before, "best_log": best}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def pairs(run: Experiment, met: Sequence[Meeting], names: Sequence[str]) -> list[Pair]:
    """Every meeting under every variant, by name; blocks that the run's store lacks are encoded into it.

    Raises ConfigError for a variant that does not inject KV of whole traces, ContextTooLong.
    """
    variants = [Variant.parse(name) for name in names]
    if other := [v.name for v in variants if v.policy is None or v.policy.inject != "kv" or v.policy.unit != "trace"]:
        raise ConfigError(
            f"{other[0]} does not inject KV of whole logs: there is nothing to hold against reading them."
        )
    found = []
    with run.writing(), run.store(write=True) as store:
        for variant in variants:
            builder = KVContextBuilder(run.local_lm, run.prompt, variant.policy, store)
            step = 1 if variant.limits(run.config.limits).best_log == "first" else -1
            for meeting in progress(met, f"Placing logs: {variant.name}"):
                blocks = [builder.block(log.id, meeting.question) for log in meeting.logs[::step]]
                found.append(_pair(builder, meeting, variant.name, blocks))
    return _answered(run, found)


def hidden_pairs(run: Experiment, met: Sequence[Meeting], name: str) -> list[Pair]:
    """Every meeting with logs whose kept tokens did not see one part of the conversation, which names the variant.

    Raises ConfigError under a policy that reads no conversation, ContextTooLong, UnsupportedModel.
    """
    policy = get_policy(name)
    if policy is None or policy.inject != "kv" or policy.encode != "conversation":
        raise ConfigError(f"Policy {name} reads no conversation before what it keeps: choose encode=conversation.")
    builder = KVContextBuilder(run.local_lm, run.prompt, policy)
    logs = {log.id: log for meeting in met for log in meeting.logs}
    blocks = {id: hidden(builder.encoder, log, policy) for id, log in progress(logs.items(), "Hiding", total=len(logs))}
    found = [
        _pair(builder, meeting, part, [blocks[log.id][part] for log in meeting.logs])
        for meeting in met
        for part in (HEAD, EARLIER, QUESTIONS, LEAD, REST)
    ]
    return _answered(run, found)


def hidden(encoder: Encoder, trace: Trace, policy: Policy) -> dict[str, KVBlock]:
    """A conversation's block when the kept tokens do not see one of its parts; positions stay as they are."""
    reading, blocks = encoder.read(trace, policy), {}
    for part, slots in _parts(encoder.prompt, reading, trace).items():
        cut = hidden_slots(reading, [(reading.kept, slots - {*reading.kept})])
        with watching(encoder.lm.model, cut=cut):
            blocks[part] = encoder.prefill(reading)
    return blocks


def fidelity(lm: LM, found: Sequence[Pair]) -> pd.DataFrame:
    """Divergence of KV from dense prefill, over the tokens of the response to dense prefill: a row per pair.

    For comparison, a row under `NO_LOGS` for each response. Columns as of `drift.divergence`, and `same`: whether the
    most probable token is the same throughout, so that the greedy response is.
    """
    rows = []
    for group in progress(_by_dense(found), "Divergence from dense prefill"):
        first = group[0]
        expected = response_logits(lm, first.dense, first.said)
        for variant, context in [(NO_LOGS, first.without), *((pair.variant, pair.kv) for pair in group)]:
            row = divergence(expected, response_logits(lm, context, first.said))
            rows.append({"question_id": first.question_id, "variant": variant, **row})
    return pd.DataFrame(rows).assign(same=lambda table: table["agreement"] == 1)


def sinks(lm: LM, found: Sequence[Pair]) -> pd.DataFrame:
    """Attention of the response, with KV and after dense prefill (`read`): a row per pair and reading.

    `bos`: share on the head's first token; `firsts`: on the first tokens of logs; `logs`: on all others of theirs.
    Means over the response's tokens, layers and heads. Raises UnsupportedModel.
    """
    rows = []
    for group in progress(_by_dense(found), "Attention to logs and BOS"):
        dense = _shares(lm, group[0], group[0].dense)
        for pair in group:
            for read, shares in (("KV", _shares(lm, pair, pair.kv)), ("dense", dense)):
                rows.append({"question_id": pair.question_id, "variant": pair.variant, "read": read, **shares})
    return pd.DataFrame(rows)


def _pair(builder: KVContextBuilder, meeting: Meeting, name: str, blocks: Sequence[KVBlock]) -> Pair:
    """A pair whose response is still to come."""
    blocks = [block for block in blocks if len(block)]
    words = [id for block in blocks for id in block.ids.tolist()]
    kv, dense, without = (
        builder.build(meeting.question, meeting.user_turn, *shown) for shown in ((blocks,), ((), words), ((),))
    )
    begin = kv.injected - len(words)  # what is injected in front of the logs: nothing, or the head
    edges = [begin + sum(map(len, blocks[:i])) for i in range(len(blocks) + 1)]
    logs = tuple(range(*edge) for edge in pairwise(edges))
    return Pair(meeting.question.id, name, kv, dense, without, logs, 0 if begin else len(words))


def _answered(run: Experiment, found: Sequence[Pair]) -> list[Pair]:
    """The pairs with the model's responses to dense prefill; those that read the same words share them."""
    dense = list(dict.fromkeys(pair.dense for pair in found))
    said = dict(zip(dense, asking.respond(run, dense), strict=True))
    return [replace(pair, said=said[pair.dense].ids) for pair in found]


def _by_dense(found: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs that share dense prefill together, so that it is done once for them and not kept for all."""
    groups: dict[Context, list[Pair]] = {}
    for pair in found:
        groups.setdefault(pair.dense, []).append(pair)
    return list(groups.values())


def _shares(lm: LM, pair: Pair, context: Context) -> dict[str, float]:
    firsts, others = [own[0] for own in pair.logs], [slot for own in pair.logs for slot in own[1:]]
    return response_mass(lm, context, pair.said, {"bos": [pair.bos], "firsts": firsts, "logs": others})


def findings(means: pd.DataFrame, questions: int) -> list[str]:
    """The closest cell to dense prefill, and the farthest. means: of `fidelity`, by cell."""
    told = []
    for verb, cell in (("Closest to", means["kl"].idxmin()), ("Farthest from", means["kl"].idxmax())):
        row = means.loc[cell]
        told.append(
            f"{verb} dense prefill is {' / '.join(cell)}: KL {number(row['kl'], 2)}, agreement {row['agreement']:.1%}, "
            f"the same response for {row['same']:.0%} of {questions} questions."
        )
    return told


def _parts(prompt: Prompt, reading: EncodedText, trace: Trace) -> dict[str, set[int]]:
    """Slots of what stands before the kept tokens of a conversation, by part; a token in two is the first one's."""
    lead = re.split(r"\$\w+", prompt.user.partition("$question")[0])[-1]  # what the template says before the question
    spans: dict[str, list[Span]] = {QUESTIONS: [], LEAD: [], REST: []}
    end = 0
    for round_ in (round_ for round_ in trace.rounds if round_.response):
        start = reading.text.index(round_.prompt, end)
        end = start + len(round_.prompt)
        asked = start + round_.prompt.rindex(trace.question)
        spans[QUESTIONS].append((asked, asked + len(trace.question)))
        spans[LEAD].append((max(start, asked - len(lead)), asked))
        spans[REST].append((start, end))
    parts = {HEAD: set(range(reading.context.injected))}
    parts[EARLIER] = {slot for round_ in reading.rounds[:-1] for slot in round_}
    for part, own in spans.items():
        taken = set().union(*parts.values())
        parts[part] = {slot for slot in _slots(reading, own) if slot not in taken}
    return parts


def _slots(reading: EncodedText, spans: Sequence[Span]) -> list[int]:
    """Slots of the tokens that have a character in one of `spans`."""
    tokens = enumerate(reading.spans, reading.context.injected)
    return [slot for slot, (a, b) in tokens if any(a < stop and b > start for start, stop in spans)]
