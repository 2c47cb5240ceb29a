"""From a question, its passages and its retrieved logs to the context that the model continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from lagkit.logs.encode import SEPARATOR, Encoder, kept_text
from lagkit.logs.files import BlockRow
from lagkit.logs.planner import Rates, measure_rates
from lagkit.logs.store import Store
from lagkit.model.backend import Backend
from lagkit.model.block_cache import PendingBlock
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock, Part
from lagkit.model.lm import LM
from lagkit.model.prefix_cache import PrefixCaches
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.policy import Policy
from lagkit.types import Question
from lagkit.util.errors import ConfigError


@dataclass(frozen=True)
class LogTexts:
    """Logs as text under one policy: what any model can read. `policy=None` uses no logs; `store` may then be None."""

    lm: Backend
    prompt: Prompt
    policy: Policy | None = None
    store: Store | None = None

    @property
    def reused(self) -> tuple[Policy, Store]:
        """The policy and its store; raises ConfigError where no logs are reused."""
        if self.policy is None or self.store is None:
            raise ConfigError("No logs are reused here: give a policy and a store.")
        return self.policy, self.store

    def notes(self, logs: Sequence[str]) -> str:
        """The kept text of logs as it stands in a user turn; empty where the policy puts logs elsewhere."""
        in_turn = self.policy and self.policy.inject == "text" and self.policy.place == "user_turn"
        return self.texts(logs) if in_turn else ""

    def texts(self, logs: Sequence[str]) -> str:
        """The kept text of logs, one after the other."""
        policy, store = self.reused
        texts = [text for log in logs if (text := kept_text(store.get(log), policy.keep))]
        return SEPARATOR.join(texts) + (SEPARATOR if texts and policy.blanks == "around" else "")

    def distil_messages(self, question: Question, logs: Sequence[str]) -> list[dict[str, str]]:
        """The messages that ask for notes on logs, each with its question, for a coming question."""
        policy, store = self.reused
        found = [(log.question, kept_text(log, policy.keep)) for log in map(store.get, logs)]
        told = SEPARATOR.join(self.prompt.told(*words) for words in found if words[1])
        system, turn = self.prompt.notes.system, {"role": "user", "content": self.prompt.distil_turn(question, told)}
        return [{"role": "system", "content": system}, turn] if system else [turn]

    def forget(self, question: Question) -> None:
        """Free what is kept for a question, which has ended."""


@dataclass(frozen=True)
class KVContextBuilder(LogTexts):
    """Builds contexts of tokens and KV for a model whose cache can be reached.

    The prompt's shared head is injected from a cache wherever it stands at position 0. Behind logs it has read them,
    and is prefilled each time. Blocks that the store has are read, computed again, or whichever is faster, as its
    `source` says. Raises ConfigError where the chat template does not let the head be shared (`prompt.split_chat`).
    """

    lm: LM

    def __post_init__(self) -> None:
        split_chat(self.lm, self.prompt.head(), [{"role": "user", "content": "?"}])

    @cached_property
    def encoder(self) -> Encoder:
        """Encodes logs as this model and prompt read them."""
        return Encoder(self.lm, self.prompt, self.store)

    @cached_property
    def prefix_caches(self) -> PrefixCaches:
        """What was read for the questions that are under way."""
        return PrefixCaches()

    def forget(self, question: Question) -> None:
        self.prefix_caches.drop(question.id)

    def opening(self, question: Question) -> str:
        """The words with which the assistant's turn is opened for the model, by its chat template and by the prompt."""
        return self.lm.opens + self.prompt.open_turn(question)

    def context(self, question: Question, user_turn: str, logs: Sequence[str], notes: str = "") -> Context:
        """The context for one round, with these logs (ids) unless they stand in `user_turn`, or notes in front."""
        if notes:
            return self.build(question, user_turn, (), self.lm.tokenize(self.lm.plain(notes + SEPARATOR)))
        return self.build(question, user_turn, *self._shown(question, logs))

    def build(self, question: Question, user_turn: str, blocks: Sequence[Part], words: Sequence[int] = ()) -> Context:
        """The context of a round with these blocks, or token ids, where the policy puts what it keeps of logs."""
        turn = [{"role": "user", "content": user_turn}]
        head, tail = split_chat(self.lm, self.prompt.for_question(question.id).head(), turn)
        head_ids = self.lm.tokenize(head)
        tail_ids = self.lm.tokenize(tail + self.lm.plain(self.prompt.open_turn(question)))
        prefix_cache, said = self.prefix_caches.of(question.id), self.opening(question)
        if self.policy and self.policy.place == "front" and (blocks or words):
            return Context((*words, *head_ids, *tail_ids), tuple(blocks), prefix_cache, said)
        shared = (self.lm.head_block(head_ids),) if head_ids else ()
        return Context((*words, *tail_ids), (*shared, *blocks), prefix_cache, said)

    def proceed(self, context: Context, said: str) -> Context:
        """The context in which the model goes on from words that it has said, or is made to say."""
        ids = (*context.ids, *self.lm.tokenize(self.lm.plain(said)))
        return replace(context, ids=ids, said=context.said + said)

    def distil_context(self, question: Question, logs: Sequence[str]) -> Context:
        """The context in which the model writes notes on logs for a coming question."""
        chat = self.lm.chat(self.distil_messages(question, logs), open_turn=True)
        return Context(tuple(self.lm.tokenize(chat)))

    def block(self, log: str, question: Question) -> KVBlock:
        """A log's KV under this policy for a question's prompt: from the store, or encoded, and stored if writable."""
        return self.part(log, question).resolve()

    def part(self, log: str, question: Question) -> KVBlock | PendingBlock:
        """As `block`, read in the background."""
        policy, store = self.reused
        encoder = replace(self.encoder, prompt=self.prompt.for_question(question.id))
        key = encoder.key(policy)
        row = store.find(log, key)
        if row is None:
            block = encoder.encode(store.get(log), policy)
            if not store.writable:
                return block
            store.put_block(log, key, block)
            row = store.find(log, key)  # read as every later reader finds it: a codec may have changed it
            if row is None:  # another process has removed it
                return block
        if row.digest not in self.lm.block_cache and self._is_sooner_computed(log, row):
            computed = encoder.encode(store.get(log), policy)
            return self.lm.block_cache.fetch(row.digest, row.tokens, computed.nbytes, lambda: computed)
        return self.lm.block_cache.fetch(row.digest, row.tokens, row.bytes, partial(store.load, row))

    @cached_property
    def rates(self) -> Rates:
        """How fast the store and the model are, measured when first needed."""
        return measure_rates(self.lm, self.reused[1])

    def _is_sooner_computed(self, log: str, row: BlockRow) -> bool:
        policy, store = self.reused
        if store.source == "load" or store.codec != "none":  # a codec's block is not what computing it gives
            return False
        if store.source == "recompute":
            return True
        reading = self.encoder.read(store.get(log), policy)
        tokens = reading.kept[-1] + 1 - reading.context.injected if reading.kept else 0
        return self.rates.way(tokens, row.bytes) == "recompute"

    def _shown(self, question: Question, logs: Sequence[str]) -> tuple[tuple[Part, ...], list[int]]:
        """Logs as KV blocks, or as tokens to prefill; neither for logs inside the user turn."""
        if not logs or not self.policy or self.policy.place == "user_turn" or self.policy.inject == "cheatsheet":
            return (), []
        if self.policy.inject == "kv":
            return tuple(self.part(log, question) for log in logs), []
        return (), self.lm.tokenize(self.lm.plain(self.texts(logs)))
