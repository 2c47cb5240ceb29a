"""Faults on experiments and their journals."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd

from lagkit.datasets import loaders as data
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.types import Trace
from tests.faults import processes
from tests.faults.damage import flip, tear
from tests.faults.kinds import kind, refusal
from tests.faults.refusals import strange_clock
from tests.faults.stores import ORPHAN
from tests.helpers.lms import SAMPLE, ScriptedLM, new_lm, small_run
from tests.helpers.stores import trace


@cache
def _lm() -> ScriptedLM:
    return new_lm(ScriptedLM)


def experiment(out: Path) -> Experiment:
    """A run of three logs and two questions under two policies, whose every question takes two rounds."""
    sample = data.load(SAMPLE)
    said = [" I look. <keywords>sea</keywords>", " It is <ans>Rome</ans>"] * 9
    lm = _lm().play({question.text: said for question in (*sample.seen, *sample.unseen)})
    sizes = {"log_questions": 3, "unseen_questions": 2, "splits": ("unseen",), "policies": ("no_logs", "kv_last_round")}
    return small_run(out, lm, **sizes)


def results(out: Path) -> tuple[pd.DataFrame, dict[str, list[Trace]]]:
    """The table and the logs of a finished run, without what a clock said."""
    run = experiment(out)
    with run.store(write=True) as store:
        problems = store.verify()
        assert set(problems["problem"]) <= {ORPHAN}
        store.prune()
        assert store.verify().empty
        logs = {t.id: [replace(r, usage=replace(r.usage, seconds=0.0)) for r in t.rounds] for t in store.traces()}
        assert all(store.block_keys(log) == ["responses.last_round.bare"] for log in logs)
    return pd.read_parquet(out / "results.parquet").drop(columns="seconds"), logs


@cache
def whole() -> tuple[pd.DataFrame, dict[str, list[Trace]]]:
    """The results of the run in one go."""
    folder = Path(mkdtemp(prefix="lagkit-faults-"))
    experiment(folder).run()
    try:
        return results(folder)
    finally:
        shutil.rmtree(folder)


def same_as_in_one_go(out: Path) -> None:
    (table, logs), (expected, expected_logs) = results(out), whole()
    pd.testing.assert_frame_equal(table, expected)
    assert list(logs.items()) == list(expected_logs.items()), "the logs are others than those of a run in one go"


def running(out: Path) -> Iterator[None]:
    experiment(out).run()
    yield


@kind("kill -9 of an experiment")
def _kill_experiment(rng: random.Random, folder: Path) -> str:
    out = folder / "run"
    ended = processes.kill(rng, "running", lambda: running(out), lambda: lambda: running(Path(mkdtemp(dir=folder))))
    experiment(out).run()
    same_as_in_one_go(out)
    return "resumed to the same results" if ended.killed else "done before the kill"


@kind("clock going back in an experiment")
def _clock(rng: random.Random, folder: Path) -> str:
    with strange_clock(rng):
        experiment(folder / "run").run()
    same_as_in_one_go(folder / "run")
    return "the same results"


@kind("torn or flipped journal")
def _damaged_journal(rng: random.Random, folder: Path) -> str:
    book, told = Journal(folder / "log.jsonl"), [trace(i) for i in range(4)]
    for one in told:
        book.append(one)
    rng.choice([tear, flip])(rng, book.path)
    if said := refusal(book.traces):
        assert f"of {book.path} is damaged" in said
        return "line named"
    found = book.traces()
    assert found == told[: len(found)], "a trace is not what was written"
    for one in told[len(found) :]:
        book.append(one)
    assert book.traces() == told
    return "torn end, written again"
