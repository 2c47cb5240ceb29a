"""Attention of one log token by token: from what is kept of it while it is read, or from what is generated with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import split_chat
from lagkit.policy import Policy
from lagkit.runs.experiment import Experiment
from lagkit.studies import asking
from lagkit.studies.attention import uniform_mass, weights
from lagkit.studies.examples import Case
from lagkit.types import Question, Trace
from lagkit.util.errors import ConfigError, DataError

# Parts of a context beside the rounds of a log, or the logs.
FIRST, HEAD, OTHER, PROMPT, OWN = "first token", "prompt's head", "other text", "prompt", "its own words"


@dataclass(frozen=True)
class Piece:
    """A token as people read it. `slots`: its own, or those of several tokens that share a character or have no text.

    before: characters in front of it that belong to no token. part: what it counts to; the very first slot, where
    attention rests when it has nowhere to go, is a part of its own.
    """

    text: str
    slots: tuple[int, ...]
    part: str
    before: str = ""


@dataclass(frozen=True)
class TokenAttention:
    """Attention from `asking` tokens (positions in `pieces`) to all pieces: fp32 `[layers, heads, asking, pieces]`.

    asks: what the asking tokens are, `kept` or `generated`. even: the share of each part if every asking token spread
    its attention evenly over all that it sees.
    """

    title: str
    asks: str
    pieces: tuple[Piece, ...]
    asking: tuple[int, ...]
    weights: Tensor
    even: dict[str, float]

    @property
    def parts(self) -> list[str]:
        """Names of the parts, in the order of the even shares."""
        return [*self.even]

    @cached_property
    def rows(self) -> Tensor:
        """`weights` with the mean over all asking tokens in front: `[layers, heads, 1 + asking, pieces]`."""
        return torch.cat([self.weights.mean(dim=2, keepdim=True), self.weights], dim=2)

    @cached_property
    def shares(self) -> Tensor:
        """`rows` summed over the pieces of each part: `[layers, heads, 1 + asking, parts]`; each row adds up to 1."""
        return _summed(self.rows, [self.parts.index(piece.part) for piece in self.pieces], len(self.parts))

    def table(self) -> pd.DataFrame:
        """Mean share of attention of all asking tokens: a row for each `part`, `layer` and `head`, and its `even`."""
        mean = self.shares[:, :, 0]
        layers, heads, _ = mean.shape
        return pd.DataFrame(
            {"part": part, "layer": layer, "head": head, "share": float(mean[layer, head, i]), "even": self.even[part]}
            for (i, part), layer, head in product(enumerate(self.parts), range(layers), range(heads))
        )

    def by_part(self) -> pd.DataFrame:
        """A row for each part: its `tokens`, the mean `share` over layers, heads and asking tokens, and `even`."""
        shares = self.shares[:, :, 0].mean(dim=(0, 1)).tolist()
        tokens = [sum(len(one.slots) for one in self.pieces if one.part == part) for part in self.parts]
        rows = {"tokens": tokens, "share": shares, "even": [*self.even.values()]}
        return pd.DataFrame(rows, index=pd.Index(self.parts, name="part"))


def encoding(encoder: Encoder, log: Trace, policy: Policy) -> TokenAttention:
    """Attention of a log's kept tokens to all that is read before them, while the log is encoded.

    The parts are its rounds, as `early.to_rounds` counts them. Raises ConfigError where the policy keeps no KV,
    DataError where nothing of the log is kept, ContextTooLong, UnsupportedModel.
    """
    if policy.inject != "kv":
        raise ConfigError(
            f"Policy {policy} keeps no KV of a log, so no token of it attends: choose one that injects kv."
        )
    reading = encoder.read(log, policy)
    if not reading.kept:
        raise DataError(f"Policy {policy} keeps nothing of the log {log.id}: it has no response.")
    injected, last = reading.context.injected, sum(bool(one.response) for one in log.rounds)
    first = last - len(reading.rounds)  # behind another context, only the kept rounds are the log's own
    owner = {slot: f"round {n + 1}" for n, own in enumerate(reading.rounds, first) for slot in own}
    pieces = _chips(injected, HEAD) + _pieces(reading.text, reading.spans, injected, OTHER, owner)
    return measured(encoder.lm, reading.context, pieces, reading.kept, log.question, "kept")


def using(
    builder: KVContextBuilder, question: Question, user_turn: str, logs: Sequence[Trace], said: str
) -> TokenAttention:
    """Attention of the words that a model generates to the injected logs, the prompt and its own words.

    user_turn: the `prompt` of a trace's round. said: what the model wrote behind the opening of its turn. Raises
    ConfigError where the policy injects no KV, DataError where the model said nothing.
    """
    lm, policy, opening = builder.lm, builder.policy, builder.prompt.open_turn(question)
    if policy is None or policy.inject != "kv":
        raise ConfigError("Only of KV that is injected each token is known here: choose a policy that injects kv.")
    readings = [builder.encoder.read(log, policy) for log in logs]
    context = builder.build(question, user_turn, [builder.encoder.prefill(one) for one in readings])
    turn = [{"role": "user", "content": user_turn}]
    head, tail = split_chat(lm, builder.prompt.for_question(question.id).head(), turn)
    head_tokens, behind = len(lm.tokenize(head)), policy.place == "prefix" or not logs
    pieces, at = (_chips(head_tokens, HEAD), head_tokens) if behind else (list[Piece](), 0)
    for number, one in enumerate(readings, 1):
        spans = [one.spans[slot - one.context.injected] for slot in one.kept]
        pieces += _pieces(one.text, spans, at, f"log {number}")
        at += len(spans)
    if not behind:
        pieces += _chips(head_tokens, HEAD, at)
        at += head_tokens
    for name, text in ((PROMPT, tail + lm.plain(opening)), (OWN, lm.plain(said))):
        encoded = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"]
        pieces += _pieces(text, encoded["offset_mapping"], at, name)
        own, at = range(at, at + len(ids)), at + len(ids)
    if not ids:
        raise DataError("The model said nothing, so there is no word whose attention could be shown.")
    whole = replace(context, ids=(*context.ids, *ids))
    return measured(lm, whole, pieces, own, question.text, "generated")


def of_case(run: Experiment, case: Case, policy: Policy) -> tuple[TokenAttention, TokenAttention]:
    """A case's log while it is encoded, and what the model generates in its first round with that log injected."""
    logs = {log.id: log for log in run.logs}
    builder = KVContextBuilder(run.local_lm, run.prompt, policy)
    encoder = replace(builder.encoder, logs=logs)
    block = encoder.encode(case.log, policy)
    [said] = asking.respond(run, [builder.build(case.question, case.user_turn, (block,))])
    return encoding(encoder, case.log, policy), using(builder, case.question, case.user_turn, [case.log], said.text)


def measured(
    lm: LM, context: Context, pieces: Sequence[Piece], queries: Sequence[int], title: str, asks: str
) -> TokenAttention:
    """The attention from `queries` (slots) to all `pieces`, a row for each piece that begins with one of them.

    asks: what the queries are, as in `TokenAttention`. Raises as `attention.weights`.
    """
    begins = {piece.slots[0]: i for i, piece in enumerate(pieces)}
    asking_slots = [slot for slot in queries if slot in begins]
    owner = {slot: i for i, piece in enumerate(pieces) for slot in piece.slots}
    found = weights(lm, context, asking_slots)
    spans: dict[str, list[int]] = {}
    for piece in pieces:
        spans.setdefault(piece.part, []).extend(piece.slots)
    if OTHER in spans:  # mostly blank lines: behind what they stand between
        spans[OTHER] = spans.pop(OTHER)
    even = dict(zip(spans, uniform_mass(asking_slots, spans).tolist(), strict=True))
    summed = _summed(found, [owner[slot] for slot in range(found.shape[-1])], len(pieces))
    return TokenAttention(title, asks, tuple(pieces), tuple(begins[slot] for slot in asking_slots), summed, even)


def _pieces(
    text: str, spans: Sequence[tuple[int, int]], first: int, part: str, owner: Mapping[int, str] | None = None
) -> list[Piece]:
    """The tokens of a text, from slot `first` on, of one part but for those of `owner`; a character's tokens are
    one."""
    pieces, owner = list[Piece](), {**(owner or {}), 0: FIRST}
    at = spans[0][0] if spans else 0
    for slot, (start, stop) in enumerate(spans, first):
        if stop <= at and pieces:
            pieces[-1] = replace(pieces[-1], slots=(*pieces[-1].slots, slot))
            continue
        gap = text[at : max(start, at)]
        pieces.append(Piece(text[max(start, at) : stop], (slot,), owner.get(slot, part), "…" if gap.strip() else gap))
        at = max(stop, at)
    return pieces


def _chips(tokens: int, name: str, first: int = 0) -> list[Piece]:
    """Pieces for tokens whose text is not shown."""
    slots = tuple(range(first, first + tokens))
    chips = [Piece(f"[{FIRST}]", slots[:1], FIRST)] if slots and first == 0 else []
    rest = slots[len(chips) :]
    return [*chips, Piece(f"[{name}: {len(rest)} tokens]", rest, name)] if rest else chips


def _summed(found: Tensor, owner: Sequence[int], groups: int) -> Tensor:
    """`found` `[..., n]` summed over what belongs together: `[..., groups]`."""
    return torch.zeros(*found.shape[:-1], groups).index_add_(-1, torch.tensor(owner), found)
