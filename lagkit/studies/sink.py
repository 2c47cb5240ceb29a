"""The attention sink: the same kept tokens with it and without it, what is looked at, and what is said.

Where a log is encoded alone and kept whole, its first token is the sink. The published code reads a blank line first
and drops it, and so the sink.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.store import Store
from lagkit.model.context import Context, Generation
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import action_spans, parse
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics
from lagkit.studies import asking
from lagkit.studies.attention import mass
from lagkit.studies.drift import divergence
from lagkit.studies.examples import Meeting
from lagkit.util.progress import progress

# What is kept -> the same words with a sink among their tokens, and without; the space before them may differ.
FORMS = {
    "last_round": ("authors_block", "authors_kv_last_round"),
    "last_action": ("kv/last_action/kept/front/usual/around", "authors_kv_last_action"),
}
WITH, WITHOUT, NO_LOGS = "with", "without", "no logs"
GARBLED = 0.5  # share of tokens that a garbled response has said before


def looks(run: Experiment, met: Sequence[Meeting]) -> pd.DataFrame:
    """First rounds with logs in front whose blocks have a sink, or none: a row per question, part kept and form.

    For comparison, a row without logs under `NO_LOGS` for each question. `firsts`, `logs`, `bos`, `prompt`: shares of
    attention, from the tokens of the response, on the first kept token of each log, on their others, on the first token
    of the prompt and on the rest; means over tokens, layers and heads. `acts`: whether the response has an action,
    `right`: whether it is the right answer, `repeated`: the share of its tokens that it has said before, `garbled`:
    whether it has no action and that share is a half or more, and `response`: its words.

    Of the form without a sink also what `divergence` gives, from the one with it and over that one's response, and
    whether both responses are the `same`. Raises ContextTooLong, UnsupportedModel.
    """
    rows = []
    with run.writing(), run.store(write=True) as store:
        for part in progress((NO_LOGS, *FORMS), "Looking for the sink"):
            rows += _looked_at(run, met, part, store)
    return pd.DataFrame(rows)


def _looked_at(run: Experiment, met: Sequence[Meeting], part: str, store: Store) -> list[dict[str, Any]]:
    """The rows of one part kept, or of `NO_LOGS`."""
    lm, rows = run.local_lm, []
    forms = {NO_LOGS: NO_LOGS} if part == NO_LOGS else dict(zip((WITH, WITHOUT), FORMS[part], strict=True))
    seen: dict[str, list[_Seen]] = {}
    for form, name in forms.items():
        builder = KVContextBuilder(lm, run.prompt, None if part == NO_LOGS else get_policy(name), store)
        contexts = [_context(builder, meeting) for meeting in met]
        said = asking.respond(run, contexts)
        seen[form] = [_Seen.of(*pair) for pair in zip(contexts, said, strict=True)]
    for form, own in seen.items():
        for n, (meeting, look) in enumerate(zip(met, own, strict=True)):
            told: dict[str, Any] = {"question_id": meeting.question.id, "keep": part, "sink": form}
            apart = _apart(lm, seen[WITH][n], look) if form == WITHOUT else {}
            rows.append(told | _shares(lm, look, part) | _outcome(run, meeting, look.response) | apart)
    return rows


@dataclass(frozen=True)
class _Seen:
    """A context, the same one as far as it was read for the response, and the response."""

    context: Context
    read: Context
    response: Generation

    @classmethod
    def of(cls, context: Context, response: Generation) -> _Seen:
        """With what the prefix cache keeps of the context, which then forgets it."""
        if (cache := context.prefix_cache) is None:
            return cls(context, context, response)
        seen = cls(context, cache.resume(context), response)
        cache.clear()
        return seen

    def going_on(self, said: Sequence[int]) -> Context:
        """The context with these tokens behind it."""
        return Context((*self.read.ids, *said), self.read.parts)


def _context(builder: KVContextBuilder, meeting: Meeting) -> Context:
    logs = meeting.logs if builder.policy else ()
    blocks = [builder.block(log.id, meeting.question) for log in logs]
    return builder.build(meeting.question, meeting.user_turn, [block for block in blocks if len(block)])


def _apart(lm: LM, kept: _Seen, bare: _Seen) -> dict[str, float]:
    """Divergence of the form without a sink, over the response to the one with it."""
    said = kept.response.ids
    expected, found = (lm.logits(look.going_on(said))[-len(said) - 1 : -1] for look in (kept, bare))
    return {**divergence(expected, found), "same": float(kept.response.text == bare.response.text)}


def _shares(lm: LM, look: _Seen, part: str) -> dict[str, float]:
    """Attention from the response's tokens."""
    context, said = look.context, look.response.ids
    blocks: Sequence[KVBlock] = context.blocks if part != NO_LOGS else ()
    starts = [sum(map(len, blocks[:i])) for i in range(len(blocks))]
    end = context.injected + len(context.ids)
    logged = range(sum(map(len, blocks)))
    spans = {"firsts": starts, "logs": [slot for slot in logged if slot not in starts], "bos": [len(logged)]}
    spans["prompt"] = list(range(len(logged) + 1, end))
    shares = mass(lm, look.going_on(said), range(end, end + len(said)), spans)
    return dict(zip(spans, shares.mean(dim=(0, 1)).tolist(), strict=True))


def _outcome(run: Experiment, meeting: Meeting, response: Generation) -> dict[str, float | str]:
    said = run.lm.opens + response.text
    action = parse(said, run.prompt.kind)
    right = action.kind == "answer" and metrics.is_right(meeting.question, action.text)
    repeated, acts = 1 - len(set(response.ids)) / len(response.ids), bool(action_spans(said))
    return {
        "acts": float(acts),
        "right": float(right),
        "repeated": repeated,
        "garbled": float(not acts and repeated >= GARBLED),
        "response": response.text.strip(),
    }
