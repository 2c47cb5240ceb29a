"""What is done to a store, step by step, and kills in the midst of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import lagkit.logs.store
from lagkit.logs.store import LogStore
from tests.faults import processes
from tests.faults.kinds import kind
from tests.faults.stores import (
    ARCHIVED,
    FIRST,
    Holds,
    add,
    archive,
    both,
    few_are_many,
    fresh,
    look_over,
)
from tests.helpers.stores import trace

# What is done to a store in steps, and what it holds after each of them.
NEW = (11, 12, 13)
GOES = (2, 4, 5)


def adding(path: Path) -> Iterator[None]:
    with LogStore.open(path, write=True) as store:
        for i in NEW:
            add(store, [i])
            yield


def adding_many(path: Path) -> Iterator[None]:
    lagkit.logs.store.COMMIT_EVERY = 0  # after every log
    with LogStore.open(path, write=True) as store:
        add(store, NEW)
        yield


def deleting(path: Path) -> Iterator[None]:
    with LogStore.open(path, write=True) as store:
        for i in GOES:
            store.delete([trace(i).id])
            yield


def importing(path: Path) -> Iterator[None]:
    with LogStore.open(path, write=True) as store:
        store.import_archive(path.parent / "logs.tar")
        yield


def pruning(path: Path) -> Iterator[None]:
    with LogStore.open(path, write=True) as store:
        store.prune()
        yield


def shrinking(path: Path) -> Iterator[None]:
    with LogStore.open(path, write=True) as store:
        store.prune(max_bytes=store.nbytes // 2)
        yield


def coding(path: Path) -> Iterator[None]:
    with few_are_many():
        with LogStore.open(path, write=True) as store:
            add(store, NEW[:1])
            yield
        yield


Steps = Callable[[Path], Iterator[None]]
WORK: dict[Steps, list[Holds]] = {
    adding: [both((*FIRST, *NEW[:n])) for n in range(len(NEW) + 1)],
    adding_many: [both((*FIRST, *NEW[:n])) for n in range(len(NEW) + 1)],
    deleting: [both(i for i in FIRST if i not in GOES[:n]) for n in range(len(GOES) + 1)],
    importing: [both(FIRST), both((*FIRST, *ARCHIVED))],
    pruning: [both(FIRST)] * 2,
    coding: [both(FIRST), *[both((*FIRST, NEW[0]))] * 2],
    shrinking: [both(FIRST[n:]) for n in range(len(FIRST) + 1)],
}


def prepared(folder: Path, what: str = "store") -> Path:
    archive(folder)
    return fresh(folder, what)


def possible(work: Steps, done: int) -> list[Holds]:
    """What a store may hold when so many steps were told to be done: one more may be done and not told."""
    states = WORK[work]
    if work is shrinking:
        return states  # how many logs have to go depends on the size of the database
    if work is adding_many:
        return states[-1:] if done else states
    return states[done : done + 2]


def killed(rng: random.Random, folder: Path, work: Steps, path: Path | None = None) -> str:
    path = path or prepared(folder)

    def elsewhere() -> processes.Steps:
        copy = prepared(Path(mkdtemp(dir=folder)))
        return lambda: work(copy)

    ended = processes.kill(rng, work.__name__, lambda: work(path), elsewhere)
    found = look_over(path, possible(work, len(ended.done)))
    return found if ended.killed else "done before the kill"


@kind("kill -9 while adding")
def _kill_adding(rng: random.Random, folder: Path) -> str:
    return killed(rng, folder, rng.choice([adding, adding_many]))


@kind("kill -9 while deleting")
def _kill_deleting(rng: random.Random, folder: Path) -> str:
    return killed(rng, folder, deleting)


@kind("kill -9 while pruning")
def _kill_pruning(rng: random.Random, folder: Path) -> str:
    path = prepared(folder)
    if rng.random() < 0.5:
        return killed(rng, folder, shrinking, path)
    for name in ("new-1", "ab/abcd", "ab/more"):
        orphan = path / "kv" / f"{name}.safetensors"
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"half a block")
    return killed(rng, folder, pruning, path)


@kind("kill -9 while writing codes")
def _kill_coding(rng: random.Random, folder: Path) -> str:
    return killed(rng, folder, coding)


@kind("kill -9 while importing")
def _kill_importing(rng: random.Random, folder: Path) -> str:
    return killed(rng, folder, importing)
