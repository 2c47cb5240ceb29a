"""Systems that refuse, other writers, and clocks that go back."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lagkit.logs.store import LogStore
from lagkit.model.kv import KVBlock
from lagkit.util.errors import StoreLocked
from tests.faults import processes
from tests.faults.kills import WORK, Steps, possible, prepared, shrinking
from tests.faults.kinds import kind
from tests.faults.stores import (
    FIRST,
    Holds,
    add,
    both,
    lacking,
    look_over,
)


@contextmanager
def failing(rng: random.Random, code: int) -> Iterator[None]:
    """One of the next calls that change files fails with that error of the system, and so do all after it."""
    left = [rng.randint(1, 12)]

    def broken(call: Callable) -> Callable:
        def tried(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(code, os.strerror(code))
            return call(*args, **kwargs)

        return tried

    calls = ((os, "fsync"), (os, "replace"), (Path, "mkdir"), (KVBlock, "save"), (shutil, "copyfileobj"))
    patches = [patch.object(where, name, broken(getattr(where, name))) for where, name in calls]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def hindered(path: Path, work: Steps, around: Callable[[], Any]) -> processes.Ended:
    """Do the work in a child under `around`."""

    def steps() -> Iterator[None]:
        with around():
            yield from work(path)

    return processes.run(steps)


def outcome(path: Path, work: Steps, ended: processes.Ended) -> str:
    """The work was done or refused with a sentence, and the store is as after one of its steps."""
    look_over(path, possible(work, len(ended.done)))
    return "done all the same" if ended.refusal is None else "refused, nothing lost"


@kind("full disk")
def _full_disk(rng: random.Random, folder: Path) -> str:
    work = rng.choice(list(WORK))
    path, limit = prepared(folder), rng.randint(0, 80_000)

    @contextmanager
    def full() -> Iterator[None]:
        if rng.random() < 0.5:  # files cannot grow beyond this, which SQLite and safetensors learn from the system
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            yield
        else:
            with failing(rng, errno.ENOSPC):
                yield

    ended = hindered(path, work, full)
    if work is shrinking and (gone := lacking(path)):  # room was made of logs that had to go, and was not enough
        look_over(path, halfway(), gone)
        return "refused, nothing lost but blocks of logs that had to go"
    return outcome(path, work, ended)


def halfway() -> list[Holds]:
    """What a store may hold whose oldest logs are being removed, files first."""
    whole = frozenset(both(FIRST)[FIRST[0]])
    parts = [frozenset(), *(frozenset([key]) for key in whole)]
    return [
        {**both(FIRST[start:]), **dict.fromkeys(FIRST[start:last], frozenset()), FIRST[last]: part}
        for start in range(len(FIRST))
        for last in range(start, len(FIRST))
        for part in parts
    ]


NOBODY = 65534


@kind("permission denied")
def _permission_denied(rng: random.Random, folder: Path) -> str:
    work = rng.choice(list(WORK))
    path = prepared(folder)
    every = [path, *path.rglob("*")]
    hit = rng.sample(every, rng.randint(1, 3))
    modes = {file: file.stat().st_mode & 0o777 for file in every}
    root = os.geteuid() == 0
    for file in [folder, folder / "logs.tar", *every]:
        if root:
            os.chown(file, NOBODY, NOBODY)
    for file in hit:
        file.chmod(rng.choice([0o000, 0o444 if file.is_file() else 0o555, 0o222 if file.is_file() else 0o333]))

    @contextmanager
    def nobody() -> Iterator[None]:
        if root:  # whom permissions do not concern
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        yield

    try:
        ended = hindered(path, work, nobody)
    finally:
        for file, mode in modes.items():
            if file.exists():
                file.chmod(mode)
    return outcome(path, work, ended)


# Other processes, other clocks


@kind("two writers")
def _two_writers(rng: random.Random, folder: Path) -> str:
    path = prepared(folder)
    waits = [rng.uniform(0, 0.02) for _ in range(2)]

    def writing(mine: int) -> Callable[[], Iterator[str]]:
        def steps() -> Iterator[str]:
            time.sleep(waits[mine])
            left = [11 + mine, 13 + mine]
            until = time.monotonic() + 50
            while left and time.monotonic() < until:
                try:
                    with LogStore.open(path, write=True) as store:
                        add(store, left[:1])
                        store.prune()  # would clear away what another writer has not committed yet
                    left.pop(0)
                except StoreLocked:
                    yield "locked"
                    time.sleep(0.002)
            yield "left" if left else "added"

        return steps

    other = processes.fork.Process(target=_quietly, args=(writing(0),))
    other.start()
    ended = processes.run(writing(1))
    other.join(60)
    assert other.exitcode == 0, "the other writer failed"
    assert ended.done[-1:] == ["added"], f"the writer was refused: {ended.refusal}"
    look_over(path, [both((*FIRST, 11, 12, 13, 14))])
    return "one waited for the other" if "locked" in ended.done else "they did not meet"


def _quietly(steps: Callable[[], Iterator[str]]) -> None:
    told = list(steps())
    os._exit(0 if told[-1] == "added" else 1)


@contextmanager
def strange_clock(rng: random.Random) -> Iterator[None]:
    """All of Python's clocks go back and forth, by up to a year."""

    def now() -> float:
        return 1.7e9 + rng.uniform(-3e7, 3e7)

    with patch("time.time", now), patch("time.monotonic", now), patch("time.perf_counter", now):
        yield


@kind("clock going back")
def _clock(rng: random.Random, folder: Path) -> str:
    work = rng.choice(list(WORK))
    path = prepared(folder)
    ended = hindered(path, work, lambda: strange_clock(rng))
    assert ended.refusal is None, f"a clock was a reason to refuse: {ended.refusal}"
    return outcome(path, work, ended)
