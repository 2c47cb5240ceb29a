"""Gates fail both ways: by single answers with the same seed, by the spread between seeds with another one."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from lagkit.nightly.gates import Baselines, JobGates, RegressionGate, changes, compare, count, derive, load_answers
from lagkit.nightly.profile import plan
from lagkit.stats import changed
from lagkit.util.errors import ConfigError
from tests.helpers import nights


def answers(right: int, *, policy: str = "kv", of: int = 10, rounds: int = 2, doubt=-1e-4, read=100) -> pd.DataFrame:
    """Answers to so many questions, the first of them right."""
    ids = [f"q{i}" for i in range(of)]
    results = {"policy": policy, "split": "unseen", "question_id": ids, "rounds": rounds, "confidence": doubt}
    results |= {"prefilled": read - 20, "injected": 20}
    em = [float(i < right) for i in range(of)]
    return changed.answers(pd.DataFrame({**results, "answer": ["Yes." if e else None for e in em], "em": em}))


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """A plan of one job, with chance values."""
    found = plan(nights.project(tmp_path_factory.mktemp("gates"), [{"notebook": "a"}], [("a", "1")]), "small")
    return replace(found, chance={"a": {"em*": 0.0, "kl": 3.0}})


@pytest.mark.parametrize(
    ("value", "chance", "found", "verdict"),
    [
        (0.8, 0.0, 0.76, "ok"),
        (0.8, 0.0, 0.84, "ok"),
        (0.8, 0.0, 0.74, "regression"),
        (0.8, 0.0, 0.86, "better"),
        (0.1, 3.0, 0.16, "regression"),
        (0.1, 3.0, 0.04, "better"),
        (-0.8, 0.0, -0.74, "regression"),
        (0.0, 10.0, 3.0, "regression"),
        (0.8, 0.0, None, "missing"),
    ],
)
def test_a_gate_names_the_way_in_which_a_metric_left_it(value, chance, found, verdict):
    assert RegressionGate(value=value, tolerance=0.05, chance=chance).verdict(found) == verdict


def test_with_another_seed_it_is_the_spread_that_counts():
    gate = RegressionGate(value=0.8, tolerance=0.01, chance=0.0, mean=0.7, spread=0.2)
    assert [gate.verdict(found, own=False) for found in (0.6, 0.89, 0.4, 0.95)] == ["ok", "ok", "regression", "better"]
    assert gate.verdict(0.75) == "regression"


def test_tolerances_are_two_answers_or_what_the_profile_says(wanted):
    wanted = replace(wanted, tolerance={"a": {"kl": 0.5}})
    runs = [{"a": {"em.kv": em, "em.none.unseen": 0.5, "em": 0.5, "kl": 0.1, "n": 3.0}} for em in (0.8, 0.7, 0.9)]
    kept = pd.concat([answers(8), answers(5, policy="none", of=20)])
    baselines, left_out = derive(wanted, (0, 1, 2), runs, {"a": kept})
    gates = baselines.jobs["a"].metrics
    assert gates["em.kv"] == RegressionGate(value=0.8, tolerance=0.2, chance=0.0, mean=0.8, spread=0.496828)
    assert (gates["em.none.unseen"].tolerance, gates["em"].tolerance) == (0.1, 0.2)  # of 20 answers; of the fewest
    assert (gates["kl"].tolerance, gates["kl"].mean) == (0.5, 0.1)
    assert gates["changed.kv.unseen"] == gates["read.kv.unseen"] == RegressionGate(value=0, tolerance=2, chance=10)
    assert gates["read.none.unseen"] == RegressionGate(value=0, tolerance=2, chance=20)
    assert gates["doubt.kv.unseen"] == RegressionGate(value=0, tolerance=0.03, chance=1)
    assert left_out == ["a: n is not gated: no chance value is known."]
    assert (baselines.seeds, baselines.jobs["a"].parameters) == ((0, 1, 2), {"seed": 0})
    alone, _ = derive(wanted, (0,), runs[:1], {})
    assert alone.jobs["a"].metrics["em.kv"] == RegressionGate(
        value=0.8, tolerance=0.016, chance=0.0
    )  # 2% without answers


def test_a_spread_that_holds_chance_gates_the_own_seed_alone(wanted):
    runs = [{"a": {"em.kv": em}} for em in (0.3, 0.0, 0.6)]
    baselines, _ = derive(wanted, (0, 1, 2), runs, {})
    assert baselines.jobs["a"].metrics["em.kv"] == RegressionGate(value=0.3, tolerance=0.006, chance=0.0)
    assert compare(baselines, wanted, {"a": {"em.kv": 0.31}})["verdict"].tolist() == ["better"]
    other = replace(wanted, tasks=tuple(replace(task, parameters={"seed": 7}) for task in wanted.tasks))
    assert compare(baselines, other, {"a": {"em.kv": 0.9}}).empty


def test_a_metric_that_not_every_seed_has_is_not_gated(wanted):
    baselines, left_out = derive(wanted, (0, 1), [{"a": {"kl": 0.1}}, {"a": {}}], {})
    assert (baselines.jobs, left_out) == ({}, ["a: kl is not gated: not every seed has it."])


@pytest.mark.parametrize(
    ("after", "changed", "read", "doubt"),
    [
        (answers(8), 0, 0, 0.0),
        (answers(6), 2, 0, 0.0),
        (answers(10), 2, 0, 0.0),
        (answers(8, rounds=3), 10, 0, 0.0),
        (answers(8, read=60), 0, 10, 0.0),
        (answers(8, doubt=-2e-4), 0, 0, 0.30103),
        (answers(8, doubt=None), 0, 0, None),
        (answers(8, of=8), 2, 2, 0.0),
        (answers(8, of=14), 4, 4, 0.0),
        (answers(8, policy="other"), 10, 10, None),
        (changed.NONE, 10, 10, None),
    ],
)
def test_answers_are_compared_one_by_one(after, changed, read, doubt):
    found = count({"a": {"em": 0.8}, "b": {}}, {"a": after}, {"a": answers(8)})
    told = {"em": 0.8, "changed.kv.unseen": changed, "read.kv.unseen": read}
    assert found == {
        "a": told | ({} if doubt is None else {"doubt.kv.unseen": pytest.approx(doubt, abs=1e-5)}),
        "b": {},
    }


def test_answers_are_the_same_in_normal_form_alone():
    before, after = answers(8), answers(8)
    assert before["answer"].iloc[0] == "yes"
    after.loc[0, "answer"] = "no"
    assert changed.compared(before, after)["changed"].to_dict() == {("kv", "unseen"): 1}


def baselines(**parameters):
    gates = {
        "em.kv": RegressionGate(value=0.8, tolerance=0.1, chance=0.0),
        "kl": RegressionGate(value=0.1, tolerance=0.1, chance=3.0),
    }
    return Baselines(seeds=(0, 1), jobs={"a": JobGates(parameters=parameters, metrics=gates)})


def test_every_gate_of_a_job_that_ran_is_compared(wanted):
    table = compare(baselines(seed=0), wanted, {"a": {"em.kv": 0.5, "new": 1.0}}).set_index("metric")
    assert table["verdict"].to_dict() == {"em.kv": "regression", "kl": "missing"}
    assert table.loc["em.kv", ["found", "value", "tolerance", "chance"]].tolist() == [0.5, 0.8, 0.1, 0.0]
    assert compare(baselines(seed=0), wanted, {}).empty  # it failed, which is told elsewhere
    assert compare(baselines(seed=0, size=5), wanted, {"a": {"em.kv": 0.5}}).empty  # made with other parameters
    assert compare(None, wanted, {"a": {"em.kv": 0.5}}).empty


def test_a_job_that_has_left_the_profile_is_missed(wanted):
    gone = Baselines(seeds=(0, 1), jobs={"b": baselines().jobs["a"]})
    assert compare(gone, wanted, {"a": {}})["verdict"].tolist() == ["missing", "missing"]


def test_baselines_survive_their_file_and_changes_are_told(tmp_path):
    path = tmp_path / "deep" / "small.json"
    assert (Baselines.load(path), load_answers(path)) == (None, {})
    baselines(seed=0).save(path, {"a": answers(8), "b": answers(1)})
    assert Baselines.load(path) == baselines(seed=0)
    kept = load_answers(path)
    assert set(kept) == {"a"}  # b has no gates
    assert changed.compared(kept["a"], answers(8))["changed"].to_dict() == {("kv", "unseen"): 0}
    assert changes(baselines(), baselines()).empty
    table = changes(None, baselines())
    assert table.loc[("a", "em.kv")].tolist() == ["", "0.8 ± 0.1 (chance 0)"]
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"small\.json is not valid JSON"):
        Baselines.load(path)
    path.write_text('{"seeds": [1], "jobs": {"a": {"parameters": {}, "metrics": {"em": {"value": 1}}}}}')
    with pytest.raises(ConfigError, match=r"Wrong baselines: jobs\.a\.metrics\.em\.tolerance: Field required"):
        Baselines.load(path)
