"""The seed experiment of the method and the ways in which it fails (notebooks/00_sanity_check.ipynb).

Every failure is made from outside: of a log's keys, of the attention mask, or of what a log says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import kl_div
from torch.nn.utils.rnn import pad_sequence

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.retrieve import Embedder
from lagkit.logs.store import LogStore
from lagkit.model.cache import build_cache
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.model.tokens import decoded
from lagkit.policy import Policy
from lagkit.stats.metrics import exact_match
from lagkit.types import Question, Round, Trace

# Without worked examples: SmolLM2 leans on their answers rather than on the log.
PROMPT = Prompt(
    name="sanity",
    kind="qa",
    system="You answer questions in a few words.",
    user="$question",
    opening="Question: $question\nAnswer:",
)


@dataclass(frozen=True)
class Fact:
    """A question as it was put earlier and as it is asked now, its answer, and one that a bad log gives."""

    earlier: str
    asked: str
    answer: str
    wrong: str

    @property
    def question(self) -> Question:
        """The question that is asked now."""
        return Question(self.asked, self.asked, (self.answer,))

    def trace(self, *, wrong: bool = False) -> Trace:
        """The earlier session as an agent leaves it: one round, whose response restates the question and answers it."""
        opening = PROMPT.open_turn(Question("", self.earlier, ()))
        response = f"{opening} {self.wrong if wrong else self.answer}."
        return Trace(self.earlier, self.earlier, PROMPT.system, (Round(self.earlier, response),))


def remember(folder: Path, traces: Sequence[Trace], lm: LM, embedder: Embedder, policies: Sequence[Policy]) -> LogStore:
    """A new store of these traces, each with its embedding and its KV block under every policy."""
    store = LogStore.create(folder, lm, embedder)
    encoders = [(policy, KVContextBuilder(lm, PROMPT, policy, store).encoder) for policy in policies]
    vectors = embedder.documents([trace.key for trace in traces])
    store.add_many(
        (trace, vector, {encoder.key(policy): encoder.encode(trace, policy) for policy, encoder in encoders})
        for trace, vector in zip(traces, vectors, strict=True)
    )
    return store


def contexts(
    lm: LM, facts: Sequence[Fact], policy: Policy | None = None, store: LogStore | None = None, logs: Sequence[str] = ()
) -> list[Context]:
    """Contexts in which each fact is asked for, behind its log of `logs` under `policy`, or without any."""
    builder = KVContextBuilder(lm, PROMPT, policy, store)
    shown = [[log] for log in logs] or [[]] * len(facts)
    return [builder.context(f.question, f.asked, log) for f, log in zip(facts, shown, strict=True)]


def displaced(lm: LM, context: Context, move: Callable[[Tensor], Tensor]) -> Context:
    """The context with the keys of its log (the last block) at `move(positions)` instead of the right positions."""
    *before, log = context.blocks
    right = torch.arange(len(log)) + sum(map(len, before))
    keys = lm.realigner.unrotate(lm.realigner.rotate(log.keys, move(right)), right)
    return replace(context, parts=(*before, replace(log, keys=keys)))


class Measurement(NamedTuple):
    """Responses and scores of a model on some contexts, a row each.

    `texts`: the first line of the greedy answer. `gold` `[rows]`: mean log-probability of the right answer's tokens
    (nats). `first` `[rows, vocab]`: logits, fp32, of the first token to come.
    """

    texts: list[str]
    gold: Tensor
    first: Tensor


def read(
    lm: LM,
    conditions: Mapping[str, Sequence[Context]],
    answers: Sequence[str],
    *,
    hide_log: bool = False,
    new_tokens: int = 6,
) -> dict[str, Measurement]:
    """Let the model answer the contexts of every condition, all in one batch, and score the right `answers`.

    `hide_log` masks the slots of the log (the last block) from attention, as a wrong mask would. `new_tokens=0` only
    scores. Sliding windows are counted in slots, padding included: the longest context must fit into one.
    """
    rows = [context for contexts in conditions.values() for context in contexts]
    every = _read(lm, rows, [*answers] * len(conditions), hide_log, new_tokens)
    cuts = (slice(start, start + len(answers)) for start in range(0, len(rows), len(answers)))
    parts = [Measurement(every.texts[own], every.gold[own], every.first[own]) for own in cuts]
    return dict(zip(conditions, parts, strict=True))


def _read(lm: LM, contexts: Sequence[Context], answers: Sequence[str], hide_log: bool, new_tokens: int) -> Measurement:
    golds = [lm.tokenize(lm.plain(f" {answer}")) for answer in answers]
    prompts = [torch.tensor(context.ids) for context in contexts]
    before = pad_sequence(prompts, batch_first=True, padding_side="left")
    shown = pad_sequence([torch.ones_like(ids) for ids in prompts], batch_first=True, padding_side="left")
    behind = pad_sequence([torch.tensor(gold[:-1], dtype=torch.long) for gold in golds], batch_first=True)
    ids, spare = torch.cat([before, behind], 1).to(lm.device), behind.shape[1]
    cache, prefix = build_cache([c.blocks for c in contexts], lm.model, lm.realigner, ids.shape[1] + 8)
    if hide_log:
        for mask, context in zip(prefix, contexts, strict=True):
            mask[len(mask) - len(context.blocks[-1]) :] = 0
    # Gold tokens come last and are causal: they, and the padding behind them, do not change what stands before.
    mask = torch.cat([prefix, torch.cat([shown, torch.ones_like(behind)], 1).to(lm.device)], 1)
    with torch.inference_mode():
        logits = lm.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=cache,
            logits_to_keep=spare + 1,
        ).logits.float()
        mask[:, mask.shape[1] - spare :] = 0
        texts = _greedy(lm, logits[:, 0].argmax(-1), mask, cache, new_tokens) if new_tokens else [""] * len(golds)
    likely = logits.log_softmax(-1).cpu()
    scored = [row[range(len(gold)), gold].mean() for row, gold in zip(likely, golds, strict=True)]
    return Measurement(texts, torch.stack(scored), logits[:, 0].cpu())


def _greedy(lm: LM, first: Tensor, mask: Tensor, cache: object, new_tokens: int) -> list[str]:
    """Go on from the first answer token `[rows]`, behind what `mask` shows of the cache; the first line of each row."""
    ids = first[:, None]
    if new_tokens > 1:
        ids = lm.model.generate(
            ids,
            attention_mask=torch.cat([mask, torch.ones_like(ids)], dim=1),
            past_key_values=cache,
            max_new_tokens=new_tokens - 1,
            do_sample=False,
            pad_token_id=lm.tokenizer.pad_token_id or 0,
        )
    special = set(lm.tokenizer.all_special_ids)
    rows = (takewhile(lambda token: token not in special, row) for row in ids.tolist())
    return [decoded(lm.tokenizer, list(row)).strip().partition("\n")[0] for row in rows]


def score(readings: Mapping[str, Measurement], facts: Sequence[Fact], references: Mapping[str, str]) -> pd.DataFrame:
    """One row per condition and fact.

    Columns: `said`, whether that is `right` or the bad log's answer (`misled`), the right answer's `logprob`, and for
    each of `references` (column -> condition) the KL divergence of the first token from that condition's, in nats.
    """
    likely = {name: reading.first.log_softmax(-1) for name, reading in readings.items()}
    tables = []
    for condition, reading in readings.items():
        kl = {}
        for column, name in references.items():
            each = kl_div(likely[condition], likely[name], log_target=True, reduction="none")
            kl[column] = each.sum(-1).clamp(min=0).tolist()
        rows = {
            "condition": condition,
            "asked": [fact.asked for fact in facts],
            "said": reading.texts,
            "right": [exact_match(said, [fact.answer]) for fact, said in zip(facts, reading.texts, strict=True)],
            "misled": [exact_match(said, [fact.wrong]) for fact, said in zip(facts, reading.texts, strict=True)],
            "logprob": reading.gold.tolist(),
        }
        tables.append(pd.DataFrame(rows | kl))
    return pd.concat(tables, ignore_index=True)
