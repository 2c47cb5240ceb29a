"""Equal budgets: what is counted as read, which baseline a variant meets, and the difference to it."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.stats.equal_tokens import at_equal_budget, budgets, costs
from lagkit.views.plots.curves import costs as figure

HOPS = {f"q{i}": (f"h{i}",) for i in range(4)}
READS = {"no_logs": (100, 10), "no_logs+passages=2": (200, 10), "kv_last_round": (60, 90), "text_last_round": (400, 0)}
RIGHT = {"no_logs": "1000", "no_logs+passages=2": "1110", "kv_last_round": "1101", "text_last_round": "1111"}


def results() -> pd.DataFrame:
    return pd.DataFrame(
        {
            **{"policy": policy, "split": "unseen", "question_id": f"q{i}", "em": float(right), "rounds": 2},
            **{"prefilled": READS[policy][0], "injected": READS[policy][1], "generated": 5},
        }
        for policy, said in RIGHT.items()
        for i, right in enumerate(said)
    )


def test_what_is_in_sight_is_counted_and_the_cheapest_stands_first():
    table = costs(results(), HOPS)
    assert table["read"].to_dict() == {
        **{"no_logs": 110, "kv_last_round": 150, "no_logs+passages=2": 210, "text_last_round": 400}
    }
    assert list(table.index) == ["no_logs", "kv_last_round", "no_logs+passages=2", "text_last_round"]
    assert table.loc["no_logs", "mean"] == 0.25
    assert table[["low", "high"]].stack().between(0, 1).all()


def test_a_variant_meets_the_cheapest_baseline_that_reads_as_much():
    assert budgets(costs(results(), HOPS)).to_dict() == {
        "kv_last_round": "no_logs+passages=2",
        "text_last_round": "no_logs+passages=2",  # none reads as much: the one that reads most
    }


def test_differences_are_to_that_baseline():
    table = at_equal_budget(results(), HOPS)
    assert table.loc["kv_last_round", "mean"] == 0.0
    assert table.loc["text_last_round", ["mean", "read", "read without"]].tolist() == [0.25, 400, 210]
    assert (table["low"] <= table["mean"]).all()


def test_the_figure_shows_every_token_and_score():
    table = costs(results(), HOPS)
    drawn = figure(table, "Title", "EM")
    assert sum(sum(bar.x) for bar in drawn.data[:3]) == pytest.approx((table["read"] + table["generated"]).sum())
    assert list(drawn.data[3].x) == [25.0, 75.0, 75.0, 100.0]
    assert list(drawn.layout.yaxis.categoryarray) == list(table.index)[::-1]
