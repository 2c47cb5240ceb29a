"""A small store whose content follows from numbers, what it may hold after a fault, and the look at it then."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from unittest.mock import patch

import numpy as np

from lagkit.logs import quantised, vectors
from lagkit.logs.files import block_name
from lagkit.logs.store import LogStore
from lagkit.util.errors import DamagedBlock, StoreError
from tests.helpers.stores import IDENTITY, fill, kv, new_store, trace, vector

FIRST = tuple(range(1, 7))
OPEN = {"lm": IDENTITY["model"], "embedder": IDENTITY["embedder"]}
# Log number -> the keys of its blocks.
Holds = Mapping[int, frozenset[str]]
ORPHAN = "is an orphan: no log names this file"

_BLOCKS = {"last": kv, "all": lambda i: kv(i, tokens=40)}


def blocks(i: int) -> dict:
    return {key: made(i) for key, made in _BLOCKS.items()}


def both(numbers: Collection[int]) -> dict[int, frozenset[str]]:
    """Logs with both of their blocks."""
    return dict.fromkeys(numbers, frozenset(_BLOCKS))


def add(store: LogStore, numbers: Sequence[int]) -> None:
    store.add_many((trace(i), vector(i), blocks(i)) for i in numbers)


@cache
def pattern() -> Path:
    """A closed store of the first logs, and an archive of logs of which it holds half; made once in a process."""
    folder = Path(mkdtemp(prefix="lagkit-faults-"))
    with new_store(folder / "store") as store:
        add(store, FIRST)
    with new_store(folder / "other") as store:
        add(store, ARCHIVED)
        store.export(folder / "logs.tar")
    with new_store(folder / "busy") as store:
        add(store, FIRST[:3])
        for i in FIRST[3:]:
            add(store, [i])
        shutil.copytree(store.path, folder / "unfinished")  # its write-ahead log is not empty
    return folder


ARCHIVED = (5, 6, 21, 22, 23)


def remove_pattern() -> None:
    if pattern.cache_info().currsize:
        shutil.rmtree(pattern())
    pattern.cache_clear()


def fresh(folder: Path, what: str = "store") -> Path:
    """A copy of the pattern's store: `store` is closed, of `unfinished` the last commits are in the write-ahead log."""
    shutil.copytree(pattern() / what, folder / "store")
    return folder / "store"


def archive(folder: Path) -> Path:
    return Path(shutil.copy(pattern() / "logs.tar", folder))


def held(store: LogStore) -> dict[int, frozenset[str]]:
    """What a store holds. Raises AssertionError if a trace, embedding or block is not the one of its number."""
    found = {}
    for log, vec in zip(store.ids, store.embeddings(), strict=True):
        told = store.get(log)
        i = int(told.answer)
        assert (log, told) == (trace(i).id, trace(i)), f"log {log} is not what was stored"
        assert np.array_equal(vec, vector(i)), f"the embedding of {i} is not what was stored"
        found[i] = frozenset(key for key in store.block_keys(log) if sound_block(store, i, key))
    return found


def sound_block(store: LogStore, i: int, key: str) -> bool:
    """Whether a block can be had; raises AssertionError if it is another than was stored."""
    try:
        block = store.block(trace(i).id, key)
    except DamagedBlock:
        return False
    want = _BLOCKS[key](i)
    pairs = ((block.keys, want.keys), (block.values, want.values), (block.ids, want.ids))
    assert all(a.equal(b) for a, b in pairs), f"block {key} of {i} is not what was stored"
    return True


def look_over(path: Path, allowed: Sequence[Holds], damaged: Collection[str] = ()) -> str:
    """The store opens, holds one of `allowed`, names what is wrong and nothing else, and `prune` cleans it.

    damaged: files whose damage `verify` has to name. Returns in a few words what was found.
    """
    with LogStore.open(path, write=True, **OPEN) as store:
        found = held(store)
        assert found in allowed, f"it holds {found}, not one of {list(allowed)}"
        problems = store.verify()
        named = set(problems["file"][problems["problem"] != ORPHAN])
        assert named == set(damaged), f"{named} was named, {set(damaged)} was damaged"
        orphans = int((problems["problem"] == ORPHAN).sum())
        pruned = store.prune()
        assert sorted(pruned["file"]) == sorted(problems["file"]), "prune removed something else than verify named"
        clean(store, found)
    return "orphan files, removed" if orphans else "nothing to clean"


def lacking(path: Path) -> set[str]:
    """Block files that a store's rows name and that are not there."""
    with closing(sqlite3.connect(path / "logs.sqlite")) as db:
        named = {block_name(digest) for (digest,) in db.execute("SELECT digest FROM blocks")}
    return {name for name in named if not (path / name).exists()}


def clean(store: LogStore, holds: Holds) -> None:
    """After `prune`: nothing is wrong, nothing is left over, all can be found, and the store takes logs again."""
    assert store.verify().empty, "prune left something that verify names"
    assert held(store) == holds, "prune changed what is held"
    files = {path.name for path in store.path.iterdir()}
    usual = {"store.json", "logs.sqlite", "logs.sqlite-wal", "logs.sqlite-shm", "write.lock", "kv"}
    assert files <= usual | {quantised.NAME}, files
    for i in holds:
        assert store.search(vector(i)[None], 1)[0][0].id == trace(i).id, f"log {i} is not found"
    [new] = fill(store, [99])
    assert store.has_block(new, "last"), "the store takes no new log"
    store.delete([new])


@contextmanager
def few_are_many() -> Iterator[None]:
    """A handful of logs is searched by codes, of which five are looked at more closely."""
    with patch.object(vectors, "QUANTISED_FROM", 2), patch.multiple(quantised, WIDTH=5, SPARE=1):
        yield


def files(path: Path) -> list[Path]:
    """All block files, sorted."""
    return sorted(Path(parent) / name for parent, _, names in os.walk(path / "kv") for name in names)


def readable(path: Path) -> None:
    """Of a damaged store: whatever it still gives is right, and all else is refused with a sentence."""
    with LogStore.open(path, **OPEN) as store:
        for i in FIRST:
            for ask in (lambda i=i: store.get(trace(i).id) == trace(i), lambda i=i: _blocks_are_right(store, i)):
                assert _right_or_refused(ask), f"log {i} is returned, and is not what was stored"
        assert _right_or_refused(lambda: bool(held(store)) or not len(store))


def _blocks_are_right(store: LogStore, i: int) -> bool:
    return all(sound_block(store, i, key) in (True, False) for key in store.block_keys(trace(i).id) if key in _BLOCKS)


def _right_or_refused(ask) -> bool:
    try:
        return ask()
    except StoreError:
        return True
