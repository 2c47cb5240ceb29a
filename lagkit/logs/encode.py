"""From a trace to what a policy keeps of it: as text, and as a KV block cut out by token offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from lagkit.logs import stranger
from lagkit.logs.stranger import FILLER, Logs, Span, Words
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import last_action_span
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.policy import KEEPS, Policy, get_policy
from lagkit.types import Trace
from lagkit.util.errors import ConfigError

# Stands between the responses of a log, and between logs shown as text.
SEPARATOR = "\n\n"

_ROUNDS_BACK: dict[str, int | None] = {
    "last_action": 1,
    "last_round": 1,
    "last_two_rounds": 2,
    "all_rounds": None,
    "step": 1,  # a step is the last round of a log of its own
}


def kept_text(trace: Trace, keep: str) -> str:
    """The words that a policy keeps of a log; empty if the log has no response."""
    responses = _responses(trace)
    return SEPARATOR.join(responses[i][start:stop] for i, (start, stop) in _kept(trace, keep))


def kept_spans(trace: Trace, keep: str) -> tuple[str, list[Span]]:
    """The responses of a log as one text, and the characters of it that a policy keeps."""
    responses = _responses(trace)
    return SEPARATOR.join(responses), _joined(_kept(trace, keep), _laid_out(responses))


def context_length(trace: Trace, policy: Policy) -> int:
    """Characters of the responses that are read before what a policy keeps of a log; 0 where there are none."""
    _, spans = kept_spans(trace, policy.keep)
    blank = len(SEPARATOR) if policy.blanks == "around" else 0
    return (spans[0][0] or blank) if spans else 0


def logs_to_encode(log: str, logs: Logs, policy: Policy) -> dict[str, Trace]:
    """The logs that are read to encode one of them: itself, and the one that lends its context. Raises NoStranger."""
    trace = logs[log]
    if policy.encode != "stranger" or not context_length(trace, policy):
        return {log: trace}
    other = stranger.find(trace, logs, partial(context_length, policy=policy))
    return {log: trace, other.id: other}


@dataclass(frozen=True)
class EncodedText:
    """What a model reads of a log. Slots are tokens of `context`, counted from the first injected one.

    text, spans: the words that are prefilled, and in them the characters `[start, stop)` of each of the context's ids.
    kept: slots of what is stored. rounds: slots of each response that is read, oldest first.
    """

    context: Context
    text: str
    spans: tuple[Span, ...]
    kept: tuple[int, ...]
    rounds: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Encoder:
    """Turns traces into KV blocks, as one model and prompt read them.

    logs: those among which another log's context is found (`encode=stranger`), such as a store.
    """

    lm: LM
    prompt: Prompt
    logs: Logs | None = field(default=None, compare=False, repr=False)

    @property
    def head_hash(self) -> str:
        """Identifies the shared head of the prompt as this model renders it."""
        return hashlib.sha256(self._head().encode()).hexdigest()[:12]

    def key(self, policy: Policy) -> str:
        """The name under which a store keeps the blocks of `policy`.

        What has read the head of the prompt has a block for each rotation of the worked examples. But a conversation
        is read behind that of its own question, which the log says, so that the first rotation stands for all.
        """
        encoder = replace(self, prompt=self.prompt.rotations[0]) if policy.encode == "conversation" else self
        return policy.block_key(encoder.head_hash)

    def keyed(self, policy: Policy) -> dict[str, Encoder]:
        """What encodes each of the blocks that a log may have under a policy, by their keys."""
        turned = [replace(self, prompt=prompt) for prompt in self.prompt.rotations]
        return {encoder.key(policy): encoder for encoder in reversed(turned)}

    def _behind(self, trace: Trace, policy: Policy) -> Encoder:
        """Reads a log behind the head of this prompt, or a conversation behind that of its own question."""
        if policy.encode != "conversation":
            return self
        return replace(self, prompt=self.prompt.for_question(trace.question_id))

    def head_block(self) -> KVBlock:
        """KV of the shared head, at positions 0.. ."""
        return self.lm.head_block(self._head_ids())

    def encode(self, trace: Trace, policy: Policy) -> KVBlock:
        """Prefill what `policy.encode` says and keep the tokens that `policy.keep` says (paper, section 3.1).

        A trace without responses gives a block of no tokens. Raises ContextTooLong, and as `read`.
        """
        return self.prefill(self.read(trace, policy))

    def prefill(self, reading: EncodedText) -> KVBlock:
        """The KV of what is kept of a reading. Raises ContextTooLong."""
        if not reading.kept:
            return self.head_block().slice(0, 0)
        first, last = reading.kept[0], reading.kept[-1]
        return self.lm.encode(reading.context, first, last + 1).take([slot - first for slot in reading.kept])

    def read(self, trace: Trace, policy: Policy) -> EncodedText:
        """What `encode` reads and keeps, without a forward pass. A token is kept if any of its characters is.

        Raises ConfigError where another log's context is wanted and there are no other logs, or where what is kept has
        gaps; NoStranger where no other log can lend its context.
        """
        if (own := self._behind(trace, policy)) != self:
            return own.read(trace, policy)
        text, kept, rounds = self._text(trace, policy)
        text, ids, tokens = self._tokens(text)
        context = Context(tuple(ids), self._before(policy))

        def slots(spans: Sequence[Span]) -> tuple[int, ...]:
            held = (i for i, (start, stop) in enumerate(tokens) if any(start < b and stop > a for a, b in spans))
            return tuple(context.injected + i for i in held)

        reading = EncodedText(context, text, tuple(tokens), slots(kept), tuple(slots([span]) for span in rounds))
        return self._behind_another(reading, trace, policy) if policy.encode in ("stranger", "filler") else reading

    def _behind_another(self, reading: EncodedText, trace: Trace, policy: Policy) -> EncodedText:
        """The reading with as many tokens of another context in the place of its own."""
        injected, kept = reading.context.injected, reading.kept
        count = kept[0] - injected if kept else 0
        if not count:
            return reading
        if kept[-1] + 1 - kept[0] > len(kept):
            raise ConfigError(f"encode={policy.encode} asks for a keep without gaps, which {policy.keep!r} is not.")
        words = self._tokens(FILLER) if policy.encode == "filler" else self._context_of_another(trace, policy)
        text, ids, spans = stranger.last(words, count)
        start = reading.spans[count][0]
        moved = len(text) - start
        return EncodedText(
            replace(reading.context, ids=(*ids, *reading.context.ids[count:])),
            text + reading.text[start:],
            (*spans, *((a + moved, b + moved) for a, b in reading.spans[count:])),
            kept,
            tuple(own for round_ in reading.rounds if (own := tuple(slot for slot in round_ if slot >= kept[0]))),
        )

    def _context_of_another(self, trace: Trace, policy: Policy) -> Words:
        """What is read before the kept tokens of the log that lends its context."""
        if self.logs is None:
            raise ConfigError("encode=stranger reads another log's context: give the other logs, such as the store.")
        other = stranger.find(trace, self.logs, partial(context_length, policy=policy))
        reading = self.read(other, replace(policy, encode="responses"))
        count = reading.kept[0] - reading.context.injected
        return reading.text[: reading.spans[count][0]], reading.context.ids[:count], reading.spans[:count]

    def _tokens(self, text: str) -> Words:
        encoded = self.lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return text, encoded["input_ids"], [(start, stop) for start, stop in encoded["offset_mapping"]]

    def _before(self, policy: Policy) -> tuple[KVBlock, ...]:
        """What stands before a log while it is read; nothing of it is kept."""
        if policy.reads_first == "nothing":
            return ()
        return (self.lm.head_block(self._head_ids()[: 1 if policy.reads_first == "bos" else None]),)

    def _head_ids(self) -> list[int]:
        return self.lm.tokenize(self._head())

    def _plain(self, trace: Trace) -> Trace:
        """A log is data: what it says is broken where it spells special tokens, before anything is counted in it."""
        plain = self.lm.plain
        return replace(
            trace,
            rounds=tuple(
                replace(r, prompt=plain(r.prompt), opening=plain(r.opening).lstrip(), response=plain(r.response))
                for r in trace.rounds
            ),
        )

    def _head(self) -> str:
        return split_chat(self.lm, self.prompt.head(), [{"role": "user", "content": "?"}])[0]

    def _text(self, trace: Trace, policy: Policy) -> tuple[str, list[Span], list[Span]]:
        """What is prefilled after the head (if any), and the character spans of it: what is kept, and each response.

        What is kept is found in the words as the model said them: marks of reasoning may be special tokens.
        """
        said, plain = _responses(trace), self.lm.plain
        kept = [(i, (len(plain(said[i][:a])), len(plain(said[i][:b])))) for i, (a, b) in _kept(trace, policy.keep)]
        trace = self._plain(trace)
        responses = _responses(trace)
        behind = SEPARATOR if policy.blanks == "around" and kept else ""
        if policy.encode == "kept":
            pieces = [responses[i][start:stop] for i, (start, stop) in kept]
            text = SEPARATOR.join(pieces) + behind
            return text, [(0, len(text))], _laid_out(pieces)
        if policy.encode == "conversation":
            text, starts = self._conversation(trace)
            rounds = [(start, start + len(said)) for start, said in zip(starts, responses, strict=True)]
            return text, [(starts[i] + a, starts[i] + b) for i, (a, b) in kept], rounds
        before = behind if kept and kept[0][0] == 0 else ""
        rounds = [(start + len(before), stop + len(before)) for start, stop in _laid_out(responses)]
        spans = _joined(kept, rounds)
        if spans and spans[-1][1] == rounds[-1][1]:
            spans[-1] = (spans[-1][0], spans[-1][1] + len(behind))
        return before + SEPARATOR.join(responses) + behind, spans, rounds

    def _conversation(self, trace: Trace) -> tuple[str, list[int]]:
        """All rounds as a chat, without the head, and where in it each response starts."""
        head = self.prompt.head()
        turns: list[dict[str, str]] = []
        starts: list[int] = []
        text = ""
        for round_ in trace.rounds:
            if not round_.response:
                continue
            turns.append({"role": "user", "content": round_.prompt})
            _, before = split_chat(self.lm, head, turns)
            if round_.turn.startswith(self.lm.plain(self.lm.opens)):  # as the template writes it, too
                before = before.removesuffix(self.lm.opens)
            turns.append({"role": "assistant", "content": round_.turn})
            text = before + round_.turn
            starts.append(len(before + round_.opening))
        for start, response in zip(starts, _responses(trace), strict=True):
            if text[start : start + len(response)] != response:  # which would shift every span
                raise ConfigError(
                    f"The chat template of {self.lm.name} rewrites earlier responses, so a conversation cannot be cut "
                    "by offsets: use encode=responses."
                )
        return text, starts


def _laid_out(pieces: list[str]) -> list[Span]:
    """Where each piece stands in all of them joined."""
    starts = [len(SEPARATOR.join([*pieces[:i], ""])) for i in range(len(pieces))]
    return [(start, start + len(piece)) for start, piece in zip(starts, pieces, strict=True)]


def encode(
    lm: LM,
    log: Trace,
    policy: str | Policy = "kv_last_round",
    *,
    prompt: Prompt | None = None,
    logs: Logs | None = None,
) -> KVBlock:
    """The keys and values of what a policy keeps of a log, `[layers, kv_heads, tokens, head_dim]` (paper, section 3.1).

    policy: a name of `POLICIES`, or a Policy, that injects KV. prompt: whose head the log is read behind, where the
    policy asks for one; by default that of question answering, as an `Agent` has it. logs: a store, or traces by id, of
    which one lends its context where the policy asks for that. Raises ConfigError for another policy or without such
    logs, NoStranger, ContextTooLong.
    """
    chosen = policy if isinstance(policy, Policy) else get_policy(policy)
    if chosen is None or chosen.inject != "kv":
        raise ConfigError(f"{policy} keeps no KV of a log: choose a policy that injects kv.")
    return Encoder(lm, prompt or Prompt.of("qa"), logs).encode(log, chosen)


def _joined(kept: list[tuple[int, Span]], rounds: list[Span]) -> list[Span]:
    """What is kept, in the text of all responses; what separates whole neighbours is kept too, as it is in their text.

    rounds: where each response stands.
    """
    spans: list[Span] = []
    for i, (start, stop) in kept:
        first = rounds[i][0]
        if spans and start == 0 and spans[-1][1] == rounds[i - 1][1]:
            spans[-1] = (spans[-1][0], first + stop)
        else:
            spans.append((first + start, first + stop))
    return spans


def _responses(trace: Trace) -> list[str]:
    return [r.response for r in trace.rounds if r.response]


def _kept(trace: Trace, keep: str) -> list[tuple[int, Span]]:
    """`(response index, character span)` of what is kept, oldest first."""
    if keep in KEEPS:
        return _chosen(trace, keep)
    responses, back = _responses(trace), _ROUNDS_BACK[keep]
    first = 0 if back is None else max(0, len(responses) - back)
    if keep == "last_action" and responses:
        return [(first, last_action_span(responses[first]))]
    return [(i, (0, len(responses[i]))) for i in range(first, len(responses))]


def _chosen(trace: Trace, keep: str) -> list[tuple[int, Span]]:
    """What a registered function keeps; raises ConfigError where it gives no such spans."""
    given = [[(int(start), int(stop)) for start, stop in spans] for spans in KEEPS[keep](trace)]
    if len(given) != len(trace.rounds):
        raise ConfigError(f"keep {keep!r} gave spans of {len(given)} rounds, and the log has {len(trace.rounds)}.")
    for spans, r in zip(given, trace.rounds, strict=True):
        ends = [0, *(end for span in spans for end in span), len(r.response)]
        if ends != sorted(ends):
            raise ConfigError(
                f"keep {keep!r} gave {spans} of a response of {len(r.response)} characters: give (start, stop) inside "
                "of it, in order, none of which overlap."
            )
    responding = [spans for spans, r in zip(given, trace.rounds, strict=True) if r.response]
    return [(i, span) for i, spans in enumerate(responding) for span in spans if span[0] < span[1]]
