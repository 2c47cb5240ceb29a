"""A store under a cap of bytes through many updates: never above it, its index right, nothing that grows."""

from __future__ import annotations

import gc
import os
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import stream as benchmark
from lagkit.logs.database import SLACK
from lagkit.logs.store import LogStore
from lagkit.util.errors import StoreError
from lagkit.views.plots.scale import stream as figure
from tests.helpers.stores import content, file_of, files_of, fill, kv, new_store, trace, vector


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "store") as store:
        yield store


def held(store: LogStore) -> int:
    """What a cap counts, counted anew: files of blocks and used pages."""
    return sum((store.path / name).stat().st_size for name in files_of(store)) + store._db.live_bytes()


def open_in(folder: Path) -> int:
    """How many files below a folder this process has open; other threads open and close files of their own."""
    handles = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(handle).startswith(f"{folder.resolve()}{os.sep}") for handle in handles)


def logged(store: LogStore, i: int) -> str:
    return store.add(trace(i), vector(i), {"last": kv(i, tokens=100)})


@pytest.mark.slow
def test_six_hundred_updates_under_a_tiny_cap(store, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here, and most of the time
    store._db.read("PRAGMA synchronous = OFF")
    for i in range(40):
        logged(store, i)
    cap, open_files, objects = held(store), set(), []
    for i in range(40, 640):
        logged(store, i)
        store.evict(cap)
        assert store.search(vector(i)[None], 1)[0][0].id == trace(i).id
        store.block(trace(i).id, "last")
        if i % 20 == 19:
            assert held(store) <= cap
            open_files.add(open_in(store.path))
        if i % 150 == 39:
            gc.collect()
            objects.append(sys.getallocatedblocks())
    assert store.nbytes < cap + SLACK + (64 << 10)
    kept = len(store)
    assert 30 <= kept <= 40
    assert store.ids == [trace(i).id for i in range(640 - kept, 640)]
    with LogStore.open(store.path) as fresh:
        assert store.search(vector(7)[None], kept) == fresh.search(vector(7)[None], kept)
    assert store.verify().empty
    assert len(open_files) == 1
    # What is not forgotten is at least one object for each of the 150 updates, in every stretch of them.
    assert min(after - before for before, after in pairwise(objects[1:])) < 150


def test_eviction_reads_no_block_and_lists_files_once(store, monkeypatch):
    fill(store, range(9))
    orphan = store.path / "kv" / "ab" / "left.safetensors"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x" * 10_000)
    cap, listed, read = held(store) - orphan.stat().st_size, [], []
    names = type(store._files).names
    monkeypatch.setattr(type(store._files), "names", lambda self: listed.append(1) or names(self))
    monkeypatch.setattr(type(store._files), "flaw", lambda *_: read.append(1))
    assert store.evict(cap) == []
    assert not orphan.exists()
    calls = len(listed)
    file_of(store, trace(0).id).write_bytes(b"")  # damage is no hindrance
    assert store.evict(cap - 1) == [trace(0).id]
    assert (len(listed), read) == (calls, [])


def test_a_shared_file_frees_its_bytes_with_the_last_log_that_names_it(store):
    store.add_many((trace(i), vector(i), {"last": kv(1, tokens=500)}) for i in range(3))
    assert len(files_of(store)) == 1
    before = held(store)
    assert store.evict(before - 1000) == [trace(i).id for i in range(3)]
    assert files_of(store) == []
    assert held(store) == store._db.live_bytes()


def test_a_lower_cap_makes_the_database_smaller(store):
    store.add_many((trace(i), vector(i), {}) for i in range(4))
    with store._db.transaction() as connection:  # a log that takes much room
        connection.execute("UPDATE traces SET json = ? WHERE seq = 1", ("x" * (2 * SLACK),))
    before = store._db.nbytes
    assert store.evict(held(store) - 1) == [trace(0).id]
    assert store._db.nbytes < before - SLACK
    assert store.evict(0) == [trace(i).id for i in (1, 2, 3)]
    assert content(store) == {}
    with pytest.raises(StoreError, match="cannot be capped at -1 bytes; give 0 or more"):
        store.evict(-1)


def made(updates: int = 3000, growth: float = 0.0) -> pd.DataFrame:
    numbers = np.arange(benchmark.PART, updates + 1, benchmark.PART)
    noise = np.random.default_rng(0).normal(size=len(numbers))
    times = 5 + growth * numbers / 1e4 + 0.01 * noise
    columns = {f"{step}{kind}": times for step in benchmark.STEPS for kind in ("", "_p95")}
    sizes = {name: np.full(len(numbers), 7.0) for name in benchmark.SIZES}
    return pd.DataFrame({**columns, **sizes}, index=pd.Index(numbers, name="updates"))


def test_flatness_tells_growth_from_noise():
    level, grown = benchmark.flatness(made(), 500, 1000), benchmark.flatness(made(growth=3.0), 500, 1000)
    assert level.loc["search", "slope_low"] < 0 < level.loc["search", "slope_high"]
    assert grown.loc["search", "slope"] == pytest.approx(3.0, abs=0.1)
    assert grown.loc["search", "low"] > 0.3
    assert level.loc["rss_mb", ["change", "low", "high", "slope_low", "slope_high"]].tolist() == [0.0] * 5


def test_the_figure_shows_all_steps_and_the_cap():
    sizes = {"updates": 3000, "binds": 500, "cap_mb": 7.5}
    drawn = figure({"sizes": sizes, "rows": made().reset_index().to_dict("list")})
    assert {line.name for line in drawn.data} >= {"search", "read and inject", "add", "evict", "blocks", "memory"}
    assert "3,000 updates" in drawn.layout.title.text
