"""One question under several variants: what `Playground` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lagkit.agent.loop import Agent
from lagkit.logs.store import Store
from lagkit.model.backend import Backend
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import Variant
from lagkit.stats import metrics
from lagkit.types import Limits, Question, Trace
from lagkit.util.errors import ConfigError


def ask(
    lm: Backend, store: Store, question: Question | str, variants: Sequence[str], *, prompt: Prompt, **settings: Any
) -> dict[str, Trace]:
    """The traces of one question under each variant; see `follow`."""
    return dict(follow(lm, store, question, variants, prompt=prompt, **settings))


def follow(
    lm: Backend, store: Store, question: Question | str, variants: Sequence[str], *, prompt: Prompt, **settings: Any
) -> Iterator[tuple[str, Trace]]:
    """Yield variant and trace after every round; whoever stops asking stops the work.

    A question in words has no gold answer, so its traces are not judged. `settings`: embedder, passages and limits
    as in `Agent`. Raises ConfigError for an unknown variant, an empty question or one without its options, EmptyStore.
    """
    asked = as_question(question, prompt)
    limits = settings.pop("limits", None) or Limits()
    chosen = [Variant.parse(name) for name in variants]
    if not chosen:
        raise ConfigError("Choose at least one variant to ask.")
    for name, policy, own in ((variant.name, variant.policy, variant.limits(limits)) for variant in chosen):
        logs = store if policy else None
        agent = Agent(lm, prompt=prompt, policy=policy, store=logs, limits=own, policy_name=name, **settings)
        for trace in agent.follow(asked):
            ended = trace.answer is not None or trace.error or len(trace.rounds) == agent.max_rounds
            judged = metrics.is_right(asked, trace.answer) if ended and asked.answers else None
            yield name, replace(trace, correct=judged)


def as_question(question: Question | str, prompt: Prompt) -> Question:
    """Words as a question without gold answer; raises ConfigError where there are none, or options are missing."""
    if isinstance(question, Question):
        return question
    if not question.strip():
        raise ConfigError("Type a question first.")
    if prompt.kind == "choice":
        raise ConfigError("A multiple-choice question needs its options: choose one of the examples.")
    return Question("asked", question.strip(), ())


def answers_table(traces: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per variant: answer (empty if none), right, rounds, logs retrieved, tokens by origin and seconds."""
    rows = {
        name: {
            "answer": trace.answer or "",
            "right": trace.correct,
            "rounds": len(trace.rounds),
            "logs": sum(len(r.logs) for r in trace.rounds),
            "prefilled": trace.usage.prefilled,
            "injected": trace.usage.injected,
            "generated": trace.usage.generated,
            "seconds": trace.usage.seconds,
        }
        for name, trace in traces.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
