"""The kinds of faults on a store: each takes a random generator and an empty folder, and says what was found."""

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
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import lagkit.store
from lagkit.errors import LagkitError, StoreLocked
from lagkit.kv import KVBlock
from lagkit.store import LogStore
from tests.faults import processes
from tests.faults.stores import (
    ARCHIVED,
    FIRST,
    OPEN,
    Holds,
    add,
    archive,
    both,
    clean,
    files,
    fresh,
    held,
    look_over,
    readable,
)
from tests.stores import trace

Kind = Callable[[random.Random, Path], str]
KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    def register(made: Kind) -> Kind:
        KINDS[name] = made
        return made

    return register


# What is done to a store in steps, and what it holds after each of them.
NEW = (11, 12, 13)
GOES = (2, 4, 5)


def adding(path: Path) -> Iterator[None]:
    with LogStore.open(path, write=True) as store:
        for i in NEW:
            add(store, [i])
            yield


def adding_many(path: Path) -> Iterator[None]:
    lagkit.store.COMMIT_EVERY = 0  # after every log
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


Steps = Callable[[Path], Iterator[None]]
WORK: dict[Steps, list[Holds]] = {
    adding: [both((*FIRST, *NEW[:n])) for n in range(len(NEW) + 1)],
    adding_many: [both((*FIRST, *NEW[:n])) for n in range(len(NEW) + 1)],
    deleting: [both(i for i in FIRST if i not in GOES[:n]) for n in range(len(GOES) + 1)],
    importing: [both(FIRST), both((*FIRST, *ARCHIVED))],
    pruning: [both(FIRST)] * 2,
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


@kind("kill -9 while importing")
def _kill_importing(rng: random.Random, folder: Path) -> str:
    return killed(rng, folder, importing)


# Files


def tear(rng: random.Random, path: Path) -> str:
    """What a machine that lost power leaves of a file: nothing, less than all, or zeros at its end."""
    raw = path.read_bytes()
    at = rng.randrange(len(raw))
    how = rng.choice(["gone", "cut", "zeros"]) if any(raw[at:]) else "cut"
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(raw[:at] + (bytes(len(raw) - at) if how == "zeros" else b""))
    return how


def flip(rng: random.Random, path: Path) -> None:
    raw = bytearray(path.read_bytes())
    # Much of a database is empty pages, of which nothing depends.
    written = [i for i, byte in enumerate(raw) if byte] if rng.random() < 0.5 else range(len(raw))
    raw[rng.choice(written)] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


_OWNERS = "SELECT id, key, sha256 FROM blocks JOIN logs USING (seq)"


def block_damage(rng: random.Random, folder: Path, damage: Callable[[random.Random, Path], Any]) -> str:
    path = prepared(folder)
    with LogStore.open(path) as store:
        owners = {sha256: (log, key) for log, key, sha256 in store._db.read(_OWNERS)}
    numbers = {trace(i).id: i for i in FIRST}
    hit = rng.sample(files(path), rng.randint(1, 3))
    holds = {i: set(keys) for i, keys in both(FIRST).items()}
    for file in hit:
        damage(rng, file)
        log, key = owners[file.stem]
        holds[numbers[log]].discard(key)
    left = {i: frozenset(keys) for i, keys in holds.items()}
    look_over(path, [left], damaged=[file.relative_to(path).as_posix() for file in hit])
    return "named and removed"


@kind("torn or truncated blocks")
def _torn_blocks(rng: random.Random, folder: Path) -> str:
    return block_damage(rng, folder, tear)


@kind("flipped bits in blocks")
def _flipped_blocks(rng: random.Random, folder: Path) -> str:
    return block_damage(rng, folder, flip)


def refusal(do: Callable[[], Any]) -> str | None:
    """The sentence with which something was refused; None if it was done."""
    try:
        do()
    except LagkitError as error:
        return str(error)
    return None


def database_damage(path: Path, holds: list[Holds]) -> str:
    """Named when the store is opened or verified, or harmless; what is still given is right; rows are cleaned away."""
    if said := refusal(lambda: LogStore.open(path, write=True, **OPEN).close()):
        assert str(path) in said
        return "refused when opened"
    readable(path)
    with LogStore.open(path, write=True, **OPEN) as store:
        if refusal(store.verify):
            return "refused when verified"
        problems = store.verify()
        if not len(problems):
            assert held(store) in holds, "damage was not noticed"
            return "harmless"
        if problems["problem"].str.startswith("SQLite: ").any():
            return "named, beyond repair"
        store.prune()
        left = held(store)
        assert any(all(keys <= whole.get(i, set()) for i, keys in left.items()) for whole in holds), left
        clean(store, left)
        return "named and removed"


@kind("flipped bits in the database")
def _flipped_database(rng: random.Random, folder: Path) -> str:
    path = fresh(folder)
    flip(rng, path / "logs.sqlite")
    return database_damage(path, [both(FIRST)])


@kind("torn or truncated database")
def _torn_database(rng: random.Random, folder: Path) -> str:
    path = fresh(folder)
    tear(rng, path / "logs.sqlite")
    return database_damage(path, [both(FIRST)])


@kind("torn or flipped write-ahead log")
def _damaged_wal(rng: random.Random, folder: Path) -> str:
    path = fresh(folder, "unfinished")
    rng.choice([tear, flip])(rng, path / "logs.sqlite-wal")
    # SQLite takes the log for cut off there: earlier commits stand, and the files of later ones are named as orphans.
    (path / "logs.sqlite-shm").unlink(missing_ok=True)
    return database_damage(path, [both(FIRST[:n]) for n in range(len(FIRST) + 1)])


@kind("torn or flipped store.json")
def _damaged_header(rng: random.Random, folder: Path) -> str:
    path = fresh(folder)
    rng.choice([tear, flip])(rng, path / "store.json")
    return database_damage(path, [both(FIRST)])


@kind("torn or flipped archive")
def _damaged_archive(rng: random.Random, folder: Path) -> str:
    path = prepared(folder)
    rng.choice([tear, flip])(rng, folder / "logs.tar")
    with LogStore.open(path, write=True) as store:
        said = refusal(lambda: store.import_archive(folder / "logs.tar"))
    assert said is None or "logs.tar" in said
    look_over(path, [WORK[importing][said is None]])
    return "refused" if said else "harmless"


# Systems that refuse


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

    return outcome(path, work, hindered(path, work, full))


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
