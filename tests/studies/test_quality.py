"""Stores of some of a run's logs: which are drawn and kept, by what, and what the questions find and answer then."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from lagkit.model.lm import LM
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.runs.fingerprints import of_logs
from lagkit.studies import quality
from lagkit.studies.quality import FILTERS, Logs, same_answer, says
from lagkit.types import Hit, Passage, Question, Round, Trace
from lagkit.util.errors import ConfigError, DataError
from tests.helpers.lms import ActingLM, new_lm, small_run

WORLD = {"entities": 90, "log_questions": 16, "unseen_questions": 6, "hops": [1, 2, 3]}


def test_answers_are_the_same_in_normal_form_and_none_is_no_answer():
    asked = Question("q", "?", ("x",))
    assert same_answer(asked, "The Danube.", "danube")
    assert not same_answer(asked, "Danube", "the Rhine")
    assert not same_answer(asked, None, None)
    assert not same_answer(asked, "Danube", None)


def test_answers_to_multiple_choice_are_the_same_if_they_name_one_option():
    asked = Question("q", "?", ("B",), kind="choice", choices=("x", "y", "z"))
    assert same_answer(asked, "(B)", "B) the Danube")
    assert not same_answer(asked, "(B)", "(C)")
    assert not same_answer(asked, "no idea", "no idea")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("river Danube", True),
        ("a THE River danube!", True),
        ("Ulm", True),
        ("Dan", False),
        ("Danube river", False),
        ("the", False),
        (None, False),
    ],
)
def test_an_answer_stands_in_a_passage_as_whole_words_in_a_row(answer, found):
    assert says(Passage("p", "Ulm", "It lies on the river Danube."), answer) is found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Experiment:
    """A small world on the testbed's model, which gets too few rounds for its longer questions."""
    config = RunConfig.of(
        "testbed",
        out=tmp_path_factory.mktemp("quality") / "run",
        world=WORLD,
        embedder="hash",
        max_rounds=2,
        splits=("unseen",),
        policies=("no_logs", "kv_last_round"),
    )
    return Experiment(config)


@pytest.fixture(scope="module")
def logs(run) -> Logs:
    made = Logs(run)
    made.build()
    return made


@pytest.fixture(scope="module")
def forced(logs) -> Logs:
    made = Logs(quality.forced(logs.run), logs.run)
    made.build()
    return made


def found(logs: Logs, kept: list[str]) -> set[str]:
    """The logs that the unseen questions found in any round, if there are these."""
    name = f"kv_last_round.unseen.only-{len(kept)}-{of_logs(kept)}"
    traces = logs.asked.journal(name).traces()
    assert len(traces) == WORLD["unseen_questions"]
    return {hit.id for trace in traces for round in trace.rounds for hit in round.logs}


def test_wrong_logs_are_of_two_kinds_and_forced_ones_all_have_an_answer(logs, forced):
    assert set(logs.table["kind"]) == {"right", "no answer"}
    assert set(forced.table["kind"]) == {"right", "wrong answer"}
    assert (logs.table["right"] == (logs.table["kind"] == "right")).all()
    assert logs.table["confidence"].notna().tolist() == logs.table["answered"].tolist()
    answered = set(logs.table.index[logs.table["answered"]])
    assert answered < set(forced.table.index)  # who answers in time is not forced


def test_mixtures_are_of_one_size_and_of_questions_of_one_length_and_differ_by_the_fewest_logs(logs):
    right, hops = logs.table["right"], logs.table["hops"]
    both = pd.crosstab(hops, right)
    assert len(logs.pairs) == both.min(axis=1).sum() > 1
    before: set[str] = set()
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixture = logs.mixture(share)
        assert len(set(mixture)) == len(mixture) == len(logs.pairs)
        assert hops[mixture].value_counts().to_dict() == {h: n for h, n in both.min(axis=1).items() if n}
        wrong = {log for log in mixture if not right[log]}
        assert len(wrong) == round(share * len(logs.pairs))
        assert before <= wrong
        before = wrong
    with pytest.raises(ConfigError, match=r"lies between 0 and 1, and 1\.5 does not"):
        logs.mixture(1.5)


def test_both_sources_draw_the_logs_of_the_same_questions(logs, forced):
    asked = [made.table.loc[made.at_random(9), "question_id"].tolist() for made in (logs, forced)]
    assert asked[0] == asked[1]
    assert logs.at_random(4) == logs.at_random(9)[:4]


def test_questions_find_the_chosen_logs_alone_and_equal_choices_are_answered_once(logs, monkeypatch):
    kept = logs.mixture(1.0)
    results = logs.results("kv_last_round", kept, "wrong")
    assert found(logs, kept) <= set(kept)
    assert found(logs, kept)
    assert set(results["policy"]) == {"wrong"}
    monkeypatch.setattr(LM, "generate", pytest.fail)
    pd.testing.assert_frame_equal(logs.results("kv_last_round", kept[::-1], "wrong"), results)


def test_all_logs_are_the_run_s_own_answers_and_none_are_as_no_logs(logs, monkeypatch):
    logs.results("kv_last_round", logs.keep("all"))
    nothing = logs.results("kv_last_round", [])
    assert found(logs, []) == set()
    difference = quality.against(logs, logs.without(), nothing)
    assert difference.loc[["em", "rounds"], "mean"].tolist() == [0, 0]
    monkeypatch.setattr(LM, "generate", pytest.fail)
    logs.run.answer("kv_last_round", "unseen")
    logs.run.answer("no_logs", "unseen")


def test_filters_keep_what_they_say(forced):
    table, again = forced.table, forced.again
    assert forced.keep("all") == list(table.index)
    assert set(forced.keep("right")) | set(forced.keep("wrong")) == set(table.index)
    assert set(forced.keep("answered")) == set(table.index[table["answered"]])
    agreeing = {id for id, t in forced.traces.items() if t.answer and again[t.question_id].answer == t.answer}
    assert set(forced.keep("agreement")) == agreeing
    assert 0 < len(agreeing) < len(table)
    sure = forced.keep("confidence")
    assert len(sure) == round(len(table) / 2)
    assert table.loc[sure, "confidence"].min() >= table["confidence"].drop(sure).max()
    told = {trace.policy for trace in again.values()}
    assert told == {"no_logs+passages=2"}


def test_an_answer_counts_as_supported_only_by_what_its_own_log_has_read(logs, monkeypatch):
    passages = logs.run.passages
    id = next(iter(passages._passages))
    read = Round("", "<ans>x</ans>", passages=(Hit(id, 1.0),))
    answer = passages.passage(id).title
    traces = {
        "a": Trace("q1", "?", "", (read,), answer=answer),
        "b": Trace("q2", "?", "", (replace(read, passages=()),), answer=answer),
        "c": Trace("q3", "?", "", (read,), answer="nowhere to be found"),
    }
    assert [log for log, trace in traces.items() if logs._supported(trace)] == ["a"]


def test_precision_and_recall_are_those_of_the_table(forced):
    judged = quality.judge(forced, ["all", "right", "wrong", "agreement"])
    right, kept = forced.table["right"], forced.keep("agreement")
    assert judged.loc[("agreement", "precision"), "mean"] == right[kept].mean()
    assert judged.loc[("agreement", "recall"), "mean"] == right[kept].sum() / right.sum()
    assert judged.loc[("agreement", "recall"), ["kept", "n"]].tolist() == [len(kept), right.sum()]
    assert judged.loc[("all", "precision"), "mean"] == right.mean()
    assert judged["mean"].xs("right").tolist() == [1, 1]
    assert judged["mean"].xs("wrong").tolist() == [0, 0]
    # A share of all or none is not certain: its interval has one open end.
    assert judged.loc[("right", "precision"), "low"] < 1 == judged.loc[("right", "precision"), "high"]
    assert (judged["low"] <= judged["mean"]).all()
    assert (judged["mean"] <= judged["high"] + 1e-12).all()


def test_a_choice_that_keeps_nothing_has_no_precision(logs, monkeypatch):
    monkeypatch.setattr(logs, "keep", lambda choice: [])
    judged = quality.judge(logs, ["answered"])
    assert list(judged.index) == [("answered", "recall")]
    assert judged["mean"].tolist() == [0]


def test_means_and_differences_by_share_are_paired_with_no_logs(logs):
    table = quality.by_share(logs, ["kv_last_round"], [0.0, 1.0])
    assert list(table["metric"]) == ["em", "f1", "rounds"] * 2
    assert (table["value"] - table["base"]).tolist() == pytest.approx(table["mean"].tolist())
    base = logs.without().set_index("question_id")
    own = logs.results("kv_last_round", logs.mixture(0.0)).set_index("question_id")
    rounds = table.query("metric == 'rounds' and share == 0").iloc[0]
    assert rounds["mean"] == pytest.approx((own["rounds"] - base["rounds"]).mean())
    assert rounds["reach"] == logs.reach(logs.mixture(0.0))
    shared = {hop.id for question in logs.run.log_questions for hop in question.hops}
    asked = logs.run.questions("unseen")
    assert logs.reach(logs.keep("all")) == sum(any(h.id in shared for h in q.hops) for q in asked) / len(asked)


def test_a_variant_s_own_limits_hold(logs):
    logs.results("kv_last_round+logs=1", logs.keep("right"))
    traces = logs.run.journal(
        f"kv_last_round+logs=1.unseen.only-{len(logs.keep('right'))}-{of_logs(logs.keep('right'))}"
    ).traces()
    assert {len(trace.rounds[0].logs) for trace in traces} == {1}


def test_gains_are_against_all_logs_and_against_as_many(forced):
    gained = quality.gains(forced, "kv_last_round", ["all", "wrong"])
    assert (gained.loc["all", "mean"] == 0).all()
    wrong = forced.results("kv_last_round", forced.keep("wrong"))
    drawn = forced.results("kv_last_round", forced.at_random(len(forced.keep("wrong"))))
    row = gained.loc[("wrong", "as many at random", "em")]
    assert (row["value"], row["base"]) == (wrong["em"].mean(), drawn["em"].mean())


def test_a_second_run_that_repeats_the_first_or_reuses_logs_is_refused(run, logs):
    same = Logs(run, second="no_logs+passages=1")
    with pytest.raises(ConfigError, match=r"no_logs\+passages=1 would only repeat the first run"):
        same.keep("agreement")
    with pytest.raises(ConfigError, match="is without logs, and 'kv_last_round' is not"):
        Logs(run, second="kv_last_round")
    with pytest.raises(ConfigError, match="There is no filter 'luck': use one of all, right, wrong, answered"):
        logs.keep("luck")
    for policy in ("kv_step", "no_logs"):
        with pytest.raises(ConfigError, match=f"{policy} reuses no whole logs"):
            logs.results(policy, logs.keep("all"))
    assert [logs.unusable(choice) for choice in FILTERS] == [""] * 4


def test_logs_that_do_not_tell_and_logs_of_one_kind_are_refused(tmp_path):
    # This model tells no log-probabilities of its made-up actions, and is never right.
    logs = Logs(small_run(tmp_path / "run", new_lm(ActingLM), log_questions=3))
    logs.build()
    with pytest.raises(ConfigError, match="build them anew to filter by confidence"):
        logs.keep("confidence")
    with pytest.raises(
        DataError, match="0 of 3 logs are right, and none of them belongs to a question of as many hops"
    ):
        logs.mixture(0.5)


def test_multiple_choice_has_no_passages_to_go_by(logs, monkeypatch):
    monkeypatch.setattr(logs.run, "data", replace(logs.run.data, kind="choice"))
    assert logs.unusable("supported").startswith("Multiple choice retrieves no passages")
    assert logs.unusable("agreement").startswith("no_logs+passages=2 would only repeat")
    assert logs.unusable("answered") == ""
