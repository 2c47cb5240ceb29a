"""Runs that are killed (SIGKILL) and resumed: the results of a run in one go, no log lost and none doubled."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lagkit.runs.claim import RECORD
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.types import Trace
from tests.helpers.killed import clean, die_at_sync, needs_forks
from tests.helpers.lms import ActingLM, new_lm, small_run

pytestmark = needs_forks


@pytest.fixture(scope="module")
def lm() -> ActingLM:
    return new_lm(ActingLM)


def _run(out: Path, syncs: int) -> None:
    die_at_sync(syncs)
    small_run(out, new_lm(ActingLM)).run()


def attempt(out: Path, *, syncs: int | None = None, seconds: float | None = None) -> bool:
    """Run, or resume, in a process that kills itself at its n-th sync, or is killed after so long; True if it ended."""
    process = clean.Process(target=_run, args=(out, syncs or 0))
    process.start()
    if seconds is not None:
        time.sleep(seconds)
        process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def traces(experiment: Experiment) -> dict[str, list[Trace]]:
    """All journals, sorted by question, without what a clock said."""
    found = {}
    for path in (experiment.out / "traces").iterdir():
        journal = [replace(t, rounds=tuple(timeless(r) for r in t.rounds)) for t in Journal(path).traces()]
        found[path.name] = sorted(journal, key=lambda trace: trace.question_id)
    return found


def timeless(round_):
    return replace(round_, usage=replace(round_.usage, seconds=0.0))


def blocks(experiment: Experiment) -> dict[str, dict[str, list]]:
    with experiment.store(write=True) as store:
        # A kill may leave a file that no log names, and nothing else; it goes when the store is pruned.
        assert set(store.verify()["problem"]) <= {"is an orphan: no log names this file"}
        assert set(store.prune()["log"]) <= {""}
        assert store.verify().empty
        logs = store.ids
        return {log: {key: store.block(log, key).keys.tolist() for key in store.block_keys(log)} for log in logs}


def assert_same_as_in_one_go(out: Path, lm: ActingLM, whole: tuple[Experiment, pd.DataFrame]) -> None:
    reference, expected = whole
    resumed = small_run(out, lm)
    assert traces(resumed) == traces(reference)
    # In the same order too: equal scores are ranked by it.
    assert list(blocks(resumed).items()) == list(blocks(reference).items())
    results = pd.read_parquet(out / "results.parquet")
    pd.testing.assert_frame_equal(results.drop(columns="seconds"), expected.drop(columns="seconds"))


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_sync_and_resumed(tmp_path, lm, whole, seed):
    drawn, kills = random.Random(seed), 0
    # Later and later: blocks are committed some at a time, and a kill before that undoes them for ever.
    while not attempt(tmp_path, syncs=drawn.randint(2, 14 + 2 * kills)):
        kills += 1
    assert kills >= 2
    assert_same_as_in_one_go(tmp_path, lm, whole)


def test_killed_at_any_time_and_resumed(tmp_path, lm, whole):
    seconds = json.loads((whole[0].out / "manifest.json").read_text())["sessions"][0]["seconds"]
    ended = [attempt(tmp_path, seconds=share * seconds) for share in (0.05, 0.2, 0.35, 0.15)]
    assert not ended[0]
    assert attempt(tmp_path)
    assert_same_as_in_one_go(tmp_path, lm, whole)


def test_killed_before_its_first_answer(tmp_path, lm, whole):
    assert not attempt(tmp_path, syncs=1)
    assert attempt(tmp_path)
    assert_same_as_in_one_go(tmp_path, lm, whole)


def test_torn_lines_are_answered_again(copied, lm, whole):
    """What a machine that lost power leaves: a last line that is not whole."""
    for path in (copied / "traces").iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    small_run(copied, lm).run()
    assert_same_as_in_one_go(copied, lm, whole)


def test_logs_stand_in_the_order_of_their_questions_whatever_ended_first(tmp_path, lm, whole):
    lines = (whole[0].out / "traces" / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "log.jsonl").write_bytes(b"".join(reversed(lines)))
    shutil.copy(whole[0].out / RECORD, tmp_path)
    experiment = small_run(tmp_path, lm)
    experiment.build()
    with experiment.store() as store:
        assert [t.question_id for t in store.traces()] == [q.id for q in experiment.log_questions]
