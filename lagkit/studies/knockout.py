"""The causal test of the method's assumption: later rounds are kept from seeing an earlier one while a log is
encoded."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import pandas as pd
from torch import Tensor

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import EncodedText, Encoder
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.prompts.actions import parse
from lagkit.policy import Policy, get_policy
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics
from lagkit.studies import asking, sanity
from lagkit.studies.attention import hidden_slots, watching
from lagkit.studies.examples import Case
from lagkit.types import Trace
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.progress import progress

READS_EARLIER = ("responses", "conversation")  # values of `Policy.encode`
INTACT, NO_LOG, ALL_EARLIER = "intact", "no log", "all earlier"
_CONTEXTS = {"kv_stranger": "a stranger's context", "kv_filler": "filler", "kv_block": "nothing"}


def reading_policy(name: str) -> Policy:
    """The policy of this name; raises ConfigError unless it reads earlier rounds before those that it keeps as KV."""
    policy = get_policy(name)
    if "+" in name:
        raise ConfigError(
            f"{name} changes limits of the agent, and no question is answered in rounds here: leave them out."
        )
    if policy is None or policy.inject != "kv" or policy.encode not in READS_EARLIER or policy.keep == "all_rounds":
        raise ConfigError(
            f"Policy {name} has no earlier rounds behind what it keeps: choose one such as kv_last_round."
        )
    return policy


def encode(encoder: Encoder, trace: Trace, policy: Policy, cut: Collection[int] = ()) -> KVBlock:
    """As `Encoder.encode`, but no token behind round i sees round i, for every i of `cut` (counted from 0).

    Positions stay as they are. Raises ConfigError under a policy that reads no earlier rounds, UnsupportedModel.
    """
    if policy.encode not in READS_EARLIER:
        raise ConfigError(f"Policy {policy} reads none of its earlier rounds: choose encode responses or conversation.")
    reading = encoder.read(trace, policy)
    with watching(encoder.lm.model, cut=_cut(reading, cut)):
        return encoder.prefill(reading)


def versions(encoder: Encoder, trace: Trace, policy: Policy) -> dict[str, KVBlock]:
    """A log's block when nothing is cut, when one earlier round is (`1 back` is next to the last), and when all are."""
    last = len(encoder.read(trace, policy).rounds) - 1
    cuts: dict[str, tuple[int, ...]] = {INTACT: ()} | {back_name(back): (last - back,) for back in range(1, last + 1)}
    cuts |= {ALL_EARLIER: tuple(range(last))} if last > 0 else {}
    return {name: encode(encoder, trace, policy, cut) for name, cut in cuts.items()}


def back_name(back: int) -> str:
    """Name of the condition in which the round that lies `back` rounds before the last is cut."""
    return f"{back} back"


def change(intact: KVBlock, cut: KVBlock) -> pd.DataFrame:
    """Change of stored KV: a row for each layer and part (`keys`, without RoPE, and `values`).

    `relative`: norm of the difference over norm of the intact.
    """
    rows = []
    for part in ("keys", "values"):
        before, after = (getattr(block, part).float() for block in (intact, cut))
        relative = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
        rows += [{"layer": n, "part": part, "relative": moved} for n, moved in enumerate(relative.tolist())]
    return pd.DataFrame(rows)


def knock_out(run: Experiment, cases: Sequence[Case], policy: Policy) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut each log of `examples.revisit` in every way, and let the model answer its question with what is left.

    Returns two tables. Stored KV: one row per question, condition, layer and part, as in `change`. Answers: one row per
    question and condition, `no log` among them, with `gold`, the mean log-probability (nats) of the gold answer's
    tokens where the log's last response first names it, `answer`, that of the first round (empty where it searches on),
    and `right`, whether it is.
    """
    builder = KVContextBuilder(run.local_lm, run.prompt, policy)
    moved, read = [], []
    for case in progress(cases, "Encoding with attention cut"):
        blocks = versions(builder.encoder, case.log, policy)
        for name, block in blocks.items():
            if name != INTACT:
                moved.append(change(blocks[INTACT], block).assign(question_id=case.question.id, condition=name))
        shown = {name: (block,) for name, block in blocks.items()} | {NO_LOG: ()}
        read.append({name: builder.build(case.question, case.user_turn, block) for name, block in shown.items()})
    return pd.concat(moved, ignore_index=True) if moved else pd.DataFrame(), _score(run, cases, read)


def reuse(run: Experiment, cases: Sequence[Case], policies: Sequence[str]) -> pd.DataFrame:
    """The second table of `knock_out`, with KV policies, by name, as conditions; the first is called `intact`.

    Raises ConfigError for `no_logs` and unknown policies before any work, and NoStranger where a policy reads another
    log's context and none of the run's can lend one.
    """
    known = [policy for policy in map(get_policy, policies) if policy]
    if len(known) < len(policies):
        raise ConfigError("no_logs keeps no KV: name policies that do.")
    logs, read = {log.id: log for log in run.logs}, list[dict[str, Context]]()
    builders = [KVContextBuilder(run.local_lm, run.prompt, policy) for policy in known]
    for case in progress(cases, "Encoding as other policies do"):
        read.append({})
        for name, policy, builder in zip([INTACT, *policies[1:]], known, builders, strict=True):
            block = replace(builder.encoder, logs=logs).encode(case.log, policy)
            read[-1][name] = builder.build(case.question, case.user_turn, (block,))
    return _score(run, cases, read)


def of_one(answers: pd.DataFrame, case: Case) -> pd.DataFrame:
    """One case's rows of the tables of `knock_out` and `reuse`, each condition once: columns `answer`, `right`, `gold`.

    The index says in words what the kept tokens have read.
    """
    own = answers[answers["question_id"] == case.question.id].drop_duplicates("condition")
    last = sum(bool(round_.response) for round_ in case.log.rounds)
    hidden = {back_name(back): f"round {last - back} hidden" for back in range(1, last)}
    words = {INTACT: "its own context", ALL_EARLIER: "all earlier rounds hidden", **hidden, **_CONTEXTS}
    own = own.sort_values("condition", key=lambda names: names == NO_LOG, kind="stable")
    return own.set_index(own["condition"].replace(words).rename("read before"))[["answer", "right", "gold"]]


def _score(run: Experiment, cases: Sequence[Case], read: Sequence[dict[str, Context]]) -> pd.DataFrame:
    """One row per case and condition (its context by name): `question_id`, `condition`, `gold`, `answer`, `right`."""
    rows = []
    for case, contexts in progress(list(zip(cases, read, strict=True)), "Scoring answers"):
        gold = _gold(run, case, contexts)
        rows += [{"question_id": case.question.id, "condition": name, "gold": gold[name]} for name in contexts]
    said = asking.respond(run, [context for contexts in read for context in contexts.values()])
    actions = [parse(run.lm.opens + one.text, run.prompt.kind) for one in said]
    answers = [action.text if action.kind == "answer" else "" for action in actions]
    asked = [case.question for case, contexts in zip(cases, read, strict=True) for _ in contexts]
    right = [float(metrics.is_right(question, answer or None)) for question, answer in zip(asked, answers, strict=True)]
    return pd.DataFrame(rows).assign(answer=answers, right=right)


def _cut(reading: EncodedText, rounds: Collection[int]) -> Tensor:
    """Bool `[tokens, tokens]`: every token behind each of the rounds against the tokens of that round."""
    tokens = reading.context.injected + len(reading.context.ids)
    return hidden_slots(reading, [(range(own[-1] + 1, tokens), own) for own in map(reading.rounds.__getitem__, rounds)])


def _gold(run: Experiment, case: Case, read: dict[str, Context]) -> dict[str, float]:
    """`gold` of `knock_out` in each condition, behind what the response says before it names the answer."""
    said = case.log.rounds[-1].turn.removeprefix(run.lm.opens + run.prompt.open_turn(case.question))
    answer = case.log.answer or ""
    named = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", said) if answer else None
    if named is None:
        raise DataError(f"The last response of the log {case.log.id} does not name its answer: take another log.")
    before = tuple(run.local_lm.tokenize(run.local_lm.plain(said[: named.start()].rstrip())))
    asked = {name: [Context((*context.ids, *before), context.blocks)] for name, context in read.items()}
    readings = sanity.read(run.local_lm, asked, [answer], new_tokens=0)
    return {name: float(reading.gold[0]) for name, reading in readings.items()}
