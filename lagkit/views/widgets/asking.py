"""One question under several variants, and what the answer attends to: what `Playground` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.agent.loop import Agent
from lagkit.agent.retrieval import shown
from lagkit.logs.retrieve import PassageIndex
from lagkit.logs.store import Store
from lagkit.model.backend import Backend
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.policy import Variant, get_policy
from lagkit.stats import metrics
from lagkit.studies.attention import mass, uniform_mass
from lagkit.types import Limits, Question, Trace
from lagkit.util.errors import ConfigError, DataError

_REST = "instructions and chat marks"


def ask(
    lm: Backend, store: Store, question: Question | str, variants: Sequence[str], *, prompt: Prompt, **settings: Any
) -> dict[str, Trace]:
    """The traces of one question under each variant; see `follow`."""
    return dict(follow(lm, store, question, variants, prompt=prompt, **settings))


def follow(
    lm: Backend, store: Store, question: Question | str, variants: Sequence[str], *, prompt: Prompt, **settings: Any
) -> Iterator[tuple[str, Trace]]:
    """Yield variant and trace after every round; whoever stops asking stops the work.

    A question in words has no gold answer, so its traces are not judged. `settings`: embedder, passages and limits
    as in `Agent`. Raises ConfigError for an unknown variant, an empty question or one without its options, EmptyStore.
    """
    asked = as_question(question, prompt)
    limits = settings.pop("limits", None) or Limits()
    chosen = [Variant.parse(name) for name in variants]
    if not chosen:
        raise ConfigError("Choose at least one variant to ask.")
    for name, policy, own in ((variant.name, variant.policy, variant.limits(limits)) for variant in chosen):
        logs = store if policy else None
        agent = Agent(lm, prompt=prompt, policy=policy, store=logs, limits=own, policy_name=name, **settings)
        for trace in agent.follow(asked):
            ended = trace.answer is not None or trace.error or len(trace.rounds) == agent.max_rounds
            judged = metrics.is_right(asked, trace.answer) if ended and asked.answers else None
            yield name, replace(trace, correct=judged)


def as_question(question: Question | str, prompt: Prompt) -> Question:
    """Words as a question without gold answer; raises ConfigError where there are none, or options are missing."""
    if isinstance(question, Question):
        return question
    if not question.strip():
        raise ConfigError("Type a question first.")
    if prompt.kind == "choice":
        raise ConfigError("A multiple-choice question needs its options: choose one of the examples.")
    return Question("asked", question.strip(), ())


def answers_table(traces: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per variant: answer (empty if none), right, rounds, logs retrieved, tokens by origin and seconds."""
    rows = {
        name: {
            "answer": trace.answer or "",
            "right": trace.correct,
            "rounds": len(trace.rounds),
            "logs": sum(len(r.logs) for r in trace.rounds),
            "prefilled": trace.usage.prefilled,
            "injected": trace.usage.injected,
            "generated": trace.usage.generated,
            "seconds": trace.usage.seconds,
        }
        for name, trace in traces.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def attention_table(
    lm: LM,
    store: Store,
    trace: Trace,
    *,
    prompt: Prompt,
    passages: PassageIndex | None = None,
    question: Question | None = None,
) -> pd.DataFrame:
    """Attention of a trace's last response: `tokens`, `share` and `even` for each part of its context.

    `share` is the mean over layers, heads and generated tokens of the attention on the part, summed over its tokens.
    `even` is what it would be if each generated token attended to all before it alike. The shares add up to 1.
    `question` is needed where the prompt opens the turn with more than its text. Raises DataError for a trace without
    rounds, StoreError if a log of it is gone.
    """
    if not trace.rounds:
        raise DataError("There is no response whose attention could be shown: the question failed in its first round.")
    policy = get_policy(trace.policy)
    if policy and policy.inject == "copy":
        raise DataError("The answer was copied from a log, so the model attended to nothing: choose another variant.")
    if policy and policy.inject == "cheatsheet" and policy.place == "front":
        raise DataError("Notes in front of the prompt are not kept in a trace: choose another variant.")
    asked = question or Question(trace.question_id, trace.question, ())
    context, parts = _context(KVContextBuilder(lm, prompt, policy, store), asked, trace, passages)
    opening = lm.opens + prompt.open_turn(asked)
    said = lm.tokenize(lm.plain(trace.rounds[-1].turn.removeprefix(opening)))
    first = context.injected + len(context.ids)
    whole = Context((*context.ids, *said), context.blocks)
    spoken = list(range(first, first + len(said)))
    parts["its own words"] = spoken
    shares = mass(lm, whole, spoken, parts).mean(dim=(0, 1))
    even = uniform_mass(spoken, parts)
    table = {"tokens": [len(slots) for slots in parts.values()], "share": shares.tolist(), "even": even.tolist()}
    return pd.DataFrame(table, index=pd.Index(parts, name="part"))


def _context(
    builder: KVContextBuilder, question: Question, trace: Trace, passages: PassageIndex | None
) -> tuple[Context, dict[str, list[int]]]:
    """The context of a trace's last round, and the slots of its parts, none of them twice."""
    lm, prompt, last = builder.lm, builder.prompt, trace.rounds[-1]
    queries = [r.query for r in trace.rounds]
    found = {hit.id: queries.index(r.query) for r in trace.rounds for hit in r.logs}
    logs = shown(found, grouped=prompt.grouped)
    context = builder.context(question, last.prompt, logs)
    _, tail = split_chat(lm, prompt.head(), [{"role": "user", "content": last.prompt}])
    tail += lm.plain(prompt.open_turn(question))
    spans = lm.tokenizer(tail, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    total = context.injected + len(context.ids)
    begin = total - len(spans)  # the first slot of the tail
    parts = _log_parts(builder, context, logs, begin)
    for name, (start, stop) in _text_parts(builder, question, trace, passages, tail, logs).items():
        parts[name] = [begin + i for i, (a, b) in enumerate(spans) if a < stop and b > start]
    parts = _disjoint(parts)
    taken = {slot for slots in parts.values() for slot in slots}
    rest = [slot for slot in range(total) if slot not in taken]
    return context, {name: slots for name, slots in {**parts, _REST: rest}.items() if slots}


def _log_parts(builder: KVContextBuilder, context: Context, logs: list[str], begin: int) -> dict[str, list[int]]:
    """Slots of logs before the prompt: injected blocks, one for each log, or text in front of BOS."""
    policy, at = builder.policy, 0
    if not logs or policy is None or policy.place == "user_turn":
        return {}
    if policy.inject == "text":
        words = len(builder.lm.tokenize(builder.lm.plain(builder.texts(logs))))
        first = context.injected if policy.place == "front" else begin - words
        return {"logs, as text": list(range(first, first + words))}
    parts: dict[str, list[int]] = {}
    heads = len(context.blocks) - len(logs)
    for number, block in enumerate(context.blocks):
        if number >= heads:
            log = builder.reused[1].get(logs[number - heads])
            parts[f"log {number - heads + 1}: {log.question}"] = list(range(at, at + len(block)))
        at += len(block)
    return parts


def _text_parts(
    builder: KVContextBuilder,
    question: Question,
    trace: Trace,
    passages: PassageIndex | None,
    tail: str,
    logs: list[str],
) -> dict[str, tuple[int, int]]:
    """Character spans of what the tail of the prompt is made of; what is not found in it is left out."""
    plain = builder.lm.plain  # as the tail itself is
    opening, asked, notes = map(plain, (builder.prompt.open_turn(question), question.text, builder.notes(logs)))
    body = len(tail) - len(opening)
    found = {"logs, as text": (tail.find(notes), len(notes))} if notes else {}
    shown = [passages.passage(hit.id) for r in trace.rounds for hit in r.passages] if passages is not None else []
    for number, passage in enumerate(shown, 1):
        words = plain(passage.text)
        found[f"passage {number}: {passage.title}"] = (tail.rfind(words, 0, body), len(words))
    found["question"] = (tail.rfind(asked, 0, body), len(asked))
    found["opening of the answer"] = (body, len(opening))
    return {name: (start, start + length) for name, (start, length) in found.items() if start >= 0 and length}


def _disjoint(parts: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Each slot in the first part that claims it: a token may span the end of one part and the start of the next."""
    taken: set[int] = set()
    apart: dict[str, list[int]] = {}
    for name, slots in parts.items():
        apart[name] = [slot for slot in slots if slot not in taken]
        taken.update(slots)
    return apart
