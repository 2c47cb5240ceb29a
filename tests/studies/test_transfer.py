"""Stores of known composition: which logs a question may find, what came of them, and the threshold that is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lagkit.model.lm import LM
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.studies.transfer import ALL, KINDS, Mix, Transfer, choose, kind_of, transfer
from lagkit.types import Hop, Question
from lagkit.util.errors import ConfigError, DataError
from tests.helpers.lms import ActingLM, new_lm, small_run

WORLD = {"entities": 90, "log_questions": 8, "unseen_questions": 6, "hops": [1, 2]}


def question(**told: str) -> Question:
    """A question whose hops have these answers."""
    return Question("q", "?", ("x",), hops=tuple(Hop(id, "?", answer) for id, answer in told.items()))


@pytest.mark.parametrize(
    ("logged", "kind"),
    [
        ({"a": "1", "b": "2"}, "helpful"),
        ({"b": "2", "c": "9"}, "helpful"),
        ({"c": "3"}, "irrelevant"),
        ({}, "irrelevant"),
        ({"a": "9"}, "contradicting"),
        ({"a": "1", "b": "9"}, "contradicting"),
    ],
)
def test_the_kind_of_a_log_goes_by_the_hops_that_it_shares(logged, kind):
    assert kind_of(question(a="1", b="2"), question(**logged)) == kind


@pytest.mark.parametrize("shares", [{"removed": -0.1}, {"changed": 1.1}, {"removed": 0.6, "changed": 0.6}])
def test_impossible_mixes_are_refused(shares):
    with pytest.raises(ConfigError, match="give shares that add up to at most 1"):
        Mix(**shares)


def test_data_without_hops_are_refused(tmp_path, monkeypatch):
    run = small_run(tmp_path, new_lm(ActingLM))
    bare = tuple(replace(question, hops=()) for question in run.data.seen)
    monkeypatch.setattr(run, "data", replace(run.data, seen=bare))
    with pytest.raises(DataError, match=r"there are no strata\. So helpful logs cannot be told from irrelevant ones"):
        Transfer(run)


def test_transfer_counts_both_sides():
    before = [0, 0, 0, 1, 1, 1, 1, 0]
    after = [1, 1, 1, 0, 1, 1, 1, 0]
    ids = [f"q{i}" for i in range(8)]
    outcomes = pd.DataFrame({"without": before, "with_logs": after}, index=ids, dtype=bool)
    found = transfer(outcomes, {id: (str(i // 2),) for i, id in enumerate(ids)})
    assert found["mean"].to_dict() == {"positive": 3 / 8, "negative": 1 / 8, "net": 2 / 8}
    assert (found["effective"] == 4).all()
    assert (found["low"] <= found["mean"]).all()
    assert (found["mean"] <= found["high"]).all()
    assert found.loc["negative", "low"] > 0  # a share is never below 0: one of eight questions was lost


def test_of_equally_good_thresholds_the_lowest_is_chosen():
    sweep = pd.DataFrame({"right": [0.5, 0.6, 0.7, 0.7]}, index=[ALL, 0.4, 0.6, 0.5])
    assert choose(sweep) == 0.5
    assert choose(sweep.assign(right=0.5)) == ALL


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Transfer:
    """A small world on the testbed's model, its logs built."""
    out = tmp_path_factory.mktemp("transfer") / "run"
    asked = {"splits": ("unseen",), "policies": ("no_logs", "kv_last_round"), "max_rounds": 2}
    study = Transfer(Experiment(RunConfig.of("testbed", out=out, world=WORLD, embedder="hash", **asked)))
    study.build()
    return study


def found(study: Transfer, mix: Mix, split: str = "unseen") -> dict[str, set[str]]:
    """Question id -> the logs that it found in any round."""
    traces = study.answers("kv_last_round", split, mix)
    return {id: {hit.id for round in trace.rounds for hit in round.logs} for id, trace in traces.items()}


def logs_of(run: Experiment) -> set[str]:
    return {trace.id for trace in run.logs}


def test_as_they_are_the_logs_are_those_of_the_run_and_so_are_its_answers(study, monkeypatch):
    assert set().union(*found(study, Mix()).values()) <= logs_of(study.run)
    monkeypatch.setattr(LM, "generate", pytest.fail)
    study.run.answer("kv_last_round", "unseen")


def test_no_question_finds_its_own_log_in_either_world(study):
    own = {t.question: t.id for t in study.run.logs}
    twins = {t.question: t.id for t in study.changed.logs}
    for mix in (Mix(), Mix(changed=1.0)):
        for question in study.run.log_questions:
            logs = found(study, mix, "seen")[question.id]
            assert logs
            assert not logs & {own[question.text], twins[question.text]}


def test_removed_logs_leave_irrelevant_ones(study):
    assert set(study.outcomes("kv_last_round", "unseen", Mix(removed=1.0))["kind"]) == {"irrelevant"}
    assert "helpful" in set(study.outcomes("kv_last_round", "unseen")["kind"])


def test_a_question_s_kind_is_that_of_its_worst_log_and_its_similarity_that_of_the_best_of_these(study):
    outcomes = study.outcomes("kv_last_round", "unseen", Mix(changed=1.0))
    logged = {t.id: q for q in study.changed.log_questions for t in study.changed.logs if t.question == q.text}
    traces = study.answers("kv_last_round", "unseen", Mix(changed=1.0))
    for asked in study.run.questions("unseen"):
        hits = [hit for round in traces[asked.id].rounds for hit in round.logs]
        scores = {kind: [h.score for h in hits if kind_of(asked, logged[h.id]) == kind] for kind in KINDS}
        worst = next(kind for kind in KINDS if scores[kind])
        assert tuple(outcomes.loc[asked.id, ["kind", "best"]]) == (worst, max(scores[worst]))


def test_changed_logs_are_those_of_the_changed_world(study):
    assert set().union(*found(study, Mix(changed=1.0)).values()) <= logs_of(study.changed)
    assert "contradicting" in set(study.outcomes("kv_last_round", "unseen", Mix(changed=1.0))["kind"])


def test_each_place_holds_one_log_and_shares_are_nested_and_exact(study):
    other = replace(study.run.log_questions[0], id="other", hops=())
    pool = logs_of(study.run) | logs_of(study.changed)
    before: set[str] = set()
    for share in (0.0, 0.25, 0.5, 1.0):
        in_reach = pool - study._out_of_reach(other, Mix(changed=share))
        assert len(in_reach) == 8
        swapped = in_reach - logs_of(study.run)
        assert len(swapped) == round(8 * share)
        assert before <= swapped
        before = swapped


def test_a_sweep_is_paired_with_all_logs_and_a_high_threshold_is_as_no_logs(study):
    sweep = study.sweep("kv_last_round", [0.4, 1.0])
    assert list(sweep.index) == [ALL, 0.4, 1.0]
    assert sweep.loc[ALL, "mean"] == 0
    assert sweep.loc[ALL, ["low", "high"]].isna().all()  # nothing is compared with itself
    np.testing.assert_allclose(sweep["mean"], sweep["right"] - sweep.loc[ALL, "right"])
    assert sweep.loc[1.0, ["positive", "negative"]].tolist() == [0, 0]
    assert not any(
        t.usage.injected and any(r.logs for r in t.rounds)
        for t in study.answers("kv_last_round", "seen", min_similarity=1.0).values()
    )


def test_what_is_answered_is_not_answered_again(study, monkeypatch):
    mix = Mix(removed=0.5, changed=0.5)
    first = study.outcomes("kv_last_round", "unseen", mix)
    monkeypatch.setattr(LM, "generate", pytest.fail)
    again = Transfer(Experiment(study.run.config, lm=study.run.lm, embedder=study.run.embedder))
    again.build()
    pd.testing.assert_frame_equal(again.outcomes("kv_last_round", "unseen", mix), first)


def test_data_that_are_no_test_world_have_no_changed_logs(tmp_path):
    study = Transfer(small_run(tmp_path / "run", new_lm(ActingLM)))
    assert study.changed is None
    study.build()
    outcomes = study.outcomes("kv_last_round", "unseen", Mix(removed=1.0))
    assert len(outcomes) == 3
    assert set(outcomes["kind"]) == {"irrelevant"}
    with pytest.raises(ConfigError, match="Only test worlds can be changed"):
        study.answers("kv_last_round", "unseen", Mix(changed=0.5))


def test_an_impossible_share_of_facts_is_refused_before_anything_is_answered(tmp_path):
    run = Experiment(RunConfig.of("testbed", out=tmp_path / "run", world=WORLD))
    with pytest.raises(ConfigError, match="contradicted: Input should be less than or equal to 1"):
        Transfer(run, 1.5)
    assert not (run.out / "traces").exists()
