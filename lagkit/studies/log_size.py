"""Accuracy and cost of logs: how often they are right, the tokens and bytes kept of them, seconds to encode."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import get_args

import pandas as pd

from lagkit.datasets.loaders import hops
from lagkit.logs.encode import Encoder, kept_text
from lagkit.policy import POLICIES, Encode, Keep, Policy, get_policy
from lagkit.runs.experiment import Experiment
from lagkit.stats.intervals import mean_interval
from lagkit.types import Trace
from lagkit.util.progress import progress


def ablation(*, grid: bool = False) -> tuple[str, ...]:
    """The KV policies in front of the prompt, one choice varied at a time, or with `grid` all keeps by all encodes."""
    names = {policy: name for name, policy in POLICIES.items()}
    usual = Policy("kv")
    wanted = [
        Policy("kv", keep=keep, encode=encode)
        for encode in get_args(Encode)
        for keep in get_args(Keep)
        if keep != "step" and (grid or keep == usual.keep or encode == usual.encode)
    ]
    return tuple(names.get(policy) or str(policy) for policy in wanted)


def right_logs(experiment: Experiment) -> pd.DataFrame:
    """Accuracy of the run's logs: a row for `all logs`, then one for each number of hops.

    Columns: `logs`, `right` (share) with `low` and `high` of its interval, and mean `rounds`.
    """
    questions = {question.id: question for question in experiment.log_questions}
    table = pd.DataFrame(
        [(t.question_id, float(bool(t.correct)), len(t.rounds)) for t in experiment.logs],
        columns=["question_id", "right", "rounds"],
    ).set_index("question_id")
    number = table.index.map(lambda id: len(questions[id].hops))
    parts = {"all logs": table} | {f"{n} hop{'s' * (n != 1)}": own for n, own in table.groupby(number)}
    rows = {}
    for name, own in parts.items():
        found = mean_interval(own["right"], hops(questions.values()))
        bounds = {"low": max(found.low, 0.0), "high": min(found.high, 1.0)}
        rows[name] = {"logs": found.n, "right": found.mean, **bounds, "rounds": own["rounds"].mean()}
    return pd.DataFrame.from_dict(rows, orient="index")


def stored(experiment: Experiment, names: Iterable[str]) -> pd.DataFrame:
    """Mean size of a log of the run's store: a row per policy that reuses logs, and whose blocks are encoded.

    Columns: `inject`, `keep` and `encode` (`text` where there is no KV), `tokens`, and `bytes`: those of the block's
    file, or of the text in UTF-8.
    """
    lm, rows = experiment.local_lm, {}
    encoder = Encoder(lm, experiment.prompt)
    with experiment.store() as store:
        blocks, traces = store.summary(), list(store.traces())
    for name in names:
        policy = get_policy(name)
        if policy is None:
            continue
        row = {"inject": policy.inject, "keep": policy.keep}
        if policy.inject != "kv":
            texts = [kept_text(trace, policy.keep) for trace in traces]
            tokens = sum(len(lm.tokenize(lm.plain(text))) for text in texts)
            size = sum(len(text.encode()) for text in texts)
            rows[name] = {**row, "encode": "text", "tokens": tokens / len(texts), "bytes": size / len(texts)}
        elif (key := encoder.key(policy)) in blocks.index:
            tokens, size = blocks.loc[key, ["tokens", "bytes"]] / blocks.loc[key, "logs"]
            rows[name] = {**row, "encode": policy.encode, "tokens": tokens, "bytes": size}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("policy")


def encoding_seconds(experiment: Experiment, names: Iterable[str], traces: Sequence[Trace]) -> pd.Series:
    """Wall seconds to encode one log, by policy: the mean over `traces`, each encoded anew; KV policies only.

    The shared head of the prompt is read beforehand, as it is once for all logs of a run.
    """
    encoder = Encoder(experiment.local_lm, experiment.prompt, {log.id: log for log in experiment.logs})
    policies = {name: policy for name in names if (policy := get_policy(name)) and policy.inject == "kv"}
    encoder.head_block()
    seconds = {}
    for name, policy in progress(policies.items(), "Timing encodings", total=len(policies)):
        began = time.perf_counter()
        for trace in traces:
            encoder.encode(trace, policy)
        seconds[name] = (time.perf_counter() - began) / len(traces)
    return pd.Series(seconds, name="seconds", dtype=float).rename_axis("policy")


def outcomes(sizes: pd.DataFrame, means: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """Each policy's scores and rounds beside its size, for `plots.curves.by_bytes`: a row per policy and metric.

    sizes: as `stored` gives. means, differences: `metrics.summarize` and `metrics.compare` without the level of splits.
    `low` and `high` are those of the paired difference to the baseline, laid around the policy's own mean.
    """
    rows = []
    for (policy, metric), row in differences.iterrows():
        if policy in sizes.index:
            value = means.loc[policy, metric]
            base = value - row["mean"]
            bounds = {"mean": value, "low": base + row["low"], "high": base + row["high"], "base": base}
            rows.append({"policy": policy, "metric": metric, **sizes.loc[policy], **bounds})
    return pd.DataFrame(rows)
