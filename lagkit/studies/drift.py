"""Cost of moving a log: divergence from dense prefill by the distance between where it was read and where it stands.

The log is read alone (or behind the prompt's shared head), so that dense prefill of the same tokens is the same
computation: whatever differs comes from the move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.model.cache import prefill, stack_layers
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import Place, Policy
from lagkit.stats.wording import number
from lagkit.studies.examples import Case
from lagkit.studies.sanity import displaced
from lagkit.types import Trace
from lagkit.util.errors import ContextTooLong
from lagkit.util.progress import progress

DENSE, ALIGNED, BARE, STALE = "dense, moved", "re-aligned", "un-rotated only", "not re-aligned"


def shifts(limit: int, steps: int = 6) -> list[int]:
    """0, then powers of 4 from 16 on, as many as `steps` allows, and the farthest there is: `limit`."""
    return sorted({0, *(shift for shift in (16 * 4**i for i in range(steps)) if shift < limit), max(limit, 0)})


def farthest(lm: LM, prompt: Prompt, cases: Sequence[Case], place: Place) -> int:
    """The longest distance by which all contexts can be moved in the model's context length; raises ContextTooLong."""
    longest = 0
    for case in cases:
        for log in (case.log, case.stranger):
            context = _context(lm, prompt, case, log, place, 0)
            lm.check(context, 0)
            longest = max(longest, context.injected + len(context.ids))
    return lm.context_length - longest


def drift(lm: LM, prompt: Prompt, cases: Sequence[Case], place: Place, distances: Sequence[int]) -> pd.DataFrame:
    """Divergence from dense prefill of a log that was read `distances` tokens behind where it now stands.

    One row per question, content (`retrieved` log or `random` one), variant and shift, with what `divergence` gives
    over the prompt's tokens. Variants: `re-aligned`; `un-rotated only`, all keys at position 0; `not re-aligned`, keys
    as they were cached; and as a measure of rounding `dense, moved`: all tokens read at shifted positions, nothing
    injected. Raises ContextTooLong if a shift does not fit.
    """
    if distances and max(distances) > (limit := farthest(lm, prompt, cases, place)):
        raise ContextTooLong(f"A shift of {max(distances)} is too far for {lm.name}: here it holds up to {limit}.")
    rows = []
    for case in progress(cases, f"Moving logs, {place}"):
        for content, log in (("retrieved", case.log), ("random", case.stranger)):
            expected = dense(lm, _context(lm, prompt, case, log, place, 0), 0)
            for shift in distances:
                context = _context(lm, prompt, case, log, place, shift)
                stale = displaced(lm, context, partial(torch.add, other=shift))
                found = {DENSE: dense(lm, context, shift), ALIGNED: lm.logits(context)}
                found |= {BARE: lm.logits(displaced(lm, context, torch.zeros_like)), STALE: lm.logits(stale)}
                for variant, logits in found.items():
                    row = {"question_id": case.question.id, "content": content, "variant": variant, "shift": shift}
                    rows.append(row | divergence(expected, logits))
    return pd.DataFrame(rows)


def divergence(expected: Tensor, found: Tensor) -> dict[str, float]:
    """Mean KL divergence (nats) and top-1 agreement of next tokens, from logits `[tokens, vocab]` each."""
    p, q = (logits.float().log_softmax(-1) for logits in (expected, found))
    kl = kl_div(q, p, log_target=True, reduction="none").sum(-1).clamp(min=0).mean()
    return {"kl": float(kl), "agreement": float((p.argmax(-1) == q.argmax(-1)).float().mean())}


def response_logits(lm: LM, context: Context, said: Sequence[int]) -> Tensor:
    """Logits `[tokens, vocab]` from which each token of a response is drawn."""
    return lm.logits(Context((*context.ids, *said), context.parts))[-len(said) - 1 : -1]


@torch.inference_mode()
def dense(lm: LM, context: Context, shift: int) -> Tensor:
    """Logits of the prompt `[tokens, vocab]` when the whole context is read as words, at shifted positions."""
    words = torch.tensor([_words(context)], device=lm.device)
    positions = torch.arange(words.shape[1], device=lm.device)[None] + shift
    out = lm.model(words, attention_mask=torch.ones_like(words), position_ids=positions, use_cache=False)
    logits: Tensor = out.logits
    return logits[0, context.injected :]


def findings(means: pd.DataFrame) -> list[str]:
    """A sentence for each row. means: KL (nats) and agreement of moved logs, by number format and variant."""
    return [
        f"{dtype}, {variant}: KL {number(row['kl'], 2)}, agreement {row['agreement']:.1%}."
        for (dtype, variant), row in means.iterrows()
    ]


def verdict(means: pd.DataFrame) -> list[str]:
    """For each number format of `findings`: re-alignment, and what agrees least."""
    told = []
    for dtype in means.index.unique("dtype"):
        own = means.loc[dtype]
        aligned, worst = own.loc[ALIGNED], own.sort_values("agreement").iloc[0]
        told += [
            f"In {dtype}, a log that was moved and re-aligned is {number(aligned['kl'], 2)} nats from dense prefill, "
            f"with the same most likely token in {aligned['agreement']:.1%} of places.",
            f"{str(worst.name).capitalize()}, it is {number(worst['kl'], 2)} nats away, with the same in "
            f"{worst['agreement']:.1%}.",
        ]
    return told


def _context(lm: LM, prompt: Prompt, case: Case, log: Trace, place: Place, shift: int) -> Context:
    """The case's context behind a log that was read alone and `shift` tokens late, re-aligned."""
    policy = Policy("kv", encode="kept", place=place)
    block = _read_late(Encoder(lm, prompt), log, policy, shift)
    return KVContextBuilder(lm, prompt, policy).build(case.question, case.user_turn, (block,))


def _read_late(encoder: Encoder, log: Trace, policy: Policy, shift: int) -> KVBlock:
    """The log's KV, read with all positions shifted: what stands before it moves along."""
    reading, lm = encoder.read(log, policy), encoder.lm
    words = torch.tensor([_words(reading.context)], device=lm.device)
    positions = torch.arange(words.shape[1], device=lm.device) + shift
    with torch.inference_mode():
        cache = prefill(lm.model, words, positions[None])
        start, stop = reading.kept[0], reading.kept[-1] + 1
        keys, values = stack_layers(cache, start, stop)
        return KVBlock(lm.realigner.unrotate(keys, positions[start:stop]), values, words[0, start:stop])


def _words(context: Context) -> list[int]:
    """All token ids of a context, those of injected blocks too."""
    return [id for block in context.blocks for id in block.ids.tolist()] + list(context.ids)
