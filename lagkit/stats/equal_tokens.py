"""Cost of an answer, and equal-token comparison of each variant with doing without logs."""

from __future__ import annotations

import pandas as pd

from lagkit.policy import get_policy
from lagkit.stats import metrics
from lagkit.stats.intervals import Hops, mean_interval

# What reuse has to beat, beside the policies: more read for each query, more rounds, and no abstaining.
BASELINES = ("no_logs+passages=2", "no_logs+max_rounds=10", "no_logs+force_answer=true")

_READ = ["prefilled", "injected"]  # a token in sight costs attention at every later step, however it came there


def costs(results: pd.DataFrame, hops: Hops) -> pd.DataFrame:
    """The score of each policy with its interval, and the tokens of a question; cheapest first.

    results: of one split. Columns: `mean`, `low`, `high` of the first score, mean `prefilled`, `injected` and
    `generated` tokens, and `read`, the sum of the first two: all that the model had in sight, over all rounds.
    """
    score = metrics.first_score(results)
    rows = {}
    for policy, own in results.groupby("policy", sort=False):
        found = mean_interval(own.set_index("question_id")[score].fillna(0.0), hops)
        bounds = {"mean": found.mean, "low": max(found.low, 0.0), "high": min(found.high, 1.0)}
        rows[policy] = {**bounds, **own[[*_READ, "generated"]].mean()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("policy")
    return table.assign(read=table[_READ].sum(axis=1)).sort_values("read", kind="stable")


def budgets(costs: pd.DataFrame) -> pd.Series:
    """For each policy that reuses logs, the one without logs to compare it with, from the table of `costs`.

    It is the cheapest that reads at least as many tokens, or else the one that reads most.
    """
    without = costs[[get_policy(name) is None for name in costs.index]].sort_values("read", kind="stable")
    chosen = {}
    for policy in costs.index.difference(without.index, sort=False):
        enough = without[without["read"] >= costs.loc[policy, "read"]]
        chosen[policy] = enough.index[0] if len(enough) else without.index[-1]
    return pd.Series(chosen, name="without logs", dtype=object).rename_axis("policy")


def at_equal_budget(results: pd.DataFrame, hops: Hops) -> pd.DataFrame:
    """Each policy that reuses logs against its baseline of `budgets`, on one split: a row per policy.

    Columns: `without logs` (the baseline), `read` and `read without` (tokens of a question), and `mean`, `low`, `high`
    of the paired difference in the first score.
    """
    table = costs(results, hops)
    score = metrics.first_score(results)
    rows = {}
    for policy, baseline in budgets(table).items():
        pair = results[results["policy"].isin([policy, baseline])]
        found = metrics.compare(pair, hops, baseline).xs((policy, score), level=("policy", "metric")).iloc[0]
        read = {"read": table.loc[policy, "read"], "read without": table.loc[baseline, "read"]}
        rows[policy] = {"without logs": baseline, **read, **found[["mean", "low", "high"]]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("policy")
