"""Streams of tasks: what a rule keeps, that each answer rests on what came before, and crashes at every moment."""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.logs.store import LogStore
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.studies.online import Kept, Online, Rule, recalled
from lagkit.types import Hit, Trace
from lagkit.util.errors import ConfigError, DataError
from tests.helpers.killed import clean, die_at_sync, needs_forks
from tests.helpers.lms import ActingLM, new_lm, small_run
from tests.helpers.stores import new_store, trace, vector

CAPPED = Rule(cap=2)


# Which logs a rule keeps


def task(i: int, *found: int, error: str | None = None) -> Trace:
    """Trace number `i`, which retrieved the logs of tasks `found` (those without hits) in its first round."""
    plain = replace(trace(i), rounds=tuple(replace(r, logs=()) for r in trace(i).rounds), error=error)
    hits = tuple(Hit(task(n).id, 0.5) for n in found)
    return replace(plain, rounds=(replace(plain.rounds[0], logs=hits), *plain.rounds[1:]))


def kept_of(rule: Rule, *tasks: Trace) -> list[str]:
    kept = Kept(rule)
    for number, one in enumerate(tasks):
        kept.take(one, vector(number))
    return list(kept.logs)


def ids(*numbers: int) -> list[str]:
    return [task(n).id for n in numbers]


def test_without_limits_every_log_is_kept_in_its_order_but_those_of_failed_tasks():
    assert kept_of(Rule(), task(0), task(1, error="too long"), task(2, 0)) == ids(0, 2)


def test_the_least_recalled_makes_room_and_of_equal_ones_the_oldest():
    assert kept_of(Rule(cap=2), task(0), task(1), task(2)) == ids(1, 2)
    assert kept_of(Rule(cap=2), task(0), task(1, 0), task(2, 0)) == ids(0, 2)
    # Task 3 recalled both: 0 was recalled twice, 2 once, although it is the younger.
    assert kept_of(Rule(cap=2), task(0), task(1, 0), task(2), task(3, 0, 2)) == ids(0, 3)


def test_a_task_counts_a_log_once_however_often_it_found_it():
    again = replace(task(2, 1), rounds=task(2, 1).rounds * 2)
    assert recalled(again) == {task(1).id}
    kept = Kept(Rule())
    for number, one in enumerate([task(1), again]):
        kept.take(one, vector(number))
    assert kept.recalls == {task(1).id: 1}


def test_a_double_is_not_added_and_does_not_make_room_for_itself():
    kept = Kept(Rule(dedup=0.9, cap=2))
    for number, direction in enumerate([0, 1, 0, 2]):
        kept.take(task(number), np.eye(8, dtype=np.float32)[direction])
    assert list(kept.logs) == ids(1, 3)
    kept = Kept(Rule(dedup=0.9, cap=2))
    for number, direction in enumerate([0, 1, 0]):
        kept.take(task(number), np.eye(8, dtype=np.float32)[direction])
    assert list(kept.logs) == ids(0, 1)


@given(st.lists(st.lists(st.integers(0, 11), max_size=3), max_size=12), st.integers(1, 5), st.floats(-1, 1))
def test_what_holds_for_every_stream(found, cap, dedup):
    tasks = [task(i, *{n for n in logs if n < i}) for i, logs in enumerate(found)]
    every, capped, doubles = (Kept(rule) for rule in (Rule(dedup=1.01), Rule(cap=cap), Rule(dedup=dedup)))
    for number, one in enumerate(tasks):
        for kept in (every, capped, doubles):
            kept.take(one, vector(number))
        assert len(capped.logs) == min(number + 1, cap)
        assert list(capped.logs)[-1] == one.id
    assert list(every.logs) == [one.id for one in tasks]
    vectors = [v for _, v in doubles.logs.values()]
    assert all(float(a @ b) < dedup for i, a in enumerate(vectors) for b in vectors[:i])


def test_a_store_is_brought_to_what_is_kept_in_its_order(tmp_path):
    kept = Kept(Rule(cap=2))
    with new_store(tmp_path / "store") as store:
        store.add(task(7), vector(7))
        for number in range(3):
            kept.take(task(number), vector(number))
        kept.write(store)
        assert store.ids == ids(1, 2)
        np.testing.assert_array_equal(store.embeddings(), np.stack([vector(1), vector(2)]))


def test_impossible_caps_are_refused_and_rules_have_names():
    with pytest.raises(ConfigError, match="cannot be capped at 0 logs"):
        Rule(cap=0)
    assert [str(r) for r in (Rule(), Rule(0.6), Rule(cap=30), Rule(0.6, 30))] == [
        "append",
        "dedup-0.6",
        "cap-30",
        "dedup-0.6.cap-30",
    ]


# Streams


@pytest.fixture(scope="module")
def lm() -> ActingLM:
    return new_lm(ActingLM)


def online(out: Path, lm: ActingLM, unseen: int = 2, rounds: int = 2) -> Online:
    sizes = {"log_questions": 3, "seen_questions": 1, "unseen_questions": unseen, "max_new_tokens": 2}
    sizes["max_rounds"] = rounds
    return Online(small_run(out, lm, **sizes), "kv_last_round")


@pytest.fixture(scope="module")
def streams(tmp_path_factory, lm) -> Online:
    """A run with its streams, for the tests that only look at it."""
    return online(tmp_path_factory.mktemp("online") / "run", lm)


def _stream(out: Path, syncs: int) -> None:
    die_at_sync(syncs)
    online(out, new_lm(ActingLM)).stream(CAPPED, 0)


def timeless(one: Trace) -> Trace:
    return replace(one, rounds=tuple(replace(r, usage=replace(r.usage, seconds=0.0)) for r in one.rounds))


def state(streams: Online, rule: Rule, number: int = 0) -> tuple:
    """All that a stream leaves: traces, what is in its store with its blocks, how often each log was recalled."""
    traces = [timeless(step.trace) for step in streams.stream(rule, number)]
    kept = Kept(rule)
    for one in traces:
        kept.take(one, streams.run.embedder.documents([one.key])[0])
    with streams.run.store(folder=streams.folder(rule, number) / "store", write=True) as store:
        store.prune()
        blocks = {log: {key: store.block(log, key).keys.tolist() for key in store.block_keys(log)} for log in store}
        assert store.ids == list(kept.logs)
    return traces, list(blocks.items()), kept.recalls


def test_orders_come_in_pairs_each_the_other_s_reverse(streams):
    orders = [[q.id for q in streams.order(number)] for number in range(4)]
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]
    assert orders[2] not in orders[:2]
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(q.id for q in streams.questions))}
    assert len(streams.questions) == 5


def test_the_first_task_is_answered_as_without_logs_and_later_ones_find_only_earlier_ones(streams):
    steps = streams.stream(Rule(), 0)
    without = {one.question_id: one for one in streams._without_logs}
    first = timeless(steps[0].trace)
    assert first.rounds == timeless(without[first.question_id]).rounds
    assert (first.answer, first.policy) == (without[first.question_id].answer, "kv_last_round")
    assert [step.logs for step in steps] == [1, 2, 3, 4, 5]
    for place, step in enumerate(steps[1:], 1):
        earlier = {one.trace.id for one in steps[:place]}
        assert recalled(step.trace)
        assert recalled(step.trace) <= earlier
        assert step.trace.usage.injected > 0


def test_a_store_of_one_log_never_has_more(streams):
    steps = streams.stream(Rule(cap=1), 0)
    assert [step.logs for step in steps] == [1] * 5
    for before, step in pairwise(steps):
        assert recalled(step.trace) == {before.trace.id}
    with streams.run.store(folder=streams.folder(Rule(cap=1), 0) / "store") as store:
        assert store.ids == [steps[-1].trace.id]


def test_a_threshold_that_no_similarity_reaches_is_as_none(streams):
    assert state(streams, Rule(dedup=1.01)) == state(streams, Rule())


def test_with_the_lowest_threshold_only_the_first_log_is_kept(streams):
    assert [step.logs for step in streams.stream(Rule(dedup=-1.0), 0)] == [1] * 5


def test_results_have_a_row_for_every_condition_order_and_task(streams):
    results = streams.results({"append": Rule(), "one": Rule(cap=1)}, 2)
    assert len(results) == 2 * 2 * 5
    assert results.groupby(["condition", "order"])["place"].apply(list).tolist() == [[1, 2, 3, 4, 5]] * 4
    assert results["split"].value_counts().to_dict() == {"seen": 12, "unseen": 8}
    assert results.query("condition == 'append'")["logs"].tolist() == [1, 2, 3, 4, 5] * 2
    assert (results["right_logs"] <= results["logs"]).all()
    assert (results["wrong_helpful"] <= results["helpful"]).all()
    references = streams.references()
    assert references["condition"].value_counts().to_dict() == {"no_logs": 5, "static": 5}


def test_no_log_question_finds_its_own_log_in_the_static_store(streams):
    own = {one.question_id: one.id for one in streams.run.logs}
    for one in streams._static:
        assert recalled(one)
        assert own.get(one.question_id) not in recalled(one)


def test_stores_say_what_they_hold(streams):
    table = streams.stores({"append": Rule(), "one": Rule(cap=1)}, 1)
    assert table["logs"].to_dict() == {"append": 5, "one": 1, "static": 3}
    # The last log was recalled by no task: only once a log is recalled, its KV is made.
    assert table.loc["one", ["recalled", "bytes"]].tolist() == [0, 0]
    assert 0 < table.loc["append", "recalled"] <= 0.8
    assert table.loc["append", "bytes"] > 0
    right = [bool(step.trace.correct) for step in streams.stream(Rule(), 0)]
    assert table.loc["append", "right"] == np.mean(right)


def test_what_is_answered_is_not_answered_again(streams, monkeypatch):
    before = state(streams, CAPPED)
    monkeypatch.setattr(ActingLM, "generate", pytest.fail)
    assert state(Online(Experiment(streams.run.config, lm=streams.run.lm), "kv_last_round"), CAPPED) == before


def test_policies_without_logs_or_with_steps_as_logs_are_refused(streams):
    with pytest.raises(ConfigError, match="no_logs reuses no whole logs"):
        Online(streams.run, "no_logs")
    with pytest.raises(ConfigError, match="kv_step reuses no whole logs"):
        Online(streams.run, "kv_step")


def test_a_journal_of_another_order_is_refused(streams):
    streams.stream(Rule(cap=4), 0)
    folder = streams.folder(Rule(cap=4), 2)
    shutil.copytree(streams.folder(Rule(cap=4), 0), folder)
    with pytest.raises(DataError, match="is not the beginning of its stream"):
        streams.stream(Rule(cap=4), 2)


# Crashes


class Crash(Exception):
    pass


def crashing(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """From now on, crash at the call number `step` of those that write: odd steps before the call, even ones after."""
    left = [step]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash

    def counted(original):
        def call(*args, **kwargs):
            tick()
            result = original(*args, **kwargs)
            tick()
            return result

        return call

    monkeypatch.setattr(Journal, "append", counted(Journal.append))
    for name in ("add", "delete", "put_block"):
        monkeypatch.setattr(LogStore, name, counted(getattr(LogStore, name)))


def test_a_stream_that_crashed_at_any_step_goes_on_as_if_it_had_not(tmp_path, lm):
    least = {"unseen": 1, "rounds": 1}
    whole, step = state(online(tmp_path / "whole", lm, **least), CAPPED), 0
    assert len(whole[1]) == 2
    while True:
        step += 1
        out = tmp_path / str(step)
        with pytest.MonkeyPatch.context() as patched:
            crashing(patched, step)
            try:
                online(out, lm, **least).stream(CAPPED, 0)
                break
            except Crash:
                pass
        assert state(online(out, lm, **least), CAPPED) == whole
    # Before and after each of 4 answers, 4 additions, 2 evictions and at least as many encodings.
    assert step > 2 * (4 + 4 + 2 + 2)


@needs_forks
def test_a_stream_that_was_killed_again_and_again_goes_on_as_if_it_had_not(tmp_path, lm, streams):
    whole, drawn, ends = state(streams, CAPPED), random.Random(0), []

    while 0 not in ends:
        process = clean.Process(target=_stream, args=(tmp_path / "run", drawn.randint(3, 9 + len(ends))))
        process.start()
        process.join(60)
        ends.append(process.exitcode)
    assert ends.count(-signal.SIGKILL) == len(ends) - 1 >= 2
    assert state(online(tmp_path / "run", lm), CAPPED) == whole


def test_a_torn_line_is_answered_again(tmp_path, lm, streams):
    whole = state(streams, CAPPED)
    shutil.copytree(streams.run.out, tmp_path / "run")
    path = online(tmp_path / "run", lm).folder(CAPPED, 0) / "traces.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert state(online(tmp_path / "run", lm), CAPPED) == whole


def test_a_lost_store_is_filled_again(tmp_path, lm, streams):
    state(streams, CAPPED)
    shutil.copytree(streams.run.out, tmp_path / "run")
    again = online(tmp_path / "run", lm)
    shutil.rmtree(again.folder(CAPPED, 0) / "store")
    again.stream(CAPPED, 0)
    with again.run.store(folder=again.folder(CAPPED, 0) / "store") as store:
        assert store.ids == [log for log, _ in state(streams, CAPPED)[1]]
