"""Logs and answers as HTML that is safe to show anywhere: all text is escaped, and nothing is loaded or run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from lagkit.logs.encode import Encoder, kept_spans, kept_text
from lagkit.logs.store import Store
from lagkit.model.prompts.actions import action_spans
from lagkit.policy import get_policy
from lagkit.types import Trace

_KEPT = "background:#ffe08a;color:#222;border-radius:2px;border-left:1px solid #c99700"  # tokens stay distinguishable
_ACTION = "background:rgba(68,170,153,.22);color:inherit;border-radius:3px"


def trace_html(trace: Trace, names: Mapping[str, str] | None = None) -> str:
    """A trace round by round: the query, its hits with scores, the prompt (folded) and the response.

    `names`: questions of logs by id, to name the logs that were retrieved.
    """
    return str(_macros().log(trace, names or {}))


def kept_html(trace: Trace, policy_name: str, encoder: Encoder | None = None) -> str:
    """The text that is read to encode a log, with what the policy keeps highlighted, token by token.

    Without an `encoder` there are no tokens: the kept words are highlighted. Raises ConfigError for an unknown policy,
    and for one whose conversation the model's template rewrites; NoStranger as `Encoder.read`.
    """
    policy = get_policy(policy_name)
    if policy is None:
        return f"<p>{escape(f'`{policy_name}` reuses no logs, so it keeps nothing.')}</p>"
    if policy.inject == "copy":
        told = f"`{policy_name}` shows the model nothing of a log: the log's answer is given as it is."
        return f"<p>{escape(told)}</p>"
    if encoder is None or policy.inject != "kv":
        text, marked = kept_spans(trace, policy.keep)
        how = "keeps the marked words"
        if policy.inject != "kv":
            count = "as text"
            if encoder is not None:
                count = f"{len(encoder.lm.tokenize(encoder.lm.plain(kept_text(trace, policy.keep))))} tokens, as text"
            how = f"keeps {count}: the model reads them anew each time"
    else:
        reading, head = encoder.read(trace, policy), encoder.head_block()
        text, kept = reading.text, set(reading.kept)
        marked = [span for slot, span in enumerate(reading.spans, reading.context.injected) if slot in kept]
        size = f", {len(kept) * head.nbytes / len(head) / 1024:,.0f} KiB of KV" if len(head) else ""
        how = f"keeps {len(kept)} of the {len(reading.context.ids)} tokens that it reads{size}"
    return str(_macros().kept(policy_name, how, _highlighted(text, marked, _KEPT)))


def answers_html(traces: Mapping[str, Trace], names: Mapping[str, str]) -> str:
    """Traces of one question side by side, one column per variant; `names` as in `trace_html`."""
    return str(_macros().answers(traces, names))


def log_names(store: Store, traces: Iterable[Trace]) -> dict[str, str]:
    """The questions of the logs that traces retrieved, by id; a log that was deleted since is left out."""
    ids = {hit.id for trace in traces for r in trace.rounds for hit in r.logs}
    return {log: store.get(log).question for log in sorted(ids) if log in store}


@cache
def _macros() -> Any:
    """The macros of `pages.html.j2`, which escape all that they show."""
    pages = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pages.filters["actions"] = lambda text: _highlighted(text, action_spans(text), _ACTION)
    return pages.from_string(Path(__file__).with_name("pages.html.j2").read_text(encoding="utf-8")).module


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
