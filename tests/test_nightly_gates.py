"""Gates fail towards chance only, are derived from the spread between seeds, and none is made that could not fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.errors import ConfigError
from lagkit.nightly.gates import Baselines, Gate, JobGates, changes, compare, derive
from lagkit.nightly.profile import plan
from tests import nights


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """A plan of one job, with chance values."""
    found = plan(nights.project(tmp_path_factory.mktemp("gates"), [{"notebook": "a"}], [("a", "1")]), "small")
    return replace(found, chance={"a": {"em.*": 0.0, "kl": 3.0}})


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
        (0.8, 0.0, None, "missing"),
    ],
)
def test_only_the_way_towards_chance_fails(value, chance, found, verdict):
    assert Gate(value=value, tolerance=0.05, chance=chance).verdict(found) == verdict


@given(
    values=st.lists(st.floats(-10, 10), min_size=2, max_size=4),
    chance=st.floats(-10, 10),
)
def test_no_gate_is_made_that_passes_at_chance(wanted, values, chance):
    wanted = replace(wanted, chance={"a": {"m": chance}})
    baselines, left_out = derive(wanted, range(len(values)), [{"a": {"m": value}} for value in values])
    gates = [gate for job in baselines.jobs.values() for gate in job.metrics.values()]
    assert len(gates) + len(left_out) == 1
    for gate in gates:
        assert gate.verdict(gate.value) == "ok"
        assert gate.verdict(gate.chance) == "regression"


def test_tolerances_come_from_the_spread_between_seeds(wanted):
    runs = [
        {"a": {"em.kv": em, "em.none": none, "kl": 0.1, "n": 3.0}} for em, none in [(0.8, 0.01), (0.7, 0.0), (0.9, 0.3)]
    ]
    baselines, left_out = derive(wanted, (0, 1, 2), runs)
    gates = baselines.jobs["a"].metrics
    assert gates["em.kv"] == Gate(value=0.8, tolerance=0.2, chance=0.0)
    assert gates["kl"] == Gate(value=0.1, tolerance=0.058, chance=3.0)  # no spread: a share of the way to chance
    assert left_out == [
        "a: em.none is not gated: 0.01 is within 0.3408 of chance.",
        "a: n is not gated: no chance value is known.",
    ]
    assert (baselines.seeds, baselines.jobs["a"].parameters) == ((0, 1, 2), {"seed": 0})


def test_a_metric_that_not_every_seed_has_is_not_gated(wanted):
    baselines, left_out = derive(wanted, (0, 1), [{"a": {"kl": 0.1}}, {"a": {}}])
    assert (baselines.jobs, left_out) == ({}, ["a: kl is not gated: not every seed has it."])


def baselines(**parameters):
    gates = {"em.kv": Gate(value=0.8, tolerance=0.1, chance=0.0), "kl": Gate(value=0.1, tolerance=0.1, chance=3.0)}
    return Baselines(seeds=(0, 1), jobs={"a": JobGates(parameters=parameters, metrics=gates)})


def test_every_gate_of_a_job_that_ran_is_compared(wanted):
    table = compare(baselines(seed=0), wanted, {"a": {"em.kv": 0.5, "new": 1.0}}).set_index("metric")
    assert table["verdict"].to_dict() == {"em.kv": "regression", "kl": "missing"}
    assert table.loc["em.kv", ["found", "value", "tolerance", "chance"]].tolist() == [0.5, 0.8, 0.1, 0.0]
    assert compare(baselines(seed=0), wanted, {}).empty  # it failed, which is told elsewhere
    assert compare(baselines(seed=5), wanted, {"a": {"em.kv": 0.5}}).empty  # made with other parameters
    assert compare(None, wanted, {"a": {"em.kv": 0.5}}).empty


def test_a_job_that_has_left_the_profile_is_missed(wanted):
    gone = Baselines(seeds=(0, 1), jobs={"b": baselines().jobs["a"]})
    assert compare(gone, wanted, {"a": {}})["verdict"].tolist() == ["missing", "missing"]


def test_baselines_survive_their_file_and_changes_are_told(tmp_path):
    path = tmp_path / "deep" / "small.json"
    assert Baselines.load(path) is None
    baselines(seed=0).save(path)
    assert Baselines.load(path) == baselines(seed=0)
    assert changes(baselines(), baselines()).empty
    table = changes(None, baselines())
    assert table.loc[("a", "em.kv")].tolist() == ["", "0.8 ± 0.1 (chance 0)"]
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"small\.json is not valid JSON"):
        Baselines.load(path)
    path.write_text('{"seeds": [1], "jobs": {"a": {"parameters": {}, "metrics": {"em": {"value": 1}}}}}')
    with pytest.raises(ConfigError, match=r"Wrong baselines: jobs\.a\.metrics\.em\.tolerance: Field required"):
        Baselines.load(path)
