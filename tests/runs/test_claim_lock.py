"""Several processes and one run's folder: one writes, others are refused and change nothing, and anybody may read."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pandas as pd
import pytest

from lagkit.logs.store import LogStore
from lagkit.runs import load as finished
from lagkit.runs.executor import Local
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.util.errors import LagkitError
from tests.helpers import lms
from tests.helpers.killed import clean, needs_forks
from tests.helpers.lms import ActingLM, new_lm

pytestmark = needs_forks
PATIENCE = 300  # seconds; only what hangs takes so many, on a busy machine as well
REFUSED = r"Another process, or another run of this one, is writing to .*run: wait until it ends, or choose"


@pytest.fixture(scope="module")
def lm() -> ActingLM:
    return new_lm(ActingLM)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "run"


def small_run(out: Path, lm: ActingLM, **settings: object) -> Experiment:
    """A run of six logs, and of three questions under two policies."""
    return lms.small_run(out, lm, **{"policies": ("no_logs", "kv_last_round"), "splits": ("unseen",), **settings})


@pytest.fixture(scope="module")
def ended(tmp_path_factory, lm) -> tuple[Experiment, pd.DataFrame]:
    """A run that has ended, to copy, and its results."""
    run = small_run(tmp_path_factory.mktemp("runs") / "ended", lm)
    return run, run.run()


def _run_and_wait(out: Path, answers: int, reached: Event, go_on: Event) -> None:
    left, append = [answers], Journal.append

    def waiting(self: Journal, *told: object) -> None:
        if not left[0]:
            reached.set()
            go_on.wait()
        left[0] -= 1
        append(self, *told)

    Journal.append = waiting
    small_run(out, new_lm(ActingLM)).run()


@contextmanager
def working(out: Path, answers: int) -> Iterator[tuple[multiprocessing.Process, Event]]:
    """A process that runs in `out` and waits after so many answers until the event is set."""
    reached, go_on = clean.Event(), clean.Event()
    process = clean.Process(target=_run_and_wait, args=(out, answers, reached, go_on))
    process.start()
    try:
        assert reached.wait(PATIENCE)
        yield process, go_on
    finally:
        if process.is_alive():  # to wake up one that was killed would wait forever
            go_on.set()
            process.join(PATIENCE)
            process.kill()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def answered(out: Path) -> Counter[tuple[str, str]]:
    """How often each question was answered, by journal and question."""
    return Counter((p.stem, t.question_id) for p in (out / "traces").iterdir() for t in Journal(p).traces())


WAYS_IN: dict[str, Callable[[Path, ActingLM], object]] = {
    "run": lambda out, lm: small_run(out, lm).run(),
    "build": lambda out, lm: small_run(out, lm).build(),
    "other settings": lambda out, lm: small_run(out, lm, seed=7).run(),
    "fewer policies": lambda out, lm: small_run(out, lm, policies=("no_logs",)).run(),
}


# Before the first answer, between logs, and after them; the last two write half a line first.
@pytest.mark.parametrize("answers", [0, 2, 8])
def test_a_second_process_is_refused_and_changes_nothing(out, lm, answers):
    with working(out, answers) as (first, go_on):
        if answers:
            with (out / "traces" / "log.jsonl").open("ab") as journal:
                journal.write(b'{"question_id": "half a line, as the first process may have written it')
        before = files(out)
        for way, enter in WAYS_IN.items():
            said = rf"{REFUSED}|other settings \(seed" if way == "other settings" else REFUSED
            with pytest.raises(LagkitError, match=said):
                enter(out, lm)
            assert files(out) == before, way
        go_on.set()
        first.join(PATIENCE)
        assert first.exitcode == 0
    assert set(answered(out).values()) == {1}
    assert small_run(out, lm).run()["failed"].sum() == 0


def _run_with_others(out: Path, ready: Barrier) -> None:
    run = small_run(out, new_lm(ActingLM))
    ready.wait(PATIENCE)
    try:
        run.run()
    except LagkitError:
        os._exit(3)


@pytest.mark.parametrize("built", [False, True])
def test_a_process_that_starts_at_the_same_time_is_refused_whichever_it_is(out, lm, built):
    if built:  # what is left to do locks no store
        small_run(out, lm).encode()
    ready = clean.Barrier(3)
    processes = [clean.Process(target=_run_with_others, args=(out, ready)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    ends = [process.exitcode for process in processes]
    assert set(ends) <= {0, 3}
    assert 0 in ends
    assert set(answered(out).values()) == {1}


def test_a_killed_process_gives_the_folder_back(out, lm):
    with working(out, 4) as (first, _):
        os.kill(first.pid, signal.SIGKILL)
        first.join(PATIENCE)
        assert len(small_run(out, lm).run()) == 6
    assert set(answered(out).values()) == {1}


def test_what_is_there_can_be_read_while_another_process_writes(out, lm, ended):
    shutil.copytree(ended[0].out, out)
    with small_run(out, lm).writing():
        again, read = finished.reopen(out)
        assert len(read) == 6
        assert again.scored(again.config.policies, again.config.data.splits).equals(ended[1])
        reader = small_run(out, lm)
        assert len(reader.ask("log", None, "no_logs", reader.log_questions, None)) == 6
        with reader.store() as store:
            assert len(store) == 6
        with pytest.raises(LagkitError, match=REFUSED):
            reader.report()


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.build(),
        lambda run: run.encode(),
        lambda run: run.fill([]),
        lambda run: run.report(),
        lambda run: run.ask("new", None, "no_logs", run.questions("unseen"), None),
    ],
)
def test_everything_that_writes_has_the_folder_alone(
    out, lm, ended, write: Callable[[Experiment], object], monkeypatch
):
    shutil.copytree(ended[0].out, out)
    monkeypatch.setattr(LogStore, "add_many", pytest.fail)
    monkeypatch.setattr(Local, "answer", pytest.fail)
    with small_run(out, lm).writing():
        before = files(out)
        with pytest.raises(LagkitError, match=REFUSED):
            write(small_run(out, lm))
        assert files(out) == before


def test_one_experiment_after_the_other_in_one_process(out, lm):
    first, second = small_run(out, lm), small_run(out, lm)
    first.build()
    second.encode()
    pd.testing.assert_frame_equal(first.run(), second.run())
    with first.writing():
        first.build()
        with first.writing():
            first.encode()
        with pytest.raises(LagkitError, match=REFUSED):
            second.build()
    second.build()
