"""One question under several variants, round by round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lagkit.agent.loop import Agent
from lagkit.logs.retrieve import Embedder, PassageIndex
from lagkit.logs.store import Store
from lagkit.model.backend import Backend
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import Variant
from lagkit.stats import metrics
from lagkit.types import Limits, Question, Trace
from lagkit.util.errors import ConfigError


def follow(
    lm: Backend,
    store: Store,
    question: Question | str,
    variants: Sequence[str],
    *,
    prompt: Prompt,
    limits: Limits,
    embedder: Embedder | str | None = None,
    passages: PassageIndex | None = None,
) -> Iterator[tuple[str, Trace, bool]]:
    """Yield variant, trace and whether it has ended, after every round; whoever stops asking stops the work.

    A question in words has no gold answer, so its traces are not judged. embedder, passages: as in `Agent`. Raises
    ConfigError for an unknown variant, an empty question or one without its options, EmptyStore.
    """
    asked = as_question(question, prompt)
    chosen = [Variant.parse(name) for name in variants]
    if not chosen:
        raise ConfigError("Choose at least one variant to ask.")
    for variant in chosen:
        own: dict[str, Any] = {"policy": variant.policy, "store": store if variant.policy else None}
        own |= {"policy_name": variant.name, "limits": variant.limits(limits)}
        agent = Agent(lm, prompt=prompt, embedder=embedder, passages=passages, **own)
        for trace in agent.follow(asked):
            ended = trace.answer is not None or bool(trace.error) or len(trace.rounds) == agent.max_rounds
            judged = metrics.is_right(asked, trace.answer) if ended and asked.answers else None
            yield variant.name, replace(trace, correct=judged), ended


def as_question(question: Question | str, prompt: Prompt) -> Question:
    """Words as a question without gold answer; raises ConfigError where there are none, or options are missing."""
    if isinstance(question, Question):
        return question
    if not question.strip():
        raise ConfigError("Type a question first.")
    if prompt.kind == "choice":
        raise ConfigError("A multiple-choice question needs its options: choose one of the examples.")
    return Question("asked", question.strip(), ())
