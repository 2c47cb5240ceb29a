"""Files that are torn, truncated or rotten."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lagkit.logs import quantised
from lagkit.logs.store import LogStore
from tests.faults.kills import WORK, importing, prepared
from tests.faults.kinds import kind, refusal
from tests.faults.stores import (
    FIRST,
    OPEN,
    Holds,
    add,
    both,
    clean,
    few_are_many,
    files,
    fresh,
    held,
    look_over,
    readable,
)
from tests.helpers.stores import DIM, trace, vector


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


_OWNERS = "SELECT id, key, digest FROM blocks JOIN logs USING (seq)"


def block_damage(rng: random.Random, folder: Path, damage: Callable[[random.Random, Path], Any]) -> str:
    path = prepared(folder)
    with LogStore.open(path) as store:
        owners = {digest: (log, key) for log, key, digest in store._db.read(_OWNERS)}
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


@kind("torn, rotten, missing or stale codes")
def _damaged_codes(rng: random.Random, folder: Path) -> str:
    with few_are_many():
        path = prepared(folder)
        LogStore.open(path, write=True).close()
        file, sound = path / quantised.NAME, (path / quantised.NAME).read_bytes()
        how, holds = rng.choice(["torn", "rotten", "missing", "stale"]), both(FIRST)
        if how == "stale":
            with LogStore.open(path, write=True) as store:
                gone, new = rng.sample(FIRST, rng.randint(0, 3)), range(11, 11 + rng.randint(1, 9))
                store.delete(trace(i).id for i in gone)
                add(store, new)
            file.write_bytes(sound)
            holds = both([i for i in (*FIRST, *new) if i not in gone])
        else:
            {"torn": tear, "rotten": flip, "missing": lambda _, file: file.unlink()}[how](rng, file)
        named = [quantised.NAME] if quantised.flaw(path, DIM) else []
        assert named or how != "torn" or not file.exists(), "torn codes were taken for whole ones"
        with LogStore.open(path) as store:
            for i in holds:
                found = store.search(vector(i)[None], 1)
                assert found == store.search(vector(i)[None], 1, exact=True), f"log {i} is not found by its codes"
        look_over(path, [holds], damaged=named)
        quantised.QuantisedIndex.load(path, DIM)
    return f"{how}: " + ("named and made anew" if named else "made anew or brought up to date")


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
