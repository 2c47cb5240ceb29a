"""Logs and answers as HTML that is safe to show anywhere: all text is escaped, and nothing is loaded or run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.logs.encode import Encoder, kept_spans, kept_text
from lagkit.logs.store import Store
from lagkit.model.prompts.actions import action_spans
from lagkit.policy import get_policy
from lagkit.stats import metrics
from lagkit.types import Trace
from lagkit.views import palette
from lagkit.views.scripts import macros
from lagkit.views.widgets.logs import COLUMNS, texts

_KEPT = "background:#ffe08a;color:#222;border-radius:2px;border-left:1px solid #c99700"  # tokens stay distinguishable
_ACTION = "background:rgba(68,170,153,.22);color:inherit;border-radius:3px"


def trace_html(trace: Trace, names: Mapping[str, str] | None = None) -> str:
    """A trace round by round, in which `names`, questions by id, stand for the logs that were retrieved."""
    return str(_macros().log(trace, names or {}))


def kept_html(trace: Trace, policy_name: str, encoder: Encoder | None = None) -> str:
    """The text that is read to encode a log, with what the policy keeps highlighted, token by token.

    Without an `encoder` there are no tokens: the kept words are highlighted. Raises ConfigError for an unknown policy,
    and for one whose conversation the model's template rewrites; NoStranger as `Encoder.read`.
    """
    policy = get_policy(policy_name)
    if policy is None or policy.inject == "copy":
        copied = "shows the model nothing of a log: the log's answer is given as it is."
        why = copied if policy else "reuses no logs, so it keeps nothing."
        return f"<p>{escape(f'`{policy_name}` {why}')}</p>"
    if encoder is not None and policy.inject == "kv":
        reading, head = encoder.read(trace, policy), encoder.head_block()
        text, kept = reading.text, set(reading.kept)
        marked = [span for slot, span in enumerate(reading.spans, reading.context.injected) if slot in kept]
        size = f", {len(kept) * head.nbytes / len(head) / 1024:,.0f} KiB of KV" if len(head) else ""
        how = f"keeps {len(kept)} of the {len(reading.context.ids)} tokens that it reads{size}"
    else:
        text, marked = kept_spans(trace, policy.keep)
        how = "keeps the marked words"
        if policy.inject != "kv":
            words = kept_text(trace, policy.keep)
            count = f"{len(encoder.lm.tokenize(encoder.lm.plain(words)))} tokens, " if encoder else ""
            how = f"keeps {count}as text: the model reads them anew each time"
    return str(_macros().kept(policy_name, how, _highlighted(text, marked, _KEPT)))


def answers_html(
    traces: Mapping[str, Trace],
    names: Mapping[str, str],
    gold: Sequence[str] = (),
    going: Mapping[str, str] | None = None,
) -> str:
    """Traces of one question by variant: a row each in a summary, and columns side by side with all rounds.

    What differs from the first variant is marked. names: as in `trace_html`. gold: the right answers, where they are
    known. going: what is said in place of the answer of a variant that has not ended, by its name.
    """
    differs = {name: _differs(trace, next(iter(traces.values()))) for name, trace in traces.items()}
    return str(_macros().answers(traces, names, differs, gold[:3], going or {}))


def _differs(trace: Trace, first: Trace) -> dict[str, str]:
    """In words, what is not as in the first trace: `answer`, `rounds`, `tokens` and `seconds`."""
    differs = {}
    if metrics.normalize(trace.answer or "") != metrics.normalize(first.answer or ""):
        differs["answer"] = "another answer"
    if len(trace.rounds) != len(first.rounds):
        differs["rounds"] = f"{len(trace.rounds) - len(first.rounds):+,}"
    usage, was = trace.usage, first.usage
    read, before = usage.prefilled + usage.generated, was.prefilled + was.generated
    if before and read != before:
        differs["tokens"] = f"{read / before - 1:+.0%}"
    if was.seconds and round(usage.seconds, 2) != round(was.seconds, 2):
        differs["seconds"] = f"{usage.seconds / was.seconds - 1:+.0%}"
    return {what: words.replace("-", "\N{MINUS SIGN}") for what, words in differs.items()}


def explorer_html(table: pd.DataFrame, total: int, chosen: str | None, trace: str) -> str:
    """The first rows of a `search_table` of `total` logs, and the page of the chosen one, made by `trace_html`."""
    shown, cells = texts(table)
    rows = zip([log == chosen for log in table.index], cells, strict=True)
    heads = [(COLUMNS[name], name in ("question", "answer", "right")) for name in shown]
    return str(_macros().explorer(heads, [*rows], total, trace))


def playground_html(question: str, variants: Sequence[str], answers: str, said: str) -> str:
    """A question with its variants, and its answers where it was asked, made by `answers_html`."""
    return str(_macros().playground(question, variants, answers, said))


def log_names(store: Store, traces: Iterable[Trace]) -> dict[str, str]:
    """The questions of the logs that traces retrieved, by id; a log that was deleted since is left out."""
    ids = {hit.id for trace in traces for r in trace.rounds for hit in r.logs}
    return {log: store.get(log).question for log in sorted(ids) if log in store}


@cache
def _macros() -> Any:
    def actions(text: str) -> str:
        return _highlighted(text, action_spans(text), _ACTION)

    return macros(Path(__file__).with_name("pages.html.j2"), actions=actions, readable=palette.readable)


def _highlighted(text: str, spans: Sequence[tuple[int, int]], style: str) -> str:
    """`text` escaped, with `spans` marked in a CSS style."""
    parts, at = [], 0
    for start, stop in spans:
        start = max(start, at)  # tokens of one character's bytes share its span
        if stop > start:
            shown = escape(text[start:stop])
            parts += [escape(text[at:start]), f"<mark style='{style}'>{shown}</mark>"]
            at = stop
    return "".join([*parts, escape(text[at:])])
