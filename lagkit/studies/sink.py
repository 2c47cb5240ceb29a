"""The attention sink: the same kept tokens with it and without it, what is looked at, and what is said.

Where a log is encoded alone and kept whole, its first token is the sink. The published code reads a blank line first
and drops it, and so the sink.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.store import Store
from lagkit.model.context import Context, Generation
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import action_spans, parse
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics
from lagkit.studies import asking
from lagkit.studies.attention import response_mass
from lagkit.studies.drift import divergence, response_logits
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
    rows = list[dict[str, Any]]()
    with run.writing(), run.store(write=True) as store:
        for keep in progress((NO_LOGS, *FORMS), "Looking for the sink"):
            forms = dict(zip((WITH, WITHOUT), FORMS[keep], strict=True)) if keep in FORMS else {NO_LOGS: "no_logs"}
            seen = {form: _seen(run, met, name, store) for form, name in forms.items()}
            for form, own in seen.items():
                for n, (meeting, look) in enumerate(zip(met, own, strict=True)):
                    shares = response_mass(run.local_lm, look.read, look.response.ids, look.spans)
                    row = {"question_id": meeting.question.id, "keep": keep, "sink": form, **shares}
                    row |= _outcome(run, meeting, look.response)
                    rows.append(row | (_apart(run.local_lm, seen[WITH][n], look) if form == WITHOUT else {}))
    return pd.DataFrame(rows)


class _Seen(NamedTuple):
    """A context as far as it was read for the response, spans of its slots, and the response."""

    read: Context
    spans: dict[str, Sequence[int]]
    response: Generation


def _seen(run: Experiment, met: Sequence[Meeting], name: str, store: Store) -> list[_Seen]:
    """What each meeting gives under a policy; the prefix cache tells what was read, and then forgets it."""
    builder = KVContextBuilder(run.local_lm, run.prompt, get_policy(name), store)
    contexts, logs = list[Context](), list[list[int]]()
    for meeting in met:
        blocks = [builder.block(log.id, meeting.question) for log in meeting.logs] if builder.policy else []
        blocks = [block for block in blocks if len(block)]
        contexts.append(builder.build(meeting.question, meeting.user_turn, blocks))
        logs.append([len(block) for block in blocks])
    found = []
    for context, sizes, said in zip(contexts, logs, asking.respond(run, contexts), strict=True):
        *starts, bos = accumulate(sizes, initial=0)
        spans: dict[str, Sequence[int]] = {"firsts": starts, "logs": sorted({*range(bos)} - {*starts}), "bos": [bos]}
        spans["prompt"] = range(bos + 1, context.injected + len(context.ids))
        cache = context.prefix_cache
        found.append(_Seen(context if cache is None else cache.resume(context), spans, said))
    return found


def findings(means: pd.DataFrame, questions: int) -> list[str]:
    """A sentence for each part kept. means: of `looks`, by part and form."""
    told = []
    for keep in FORMS:
        kept, bare = means.loc[(keep, WITH)], means.loc[(keep, WITHOUT)]
        told.append(
            f"Of {questions} first responses to a log's {keep.replace('_', ' ')}, {kept['acts']:.0%} act with the sink "
            f"and {bare['acts']:.0%} without; {kept['firsts']:.1%} and {bare['firsts']:.1%} of attention go to first "
            "tokens."
        )
    return told


def _apart(lm: LM, kept: _Seen, bare: _Seen) -> dict[str, float]:
    """Divergence of the form without a sink, over the response to the one with it."""
    expected, found = (response_logits(lm, look.read, kept.response.ids) for look in (kept, bare))
    return {**divergence(expected, found), "same": float(kept.response.text == bare.response.text)}


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
