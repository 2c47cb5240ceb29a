"""What an answer attends to, by part of its context and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.agent.retrieval import shown
from lagkit.logs.retrieve import PassageIndex
from lagkit.logs.store import Store
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.model.tokens import decoded
from lagkit.policy import get_policy
from lagkit.studies.attention import mass, uniform_mass
from lagkit.studies.tokens import FIRST, OWN, Piece, TokenAttention, measured
from lagkit.types import Passage, Question, Trace
from lagkit.util.errors import DataError

_REST = "instructions and chat marks"
_FOLDED = 24  # tokens of instructions in a row from which on they are counted and not shown
_LONGEST = 4  # tokens that may spell one character


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
    passages: without them, their texts count as the rest. question: where the prompt opens the turn with more than its
    text. Raises DataError for a trace without rounds, StoreError if a log of it is gone.
    """
    whole, spoken, parts = _spoken(lm, store, trace, prompt, passages, question)
    shares = mass(lm, whole, spoken, parts).mean(dim=(0, 1))
    even = uniform_mass(spoken, parts)
    table = {"tokens": [len(slots) for slots in parts.values()], "share": shares.tolist(), "even": even.tolist()}
    return pd.DataFrame(table, index=pd.Index(parts, name="part"))


def attention_tokens(
    lm: LM,
    store: Store,
    trace: Trace,
    *,
    prompt: Prompt,
    passages: PassageIndex | None = None,
    question: Question | None = None,
) -> TokenAttention:
    """As `attention_table`, token by token, for `plot.tokens.view`; the first token is a part of its own."""
    whole, spoken, parts = _spoken(lm, store, trace, prompt, passages, question)
    owner = {slot: name for name, slots in parts.items() for slot in slots} | {0: FIRST}
    ids = [*(id for block in whole.blocks for id in block.ids.tolist()), *whole.ids]
    pieces = [Piece(f"[{FIRST}]", (0,), FIRST)] if 0 not in spoken else []
    for name, run in groupby(range(len(pieces), len(ids)), key=owner.__getitem__):
        slots = tuple(run)
        if name == _REST and len(slots) >= _FOLDED:
            pieces.append(Piece(f"[{name}: {len(slots)} tokens]", slots, name))
        else:
            pieces += _spelled(lm, ids, slots, name)
    return measured(lm, whole, pieces, spoken, trace.question, "generated")


def _spelled(lm: LM, ids: Sequence[int], slots: Sequence[int], part: str) -> list[Piece]:
    """A piece for each token, or for those of one character. Behind its neighbour, a token keeps its blank in front."""
    pieces, begun = list[Piece](), list[int]()
    for slot in slots:
        begun.append(slot)
        before = [ids[begun[0] - 1]] if begun[0] else []
        text = decoded(lm.tokenizer, [*before, *(ids[one] for one in begun)])
        if text.endswith("\ufffd") and len(begun) < _LONGEST and slot != slots[-1]:
            continue
        pieces.append(Piece(text.removeprefix(decoded(lm.tokenizer, before)), tuple(begun), part))
        begun = []
    return pieces


def _spoken(
    lm: LM, store: Store, trace: Trace, prompt: Prompt, passages: PassageIndex | None, question: Question | None
) -> tuple[Context, list[int], dict[str, list[int]]]:
    """The context of a trace's last round with its response, the slots of this, and those of each part."""
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
    spoken = list(range(first, first + len(said)))
    if not spoken:
        raise DataError("The model said nothing, so there is no word whose attention could be shown.")
    return Context((*context.ids, *said), context.blocks), spoken, {**parts, OWN: spoken}


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
    read = [passages.passage(hit.id) for r in trace.rounds for hit in r.passages] if passages is not None else []
    for name, (start, stop) in _text_parts(builder, question, read, tail, logs).items():
        parts[name] = [begin + i for i, (a, b) in enumerate(spans) if a < stop and b > start]
    # A token that spans the end of one part and the start of the next counts to the first.
    owner = {slot: name for name, slots in reversed(parts.items()) for slot in slots}
    alone = {name: [slot for slot in range(total) if owner.get(slot, _REST) == name] for name in (*parts, _REST)}
    return context, {name: slots for name, slots in alone.items() if slots}


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
    builder: KVContextBuilder, question: Question, passages: Sequence[Passage], tail: str, logs: list[str]
) -> dict[str, tuple[int, int]]:
    """Character spans of what the tail of the prompt is made of; what is not found in it is left out."""
    plain = builder.lm.plain  # as the tail itself is
    opening, asked, notes = map(plain, (builder.prompt.open_turn(question), question.text, builder.notes(logs)))
    body = len(tail) - len(opening)
    found = {"logs, as text": (tail.find(notes), len(notes))} if notes else {}
    for number, passage in enumerate(passages, 1):
        words = plain(passage.text)
        found[f"passage {number}: {passage.title}"] = (tail.rfind(words, 0, body), len(words))
    found["question"] = (tail.rfind(asked, 0, body), len(asked))
    found["opening of the answer"] = (body, len(opening))
    return {name: (start, start + length) for name, (start, length) in found.items() if start >= 0 and length}
