"""A hundred faults injected on purpose; and that each guard which is taken away is missed (`tests/faults/`)."""

from __future__ import annotations

import os
import re
import uuid
import zlib
from pathlib import Path

import pytest

from lagkit.logs.files import BlockFiles, block_name
from lagkit.logs.store import LogStore
from lagkit.util.files import publish
from tests.faults import harness
from tests.faults.kinds import KINDS
from tests.faults.stores import pattern, remove_pattern

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="works in forked processes")


def test_a_hundred_faults_break_no_guarantee():
    outcomes = list(harness.run(harness.plan(100)))
    assert [(o.kind, o.seed, o.broken) for o in outcomes if o.broken] == []
    assert {o.kind for o in outcomes} == set(KINDS)
    assert len(outcomes) == 100
    page = harness.page(outcomes)
    assert page.splitlines()[-1].startswith("| all | 100 |  | 0 | ")


def test_a_plan_is_the_same_every_time_and_as_long_as_asked():
    assert harness.plan(100) == harness.plan(100) != harness.plan(100, seed=5)
    assert [len(harness.plan(n)) for n in (40, 100, 1000)] == [40, 100, 1000]
    counts = {name: sum(kind == name for kind, _ in harness.plan(1000)) for name in KINDS}
    assert min(counts[name] for name in counts if name not in harness.RARE) >= 50


# Guards taken away


def rows_before_files(monkeypatch) -> str:
    """A writer that commits a block's row, and only then gives its file its name."""
    waiting: list[tuple[Path, Path]] = []
    commit = LogStore._commit

    def put(files, block):
        aside = files.folder / "kv" / f"new-{uuid.uuid4().hex}.safetensors"
        aside.write_bytes(block.content)
        waiting.append((aside, files.folder / block_name(block.row.digest)))

    def late(store, logs, blocks):
        commit(store, logs, blocks)
        while waiting:
            aside, target = waiting.pop()
            target.parent.mkdir(exist_ok=True)
            publish(aside, target)

    monkeypatch.setattr(BlockFiles, "put", put)
    monkeypatch.setattr(LogStore, "_commit", late)
    return "kill -9 while adding"


def files_unchecked(monkeypatch) -> str:
    """A reader that takes a block's file as it is."""
    monkeypatch.setattr(BlockFiles, "flaw", lambda files, digest, nbytes: None)
    return "flipped bits in blocks"


def rows_unchecked(monkeypatch) -> str:
    """A database that believes its rows."""
    import sqlite3

    from lagkit.logs import database

    def connect(folder, mode):
        address = f"{(folder / database.NAME).as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, **database._HOW)
        connection.create_function("crc32", -1, lambda *_: 0)
        connection.create_function("is_digest", 1, lambda _: 1)
        return connection

    monkeypatch.setattr(database, "_connect", connect)
    remove_pattern()
    return "flipped bits in the database"


def no_lock(monkeypatch) -> str:
    """A store that lets two writers in."""
    monkeypatch.setattr("filelock.FileLock.acquire", lambda lock: None)
    return "two writers"


def half_an_import(monkeypatch) -> str:
    """An import that commits each log for itself."""
    commit = LogStore._commit

    def one_by_one(store, logs, blocks):
        for row in logs:
            commit(store, [row], [block for block in blocks if block[0] == row[0]])

    monkeypatch.setattr(LogStore, "_commit", one_by_one)
    return "kill -9 while importing"


def codes_unchecked(monkeypatch) -> str:
    """A reader that takes codes as they are."""
    monkeypatch.setattr("lagkit.logs.quantised._crc32", lambda *_: "0")
    return "torn, rotten, missing or stale codes"


def lines_unchecked(monkeypatch) -> str:
    """A journal that believes its lines."""
    monkeypatch.setattr(zlib, "crc32", lambda *_: 0)
    return "torn or flipped journal"


@pytest.mark.parametrize(
    ("taken_away", "missed"),
    [
        (rows_before_files, "it holds|was damaged"),
        (files_unchecked, r"is not what was stored|set\(\) was named"),
        (rows_unchecked, "is not what was stored|not noticed|cannot be read"),
        (no_lock, "it holds|other writer failed|writer was refused"),
        (half_an_import, "it holds"),
        (codes_unchecked, "torn codes were taken for whole ones"),
        (lines_unchecked, "a trace is not what was written"),
    ],
)
def test_a_guard_that_is_taken_away_is_missed(taken_away, missed, monkeypatch):
    pattern()  # made with all guards
    kind = taken_away(monkeypatch)
    outcomes = []
    for seed in range(200):  # until one is: how often depends on how busy the machine is
        outcomes.append(harness.inject(kind, seed))
        if outcomes[-1].broken:
            break
    monkeypatch.undo()
    harness.remove_pattern()
    assert re.search(missed, outcomes[-1].broken or ""), (outcomes[-1].broken, len(outcomes))
