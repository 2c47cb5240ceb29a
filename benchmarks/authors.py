"""The procedure of the LAG paper's authors, written anew from its description, as the side to be faster than.

One question at a time. The log store is one pickle, read whole into memory. In every round the keys and values of the
logs found so far are joined and rotated anew, and the whole prompt behind them is read again by `model.generate`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from lagkit.logs.index import VectorIndex
from lagkit.logs.retrieve import Embedder, PassageIndex
from lagkit.logs.store import LogStore
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import STOP_STRINGS, cut, parse
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.types import Question


@dataclass(frozen=True)
class Log:
    """A log in memory: keys without RoPE and values, two of `[layers, kv_heads, tokens, head_dim]`."""

    id: str
    embedding: np.ndarray
    keys: torch.Tensor
    values: torch.Tensor


def dump(store: LogStore, key: str, path: Path) -> None:
    """Write all logs of a store that have a block `key` as one pickle, in the store's order."""
    blocks = ((log, vector, store.block(log, key)) for log, vector in zip(store.ids, store.embeddings(), strict=True))
    logs = [Log(log, vector, block.keys.clone(), block.values.clone()) for log, vector, block in blocks]
    with path.open("wb") as file:
        pickle.dump(logs, file, protocol=pickle.HIGHEST_PROTOCOL)


class _Stops(StoppingCriteria):
    """Ends a response with the first tag that closes an action."""

    def __init__(self, lm: LM, read: int, stop: Sequence[str]) -> None:
        self._lm, self._read, self._stop = lm, read, stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        said = self._lm.tokenizer.decode(input_ids[0, self._read :][-12:])
        return torch.tensor([any(mark in said for mark in self._stop)], device=input_ids.device)


class Authors:
    """Answers questions one by one from logs that are all in memory."""

    def __init__(
        self, lm: LM, prompt: Prompt, embedder: Embedder, passages: PassageIndex | None, logs: Path, *, rounds: int,
        k_passages: int, k_logs: int, new_tokens: int,
    ) -> None:  # fmt: skip
        self.lm, self.prompt, self.embedder, self.passages = lm, prompt, embedder, passages
        self.rounds, self.k_passages, self.k_logs, self.new_tokens = rounds, k_passages, k_logs, new_tokens
        with logs.open("rb") as file:
            self.logs: list[Log] = pickle.load(file)
        self.index = VectorIndex(embedder.dim)
        self.index.add([log.id for log in self.logs], np.stack([log.embedding for log in self.logs]))
        self._by_id = {log.id: log for log in self.logs}

    def run(self, questions: Sequence[Question]) -> Iterator[tuple[str, str | None, list[str]]]:
        """For each question: its id, answer and responses."""
        for question in questions:
            yield question.id, *self.answer(question)

    @torch.inference_mode()
    def answer(self, question: Question) -> tuple[str | None, list[str]]:
        """The loop over rounds."""
        query, responses, asked = question.text, [], []
        passages: dict[str, None] = {}
        logs: dict[str, None] = {}
        for _ in range(self.rounds):
            vector, before = self.embedder.queries([query]), asked.count(query)
            asked.append(query)
            if self.passages is not None:
                found = self.passages.search(vector, self.k_passages, offset=before * self.k_passages)[0]
                passages |= dict.fromkeys(hit.id for hit in found)
            found = self.index.search(vector, self.k_logs, offset=before * self.k_logs)[0]
            logs |= dict.fromkeys(hit.id for hit in found)
            responses.append(self._generate(question, list(passages), list(logs), responses).strip())
            action = parse(responses[-1], self.prompt.kind)
            if action.kind == "answer":
                return action.text, responses
            query = action.text
        return None, responses

    def _generate(self, question: Question, passages: Sequence[str], logs: Sequence[str], said: Sequence[str]) -> str:
        """One response."""
        lm = self.lm
        previous = said[-1] if said and self.prompt.kind == "choice" else ""
        shown = [self.passages.passage(id) for id in passages]
        turn = self.prompt.user_turn(question, shown, previous=previous)
        head, tail = split_chat(lm, self.prompt.for_question(question.id).head(), [{"role": "user", "content": turn}])
        ids = torch.tensor([lm.tokenize(head) + lm.tokenize(tail + lm.plain(self.prompt.open_turn(question)))])
        cache = self._join([self._by_id[id] for id in logs])
        stop = STOP_STRINGS[self.prompt.kind]
        out = lm.model.generate(
            ids.to(lm.device),
            attention_mask=torch.ones(1, cache.get_seq_length() + ids.shape[1], dtype=torch.long, device=lm.device),
            past_key_values=cache,
            max_new_tokens=self.new_tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([_Stops(lm, ids.shape[1], stop)]),
        )
        return cut(lm.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True), stop)

    def _join(self, logs: Sequence[Log]) -> DynamicCache:
        """A cache with all these logs side by side, their keys rotated to positions 0.. ."""
        keys = torch.cat([log.keys for log in logs], dim=2).to(self.lm.device)
        values = torch.cat([log.values for log in logs], dim=2).to(self.lm.device)
        keys = self.lm.realigner.rotate(keys, torch.arange(keys.shape[2], device=keys.device))
        cache = DynamicCache()
        for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
            cache.update(k[None], v[None], layer)
        return cache
