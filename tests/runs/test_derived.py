"""What a variant changes of the limits holds wherever it is named, and runs inside runs keep stores of their own."""

from __future__ import annotations

import pytest

from lagkit.logs.store import LogStore
from lagkit.runs.experiment import Experiment
from lagkit.studies.knockout import reading_policy
from lagkit.studies.online import Online, Rule
from lagkit.studies.quality import forced
from lagkit.studies.transfer import Mix, Transfer
from lagkit.types import Trace
from lagkit.util.errors import ConfigError
from tests.helpers import lms
from tools.codec.loss import Loss

ONE_LOG = "kv_last_round+logs=1"
WORLD = {"entities": 90, "log_questions": 6, "unseen_questions": 4, "hops": [1, 2]}


@pytest.fixture(scope="module")
def lm() -> lms.ActingLM:
    return lms.new_lm(lms.ActingLM)


@pytest.fixture
def run(tmp_path, lm) -> Experiment:
    return lms.small_run(tmp_path / "out", lm, policies=("no_logs", ONE_LOG), max_rounds=1)


def found(traces: list[Trace]) -> set[int]:
    """How many logs each of them found."""
    return {len(trace.rounds[0].logs) for trace in traces}


def test_transfer_asks_under_the_limits_of_the_variant(run):
    study = Transfer(run)
    study.build()
    assert found(study.answers(ONE_LOG, "seen").values()) == {1}
    assert found(study.answers("kv_last_round", "seen").values()) == {3}
    alone = study.answers("no_logs+passages=1", "unseen")
    assert {len(trace.rounds[0].passages) for trace in alone.values()} == {1}
    assert {len(trace.rounds[0].passages) for trace in study.answers("no_logs", "unseen").values()} == {2}


def test_a_stream_goes_on_under_the_limits_of_the_variant(run):
    online = Online(run, ONE_LOG)
    assert found(step.trace for step in online.stream(Rule(), 0)) == {0, 1}  # the first task finds the store empty
    online.references()
    assert found(online._static) == {1}


def test_losses_are_measured_under_the_limits_of_the_variant(run):
    loss = Loss(run, ONE_LOG, 1)
    loss._build()
    with run.store() as store:
        assert found(loss._ask("", store)) == {1}


def test_limits_are_refused_where_no_question_is_asked_in_rounds():
    with pytest.raises(ConfigError, match="changes limits of the agent"):
        reading_policy(ONE_LOG)


def test_runs_that_belong_to_another_have_stores_of_their_own(tmp_path, lm):
    """In one store their logs would be mixed."""
    settings = {"data": None, "world": WORLD, "log_questions": None, "store": str(tmp_path / "logs")}
    run = lms.small_run(tmp_path / "out", lm, **settings, max_rounds=1)
    study = Transfer(run, 0.5)
    study.build()
    other = forced(run)
    other.lm, other.embedder = lm, run.embedder
    other.build()
    for place, logs in (("logs", 6), ("logs-changed-0.5", 12), ("logs-forced", 6)):
        with LogStore.open(tmp_path / place) as store:
            assert len(store) == logs
    assert study.answers("kv_last_round", "unseen", Mix(changed=1.0))
