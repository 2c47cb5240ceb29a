"""The cache of an object store's blocks: its bound, what goes first, damage, kills, several processes."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.logs.files import digest_of
from lagkit.logs.lance.cache import DiskCache
from lagkit.logs.store import LogStore
from tests.helpers.killed import clean, needs_forks
from tests.helpers.stores import HEADER, fill, kv, same, trace


def content(i: int, size: int) -> tuple[str, bytes]:
    raw = random.Random(i).randbytes(size)
    return digest_of(raw), raw


def put(cache: DiskCache, i: int, size: int = 100):
    return cache.put(*content(i, size))


def has(cache: DiskCache, i: int, size: int = 100) -> bool:
    digest, raw = content(i, size)
    found = cache.get(digest)
    assert found in (None, raw)
    return found is not None


def path_of(cache: DiskCache, i: int, size: int = 100):
    digest, _ = content(i, size)
    return cache.folder / digest[:2] / digest


def test_what_was_used_longest_ago_goes_first(tmp_path):
    cache = DiskCache(tmp_path / "cache", 1000)
    for i in range(10):
        assert put(cache, i)
        time.sleep(0.002)
    assert has(cache, 0)
    put(cache, 10)
    assert cache.nbytes == 900  # down to nine tenths, so that the next ones find room
    assert [has(cache, i) for i in range(11)] == [True, False, False, *[True] * 8]
    put(cache, 11)
    assert cache.nbytes == 1000
    assert DiskCache(tmp_path / "cache", 1000).nbytes == 1000


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 120)), max_size=30))
def test_it_never_holds_more_than_it_may(tmp_path_factory, limit, sizes):
    cache = DiskCache(tmp_path_factory.mktemp("cache"), limit)
    for i, size in sizes:
        kept = put(cache, i, size)
        assert kept == (size <= limit)
        assert cache.nbytes <= limit
        if kept:
            assert has(cache, i, size)


def test_a_damaged_file_is_no_hit_and_goes(tmp_path):
    cache = DiskCache(tmp_path / "cache", 1000)
    put(cache, 1)
    path = path_of(cache, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    other = DiskCache(tmp_path / "cache", 1000)
    assert not has(other, 1)
    assert not path.exists()
    put(other, 1)
    assert has(other, 1)


def test_a_folder_that_cannot_be_written_to_or_a_count_that_is_garbled_is_no_failure(tmp_path):
    cache = DiskCache(tmp_path / "cache", 1000)
    put(cache, 1)
    for number, told in enumerate(("", "-5", "many", "99999999999"), 2):
        (tmp_path / "cache" / "bytes").write_text(told)
        assert put(cache, number)
    assert (tmp_path / "cache" / "bytes").read_text() == str(cache.nbytes) == "500"
    (tmp_path / "cache" / "ab").write_text("in the way")
    sizes = [i for i in range(400) if content(i, 9)[0].startswith("ab")]
    assert not put(cache, sizes[0], 9)


def hammer(folder, seed):
    cache, drawn = DiskCache(folder, 20_000), random.Random(seed)
    while True:
        put(cache, drawn.randrange(60), 1000)
        has(cache, drawn.randrange(60), 1000)


@needs_forks
@pytest.mark.slow
def test_processes_that_are_killed_leave_it_bounded_and_sound(tmp_path):
    folder = tmp_path / "cache"
    DiskCache(folder, 0)
    most = 0
    for round_ in range(2):
        writers = [clean.Process(target=hammer, args=(folder, 10 * round_ + n), daemon=True) for n in range(2)]
        for writer in writers:
            writer.start()
        begun, until = False, time.monotonic() + 60
        while time.monotonic() < until:
            most = max(most, held := DiskCache(folder, 0).nbytes)
            if held > 10_000 and not begun:
                begun, until = True, time.monotonic() + 0.3
        assert begun
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join(10)
    assert most <= 20_000
    cache = DiskCache(folder, 20_000)
    assert sum(has(cache, i, 1000) for i in range(60)) > 5
    for i in range(100, 130):
        assert put(cache, i, 1000)
        assert cache.nbytes <= 20_000


def test_threads_share_one(tmp_path):
    cache = DiskCache(tmp_path / "cache", 5000)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: put(cache, i % 30), range(200)))
    assert cache.nbytes <= 5000


# In a store


@pytest.fixture
def reader(bucket):
    from lagkit.logs.lance import LanceStore

    with LanceStore.new(f"{bucket}/store", HEADER) as store:
        fill(store, range(3))
    with LanceStore(store.path, cache=DiskCache(store._cache.folder, 10_000)) as reader:
        assert len(reader) == 3
        reader._block_rows.sync()
        yield reader


def fetched(server) -> int:
    return sum("blocks.lance/data" in path for _, path in server.requests)


def test_a_damaged_cache_file_is_fetched_again(reader, server):
    log = trace(1).id
    digest = reader.find(log, "last").digest
    path = reader._cache.folder / digest[:2] / digest
    path.write_bytes(b"x" * path.stat().st_size)
    server.requests.clear()
    assert same(reader.block(log, "last"), kv(1))
    assert fetched(server) > 0
    server.requests.clear()
    assert same(reader.block(log, "last"), kv(1))
    assert server.requests == []


def test_without_room_blocks_are_fetched_each_time(reader, server, tmp_path):
    reader._cache = DiskCache(tmp_path / "none", 0)
    for _ in range(2):
        server.requests.clear()
        assert same(reader.block(trace(1).id, "last"), kv(1))
        assert fetched(server) > 0


def test_a_folder_store_has_none(tmp_path):
    with LogStore.new(tmp_path / "s", HEADER) as store:
        assert not hasattr(store, "_cache")
