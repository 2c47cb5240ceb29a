"""Questions asked under a variant: whole through the agent with a journal, or in one round from a context."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from lagkit.logs.store import Store
from lagkit.model.context import Context, Generation
from lagkit.policy import Policy, Variant
from lagkit.runs.answers import result_row
from lagkit.runs.experiment import Experiment
from lagkit.types import Limits, Question, Trace
from lagkit.util.errors import ConfigError


def of_traces(name: str) -> tuple[Variant, Policy]:
    """The variant of this name and its policy; raises ConfigError unless it reuses logs, and whole traces of them."""
    variant = Variant.parse(name)
    if variant.policy is None or variant.policy.unit != "trace":
        raise ConfigError(f"{name} reuses no whole logs, which this study needs: name another policy.")
    return variant, variant.policy


def answers(
    run: Experiment,
    name: str,
    journal: str,
    questions: Sequence[Question],
    store: Store | None = None,
    *,
    limits: Limits | None = None,
    exclude: Mapping[str, Collection[str]] | None = None,
) -> list[Trace]:
    """A run's answers under a variant, in the questions' order; those that the journal holds are read.

    limits: the variant's own by default. exclude: question id -> logs that it cannot find.
    """
    variant = Variant.parse(name)
    limits = limits or variant.limits(run.config.limits)
    return run.ask(journal, variant.policy, name, questions, store, limits=limits, exclude=exclude)


def scored(questions: Sequence[Question], traces: Sequence[Trace], **columns: Any) -> pd.DataFrame:
    """A row for each question, with the columns of `answers.result_row` behind `columns`."""
    return pd.DataFrame([{**columns, **result_row(q, t)} for q, t in zip(questions, traces, strict=True)])


def respond(run: Experiment, contexts: Sequence[Context]) -> list[Generation]:
    """The model's response of one round to each context."""
    stop, limits = run.prompt.stop, run.config.limits
    return run.local_lm.generate(contexts, limits.max_new_tokens, stop=stop, batch_size=limits.batch_size)
