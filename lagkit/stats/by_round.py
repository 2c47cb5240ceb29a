"""Scores at smaller limits of rounds, read off one run: an answer counts if it was given in time."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from lagkit.stats import metrics
from lagkit.stats.intervals import Hops, mean_interval


def limited(results: pd.DataFrame, limit: int) -> pd.DataFrame:
    """The results (of a run with a larger limit) had every question ended after `limit` rounds.

    An agent does not know its limit, so its first rounds are the same under any; one that had not answered by then
    abstains and scores 0. Costs are not known by round: their columns are dropped.
    """
    late = results["rounds"] > limit
    failed = results["failed"] & (results["rounds"] < limit)
    scores = {name: results[name].mask(late, 0.0) for name in metrics.scores_in(results)}
    return results.drop(columns=[name for name in (*metrics.COSTS, "cost") if name in results]).assign(
        **scores,
        answer=results["answer"].mask(late, None),
        rounds=results["rounds"].clip(upper=limit),
        abstained=results["abstained"] | late | (results["failed"] & ~failed),
        failed=failed,
    )


def curve(results: pd.DataFrame, hops: Hops, limits: Collection[int]) -> pd.DataFrame:
    """The first score's mean by policy and limit, of one split: columns `policy`, `rounds` (the limit), `mean`, `low`,
    `high`."""
    rows, score = [], metrics.first_score(results)
    for limit in limits:
        part = limited(results, limit)
        for policy, own in part.groupby("policy", sort=False):
            found = mean_interval(own.set_index("question_id")[score].fillna(0.0), hops)
            rows.append({"policy": policy, "rounds": limit, "mean": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def differences(results: pd.DataFrame, hops: Hops, limits: Collection[int]) -> pd.DataFrame:
    """Each policy against `no_logs` under the same limit: columns as of `curve`, of the paired difference."""
    rows, score = [], metrics.first_score(results)
    for limit in limits:
        found = metrics.compare(limited(results, limit), hops).xs(score, level="metric")
        for (policy, _), row in found.iterrows():
            rows.append({"policy": policy, "rounds": limit, **row[["mean", "low", "high"]]})
    return pd.DataFrame(rows)


def to_ceiling(results: pd.DataFrame, hops: Hops, limit: int, share: float = 1.0) -> pd.DataFrame:
    """Rounds that each policy needs for `share` of the score of `no_logs` with `limit` rounds, the ceiling.

    Indexed by policy: `rounds`, the least number with which its mean is not below that, and there `mean`, `low` and
    `high` of the paired difference to the ceiling; all missing if there is none.
    """
    score = metrics.first_score(results)
    ceiling = limited(results[results["policy"] == "no_logs"], limit)
    rows: dict[str, dict[str, float]] = {}
    for policy, own in results.groupby("policy", sort=False):
        rows[policy] = {}
        for rounds in range(1, limit + 1):
            early = limited(own, rounds)
            if early[score].mean() >= share * ceiling[score].mean():
                pair = pd.concat([ceiling, early.assign(policy="early")])
                found = metrics.compare(pair, hops).xs(("early", score), level=("policy", "metric")).iloc[0]
                rows[policy] = {"rounds": rounds, **found[["mean", "low", "high"]]}
                break
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["rounds", "mean", "low", "high"])
    return table.astype(float).rename_axis("policy")
