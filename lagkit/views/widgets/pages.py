"""Logs and answers as HTML that is safe to show anywhere: all text is escaped, and nothing is loaded or run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lagkit.logs.encode import Encoder, kept_spans, kept_text
from lagkit.logs.store import Store
from lagkit.model.prompts.actions import action_spans
from lagkit.policy import get_policy
from lagkit.types import Hit, Round, Trace

_GREY = "color:var(--jp-ui-font-color2,#666)"
_PAGE = "line-height:1.45"  # a widget's own suits single lines only
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere"
_BOX = "border-left:3px solid var(--jp-border-color1,#bbb);padding:2px 0 2px 10px;margin:6px 0 12px"
_KEPT = "background:#ffe08a;color:#222;border-radius:2px;border-left:1px solid #c99700"  # tokens can be told apart
_ACTION = "background:rgba(68,170,153,.22);color:inherit;border-radius:3px"
_INJECTED = "keys and values of logs, and of the head that all prompts share, which is computed once"
_JUDGED = {True: ("right", "#117733"), False: ("wrong", "#cc3344"), None: ("not judged", "#777777")}


def trace_html(trace: Trace, names: Mapping[str, str] | None = None) -> str:
    """A trace round by round: the query, what it brought with scores, the prompt (folded) and the response.

    `names`: questions of logs by id, to name the logs that were retrieved.
    """
    rounds = "".join(_round(number, r, names or {}) for number, r in enumerate(trace.rounds, 1))
    return f"<div style='{_PAGE}'><h4 style='margin:4px 0'>{escape(trace.question)}</h4>{_outcome(trace)}{rounds}</div>"


def kept_html(trace: Trace, policy_name: str, encoder: Encoder | None = None) -> str:
    """What the model reads of a log to encode it, with what the policy keeps highlighted, token by token.

    Without an `encoder` there are no tokens: the kept words are highlighted. Raises ConfigError for an unknown policy,
    and for one whose conversation the model's template rewrites.
    """
    policy = get_policy(policy_name)
    if policy is None:
        return _sentence(f"`{policy_name}` reuses no logs, so it keeps nothing.")
    if policy.inject == "copy":
        return _sentence(f"`{policy_name}` shows the model nothing of a log: the log's answer is given as it is.")
    if encoder is None or policy.inject != "kv":
        told, marked = kept_spans(trace, policy.keep)
        lm, words = encoder and encoder.lm, kept_text(trace, policy.keep)
        count = f"{len(lm.tokenize(lm.plain(words)))} tokens, as text" if lm else "as text"
        how = (
            f"keeps {count}: the model reads them anew each time" if policy.inject != "kv" else "keeps the marked words"
        )
    else:
        reading, head = encoder.read(trace, policy), encoder.head_block()
        told, kept = reading.text, set(reading.kept)
        marked = [span for slot, span in enumerate(reading.spans, reading.context.injected) if slot in kept]
        size = f", {len(kept) * head.nbytes / len(head) / 1024:,.0f} KiB of KV" if len(head) else ""
        how = f"keeps {len(kept)} of the {len(reading.context.ids)} tokens that it reads{size}"
    body = f"<div style='{_TEXT};{_BOX}'>{_highlighted(told, marked, _KEPT) or 'The log has no response.'}</div>"
    name = f"<b><code>{escape(policy_name)}</code></b>"
    return f"<div style='{_PAGE}'>{name} <span style='{_GREY}'>{how}</span>{body}</div>"


def answers_html(traces: Mapping[str, Trace], names: Mapping[str, str]) -> str:
    """Traces of one question side by side, one column per variant; `names` as in `trace_html`."""
    columns = "".join(
        f"<div style='flex:1 1 230px;min-width:0;max-width:620px'><h4 style='margin:4px 0'>"
        f"<code>{escape(name)}</code></h4>{_outcome(trace, cost=True)}"
        f"{''.join(_round(number, r, names) for number, r in enumerate(trace.rounds, 1))}</div>"
        for name, trace in traces.items()
    )
    return f"<div style='{_PAGE};display:flex;flex-wrap:wrap;gap:20px'>{columns}</div>"


def log_names(store: Store, traces: Iterable[Trace]) -> dict[str, str]:
    """The questions of the logs that traces retrieved, by id; a log that was deleted since is left out."""
    ids = {hit.id for trace in traces for r in trace.rounds for hit in r.logs}
    return {log: store.get(log).question for log in sorted(ids) if log in store}


def _outcome(trace: Trace, cost: bool = False) -> str:
    word, colour = _JUDGED[trace.correct]
    said = f"<b class='lagkit-answer'>{escape(trace.answer)}</b>" if trace.answer is not None else "<i>no answer</i>"
    badge = f"<span style='background:{colour};color:white;border-radius:3px;padding:0 6px'>{word}</span>"
    facts = [f"{len(trace.rounds)} round{'s' * (len(trace.rounds) != 1)}"]
    if cost:
        used = trace.usage
        facts += [
            f"{used.prefilled:,} tokens prefilled",
            f"<span title='{_INJECTED}'>{used.injected:,} injected</span>",
            f"{used.generated:,} generated",
        ]
        facts += [f"{used.seconds:.2f} s"]
    failed = f"<div style='color:#cc3344'>{escape(trace.error)}</div>" if trace.error else ""
    return f"<div>Answer: {said} {badge}<br><span style='{_GREY}'>{', '.join(facts)}</span>{failed}</div>"


def _round(number: int, r: Round, names: Mapping[str, str]) -> str:
    found = _hits("passages", r.passages, {}) + _hits("logs", r.logs, names)
    prompt = f"<details><summary style='{_GREY};cursor:pointer'>prompt</summary><div style='{_TEXT}'>"
    said = _highlighted(r.response, action_spans(r.response), _ACTION)
    return (
        f"<div style='{_BOX}'><div><b>Round {number}</b> <span style='{_GREY}'>searched for</span> {escape(r.query)}"
        f"</div>{found}{prompt}{escape(r.prompt)}</div></details><div style='{_TEXT}'>{said}</div></div>"
    )


def _hits(what: str, hits: Sequence[Hit], names: Mapping[str, str]) -> str:
    if not hits:
        return ""
    rows = "; ".join(f"{escape(names.get(hit.id, hit.id))} <b>{hit.score:.2f}</b>" for hit in hits)
    return f"<div style='font-size:90%'><span style='{_GREY}'>{what} found:</span> {rows}</div>"


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


def _sentence(text: str) -> str:
    return f"<p>{escape(text)}</p>"
