"""The attention sink: the same kept tokens with it and without it, what is looked at, and what is said.

A model rests attention that has nowhere to go on the very first token that it reads. Where a log is encoded alone and
kept whole, its first token is that sink. The published code reads a blank line first and drops it, and so the sink.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.model.context import Context, Generation
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import action_spans, parse
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics
from lagkit.studies import asking
from lagkit.studies.attention import mass
from lagkit.studies.examples import Meeting
from lagkit.util.errors import ConfigError
from lagkit.util.progress import progress

# What is kept -> the same words with a sink among their tokens, and without; the space before them may differ.
FORMS = {
    "last_round": ("authors_block", "authors_kv_last_round"),
    "last_action": ("kv/last_action/kept/front/usual/around", "authors_kv_last_action"),
}
WITH, WITHOUT, NO_LOGS = "with", "without", "no logs"


def looks(run: Experiment, met: Sequence[Meeting], keep: Sequence[str] = tuple(FORMS)) -> pd.DataFrame:
    """First rounds with logs in front whose blocks have a sink, or none: a row per question, part kept and form.

    Without logs at all, for comparison, a row under `NO_LOGS` for each question.

    `firsts`, `logs`, `bos`, `prompt`: shares of attention, from the tokens of the response, on the first kept token of
    each log, on their others, on the first token of the prompt and on the rest; means over tokens, layers and heads.
    `acts`: whether the response has an action, `right`: whether it is the right answer, `repeated`: the share of its
    tokens that it has said before, and `response`: its words. Raises ConfigError for another part kept, ContextTooLong,
    UnsupportedModel.
    """
    if unknown := [name for name in keep if name not in FORMS]:
        raise ConfigError(f"The sink is looked at where {' or '.join(FORMS)} is kept; {unknown[0]!r} is not.")
    lm, rows = run.local_lm, []
    bare = [KVContextBuilder(lm, run.prompt).build(meeting.question, meeting.user_turn, ()) for meeting in met]
    cells = [(NO_LOGS, NO_LOGS, bare)]
    with run.writing(), run.store(write=True) as store:
        for part in keep:
            for form, name in zip((WITH, WITHOUT), FORMS[part], strict=True):
                builder = KVContextBuilder(lm, run.prompt, get_policy(name), store)
                cells.append((part, form, [_context(builder, meeting) for meeting in met]))
    for part, form, contexts in progress(cells, "Looking for the sink"):
        said = asking.respond(run, contexts)
        for meeting, context, response in zip(met, contexts, said, strict=True):
            told = {"question_id": meeting.question.id, "keep": part, "sink": form}
            rows.append(told | _shares(lm, context, response, form) | _outcome(run, meeting, response))
    return pd.DataFrame(rows)


def _context(builder: KVContextBuilder, meeting: Meeting) -> Context:
    blocks = [builder.block(log.id, meeting.question) for log in meeting.logs]
    return builder.build(meeting.question, meeting.user_turn, [block for block in blocks if len(block)])


def _shares(lm: LM, context: Context, response: Generation, form: str) -> dict[str, float]:
    """Attention from the response's tokens."""
    blocks: Sequence[KVBlock] = context.blocks if form != NO_LOGS else ()
    starts = [sum(map(len, blocks[:i])) for i in range(len(blocks))]
    end = context.injected + len(context.ids)
    logged = range(sum(map(len, blocks)))
    spans = {"firsts": starts, "logs": [slot for slot in logged if slot not in starts], "bos": [len(logged)]}
    spans["prompt"] = list(range(len(logged) + 1, end))
    whole = Context((*context.ids, *response.ids), context.blocks)
    queries = range(end, end + len(response.ids))
    return dict(zip(spans, mass(lm, whole, queries, spans).mean(dim=(0, 1)).tolist(), strict=True))


def _outcome(run: Experiment, meeting: Meeting, response: Generation) -> dict[str, float | str]:
    said = run.lm.opens + response.text
    action = parse(said, run.prompt.kind)
    right = action.kind == "answer" and metrics.is_right(meeting.question, action.text)
    repeated = 1 - len(set(response.ids)) / len(response.ids)
    told = {"acts": float(bool(action_spans(said))), "right": float(right), "repeated": repeated}
    return {**told, "response": response.text.strip()}
