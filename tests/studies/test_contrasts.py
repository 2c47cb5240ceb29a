"""Differences of KL between places, parts and kinds of logs: paired by question, and told in words."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.studies import differences
from lagkit.studies.gating import against_chance, applied, findings

QUESTIONS = [f"q{i}" for i in range(8)]
HOPS = {q: (f"h{q}",) for q in QUESTIONS}
WOBBLE = [0.9, 1.1] * 4


def cells():
    """At the place `prefix` every KL is about a tenth of `front`; what stands before changes nearly nothing."""
    rows = [
        {"question_id": q, "place": place, "before": before, "kl": base * wobble**power * noise}
        for q, wobble in zip(QUESTIONS, WOBBLE, strict=True)
        for place, base, power in (("front", 1.0, 0), ("prefix", 0.1, 1))
        for before, noise in (("nothing", 1.0), ("bos", wobble**0.01))
    ]
    return pd.DataFrame(rows)


def test_choices_are_compared_as_factors_of_the_kl():
    found = differences.effects(cells(), {"place": ("front", "prefix"), "before": ("nothing", "bos")}, HOPS)
    assert list(found.index) == [
        "place, prefix against front",
        "before at front, bos against nothing",
        "before at prefix, bos against nothing",
    ]
    assert found["mean"].to_list() == pytest.approx([-1, 0, 0], abs=0.01)
    table = differences.factors(found)
    assert table.loc["place, prefix against front", "factor of the KL"].startswith("0.0995 [0.0")
    assert table.loc["place, prefix against front", "verdict"] == "a lower KL"
    assert table.loc["before at front, bos against nothing", "verdict"] == "equal within a factor of 1.1"
    said = differences.factor_findings(found.head(1), "Fidelity, {}")
    assert said == [f"Fidelity, place, prefix against front: a lower KL ({table.iloc[0, 0]} times)."]


def test_hidden_parts_are_held_against_the_whole_and_a_kl_of_zero_has_a_logarithm():
    whole = pd.DataFrame({"question_id": QUESTIONS, "kl": [1.0] * 8})
    rows = {"nothing hidden": whole, "head hidden": whole.assign(kl=0.0), "no log at all": whole}
    found = differences.healed(rows, "nothing hidden", HOPS)
    assert list(found.index) == ["head hidden"]
    assert found["mean"].item() == pytest.approx(-9)


def test_a_contrast_is_paired_within_each_group():
    table = pd.concat([cells().assign(dtype="float32"), cells().assign(dtype="bfloat16", kl=1.0)])
    found = differences.contrast(table, "place", "front", "prefix", HOPS, ["dtype"])
    assert found["mean"].to_dict() == pytest.approx({"float32": -0.9, "bfloat16": 0.0}, abs=0.01)
    assert found.index.name == "dtype"
    exact, same = differences.findings(found, "{}, prefix against front", "nats")
    assert exact.startswith("float32, prefix against front: less, -9.0e-01 [-")
    assert same.startswith("bfloat16, prefix against front: ")
    both = differences.contrast(table.assign(variant="x"), "place", "front", "prefix", HOPS, ["dtype", "variant"])
    assert differences.findings(both, "{}, n", "nats")[0].startswith("float32, x, n: less")


def test_gates_are_held_against_another_use_of_the_same_store_or_against_no_logs():
    def answers(right):
        return pd.DataFrame({"right": right}, QUESTIONS)

    rows = {
        ("", "no_logs"): answers([False] * 8),
        ("aged", "all logs"): answers([True] * 4 + [False] * 4),
        ("aged", "both"): answers([True] * 8),
    }
    assert applied(rows, "no_logs", "em", HOPS)["mean"].to_dict() == {
        ("aged", "all logs", "em"): 0.5,
        ("aged", "both", "em"): 1.0,
    }
    found = applied(rows, "all logs", "em", HOPS)
    assert found["mean"].to_list() == [0.0, 0.5]
    assert found.index.names == ["store", "policy", "metric"]


def test_an_area_is_told_against_chance_and_left_out_where_it_is_not_known():
    rows = {
        "with logs": {"answers": 20, "right": 0.5, "median": -0.1, "mean": 0.8, "low": 0.7, "high": 0.9},
        "without": {"answers": 3, "right": 0.5, "median": -0.1, **dict.fromkeys(("mean", "low", "high"), float("nan"))},
    }
    told = pd.DataFrame.from_dict(rows, orient="index")
    table = against_chance(told)
    assert table.loc["with logs", ["AUC", "verdict"]].to_list() == ["0.80 [0.70, 0.90]", "better than chance"]
    assert table.loc["without", ["AUC", "verdict"]].to_list() == ["", ""]
    said = "Does confidence tell, with logs: AUC 0.80 [0.70, 0.90] of 20 (better than chance)."
    assert findings(told) == [said]
    assert "too few of one kind" in findings(told.tail(1))[0]
