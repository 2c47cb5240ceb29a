"""Runs by workers on a real Ray cluster: a run in one process's results, whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.runs.manifest import read_manifest
from lagkit.runs.workers import Workers
from lagkit.util.errors import ClusterError, EndpointError
from tests.helpers.clusters import mortal, of_session
from tests.helpers.lms import ActingLM, new_lm, small_run
from tests.runs.test_resume import assert_same_as_in_one_go

pytest.importorskip("ray", reason="needs Ray: pip install 'lagkit[cluster]'")

from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError

from lagkit.runs.workers.start import cluster

fork = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
LATE = 75  # exit code of a driver whose Ray did not start in time
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")


@pytest.fixture(scope="module")
def lm() -> ActingLM:
    return new_lm(ActingLM)


@pytest.fixture(scope="module")
def head() -> Iterator[SimpleNamespace]:
    """A Ray of two processors, kept by a process of its own: its `address`, and the `session` of its processes."""
    ours, theirs = fork.Pipe()

    def keep() -> None:
        import ray

        os.setsid()
        with cluster(None, 2):
            theirs.send(ray.get_runtime_context().gcs_address)
            theirs.recv()

    keeper = fork.Process(target=keep)
    keeper.start()
    assert ours.poll(60)
    yield SimpleNamespace(address=ours.recv(), session=keeper.pid)
    ours.send("that is all")
    keeper.join(60)
    assert keeper.exitcode == 0
    assert of_session(keeper.pid) == []


@pytest.fixture(scope="module")
def connected(head) -> Iterator[None]:
    """This process as a driver; what is forked has to be forked before, without Ray's threads."""
    with cluster(head.address, 2):
        yield


def interrupted(run: Experiment, kill: signal.Signals, tries: int = 3, **workers: Any) -> int:
    """A run in a session of its own whose driver gets a signal after two answers; its id once it has ended.

    tries: how often, as Ray gives its own start up after seconds where a machine is busy.
    """
    journal = Journal(run.out / "traces" / "log.jsonl")

    def child() -> None:
        os.setsid()
        try:
            with Workers(run, 1, load=mortal(seconds=0.2), **workers):
                run.run()
        except KeyboardInterrupt:
            os._exit(130)
        except ClusterError as error:
            if "timed out during startup" not in str(error):
                raise
            raise SystemExit(LATE) from error

    driver = fork.Process(target=child)
    driver.start()
    while driver.is_alive() and len(journal.traces()) < 2:
        time.sleep(0.02)
    if not driver.is_alive() and driver.exitcode == LATE and tries > 1:
        return interrupted(run, kill, tries - 1, **workers)
    os.kill(driver.pid, kill)
    driver.join(300)
    assert driver.exitcode == {signal.SIGINT: 130, signal.SIGTERM: 128 + signal.SIGTERM}.get(kill, -kill)
    assert 2 <= len(journal.traces()) < 6
    return driver.pid


def ended(session: int, *but: str) -> bool:
    """Whether all processes of a session end soon, but those of these names."""
    deadline = time.monotonic() + 30
    while set(of_session(session)) - set(but):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_driver_that_is_killed_takes_its_workers_along_and_its_run_resumes(tmp_path, head, lm, whole):
    interrupted(small_run(tmp_path, None, batch_size=1), signal.SIGKILL, address=head.address)
    deadline = time.monotonic() + 30
    while "ray::Worker" in of_session(head.session):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    small_run(tmp_path, lm).run()
    assert_same_as_in_one_go(tmp_path, lm, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_ray_of_our_own_ends_with_the_driver(tmp_path, monkeypatch, kill):
    with tempfile.TemporaryDirectory() as folder:  # its name is short: sockets in it may have 107 characters
        monkeypatch.setenv("RAY_TMPDIR", folder)
        session = interrupted(small_run(tmp_path, None, batch_size=1), kill)
        # Two helpers of a Ray that was killed wait a minute for it to come back.
        assert ended(session, *(["ray::DashboardA", "ray::RuntimeEnv"] if kill == signal.SIGKILL else []))
        assert bool(os.listdir(folder)) == (kill == signal.SIGKILL)


def test_an_address_at_which_nobody_answers_is_named(tmp_path):
    sentence = r"^The Ray cluster '127.0.0.1:1' cannot be used \(.*refused\)\.$"
    with pytest.raises(ClusterError, match=sentence), Workers(small_run(tmp_path, None), 1, address="127.0.0.1:1"):
        pass


@pytest.mark.slow
def test_workers_that_are_killed_in_every_stage_cost_nothing(tmp_path, connected, lm, whole, capfd, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    fatal = tmp_path / "fatal"
    fatal.mkdir()
    for stage in ("log", "encode", "answer"):
        (fatal / stage).touch()
    run = small_run(tmp_path / "run", None)
    with Workers(run, 2, threads=1, load=mortal(fatal)):
        run.run()
    assert list(fatal.iterdir()) == []
    assert run.workers is None
    assert "lm" not in vars(run)  # the driver needs no model
    assert_same_as_in_one_go(run.out, lm, whole)
    assert_equal_blocks(run, whole[0])
    assert sorted(path.name for path in run.out.iterdir()) == sorted(path.name for path in whole[0].out.iterdir())
    [session] = read_manifest(run.out)["sessions"]
    assert {name: session["workers"][name] for name in ("count", "gpus", "threads")} == {
        **{"count": 2, "gpus": 0, "threads": 1},
    }
    said = capfd.readouterr()
    deaths = [line for line in said.err.splitlines() if "worker died" in line]
    assert len(deaths) == 3
    assert set(deaths) == {
        "A worker died (its process was killed, as it is when memory runs out, or crashed); another takes its place, "
        "and what it had in hand is done again."
    }
    assert "raylet" not in said.out + said.err


def assert_equal_blocks(run: Experiment, other: Experiment) -> None:
    """Bit by bit."""
    with other.store(folder=run.out / "store") as ours, other.store() as theirs:
        for log in theirs:
            for key in theirs.block_keys(log):
                made, expected = ours.block(log, key), theirs.block(log, key)
                assert torch.equal(made.keys, expected.keys)
                assert torch.equal(made.values, expected.values)


# Workers without a model, which start at once


def pool(count: int = 2):
    """Workers whose results are the items, but `die` and files that are missing, which kill them, and errors."""
    import ray

    from lagkit.runs.workers.pool import Pool

    class Frail:
        def arrive(self, version): ...

        def greet(self):
            return "hello"

        def work(self, items):
            for key, item in items:
                if isinstance(item, Path) and not item.exists():
                    item.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if item == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if isinstance(item, Exception):
                    raise item
                yield key, item

    return Pool(ray.remote(num_cpus=0)(Frail).remote, count)


@pytest.fixture(scope="module")
def frail(connected):
    """Two of them for all tests that leave them as they were."""
    workers = pool()
    yield workers
    workers.close()


def done_by(workers, items: list) -> list:
    return list(workers.run("work", range(len(items)), items.__getitem__, room=4))


def test_every_item_is_done_once(frail):
    assert sorted(done_by(frail, list("abcdefghijk"))) == list(enumerate("abcdefghijk"))


def test_work_that_is_broken_off_leaves_no_results_to_the_next(frail):
    stream = frail.run("work", range(9), "abcdefghi".__getitem__, room=4)
    key, item = next(stream)
    assert item == "abcdefghi"[key]
    stream.close()
    assert sorted(done_by(frail, ["y", "z"])) == [(0, "y"), (1, "z")]


def test_errors_of_a_worker_are_raised_as_what_they_are(frail):
    with pytest.raises(EndpointError) as told:
        done_by(frail, ["a", EndpointError("The endpoint is down.")])
    assert (type(told.value), str(told.value)) == (EndpointError, "The endpoint is down.")
    assert not hasattr(told.value, "__notes__")
    with pytest.raises(KeyError) as told:
        done_by(frail, [KeyError("x")])
    assert type(told.value) is KeyError
    assert "Frail.work" in told.value.__notes__[0]  # where it happened: it is a fault of the program


def test_an_item_that_kills_its_workers_ends_with_an_error_and_the_others_are_done(frail):
    found = dict(done_by(frail, ["a", "b", "die", "c", "d", "e", "f"]))
    error = found.pop(2)
    assert found == {0: "a", 1: "b", 3: "c", 4: "d", 5: "e", 6: "f"}
    assert isinstance(error, ClusterError)
    assert str(error) == (
        "it took 3 workers with it, the last one alone (its process was killed, as it is when memory runs out, or "
        "crashed)"
    )


def test_a_policy_that_kills_its_workers_is_named():
    death = ClusterError("it took 3 workers with it, the last one alone (its node ran out of memory)")
    workers = SimpleNamespace(pool=SimpleNamespace(run=lambda *given: iter([("kv_last_round", death)])))
    with pytest.raises(ClusterError) as told:
        Workers.block_keys(workers, "kv_last_round")
    assert str(told.value) == f"No worker can tell the blocks of kv_last_round: {death}. Give each more memory."


def test_a_worker_that_dies_once_is_replaced_and_its_item_is_done(frail, tmp_path):
    assert done_by(frail, [tmp_path / "marker"]) == [(0, tmp_path / "marker")]


def test_workers_that_die_of_everything_are_given_up(connected, monkeypatch):
    monkeypatch.setattr("lagkit.runs.workers.pool.LIVES", 2)
    workers = pool(1)
    with pytest.raises(ClusterError, match=r"^2 workers died one after the other with nothing done \(its process was"):
        done_by(workers, ["die"] * 20)
    workers.close()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "its node ran out of memory"),
        (NodeDiedError("The node has died."), "its node was lost"),
        (
            ActorDiedError(),
            "The actor died unexpectedly before finishing this task.",
        ),
    ],
)
def test_the_cause_of_a_death_is_told_in_a_few_words(error, cause):
    from lagkit.runs.workers.pool import cause_of

    assert cause_of(error) == cause


def test_a_worker_that_cannot_start_says_why(connected):
    import ray

    from lagkit.runs.workers.pool import Pool

    class Stillborn:
        def __init__(self):
            raise ModuleNotFoundError("No module named 'lagkit'")

        def arrive(self, version): ...

    workers = Pool(ray.remote(num_cpus=0)(Stillborn).remote, 1)
    with pytest.raises(ClusterError, match=r"cannot start: ModuleNotFoundError: No module named 'lagkit'\. Each node"):
        workers.greeting()


def test_workers_for_whom_there_is_no_room_are_not_waited_for_forever(connected, monkeypatch):
    import ray

    from lagkit.runs.workers import pool as pools

    monkeypatch.setattr(pools, "PATIENCE", 0.3)
    greedy = ray.remote(num_cpus=1000)(type("Greedy", (), {"arrive": lambda self, version: None}))
    with pytest.raises(ClusterError, match=r"No worker has started within 0\.3 s: the cluster has 2 processors and 0"):
        pools.Pool(greedy.remote, 1).greeting()
