"""Log stores on an object store: what they ask of it, several writers, the cache, damage, and what no message tells."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lagkit.logs.lance import DiskCache, LanceStore, catalog
from lagkit.logs.lance import store as module
from lagkit.logs.store import LogStore
from lagkit.util.errors import ConfigError, StoreError, StoreMismatch
from tests.helpers.objectstore import DENIED, KEY, SECRET, environment
from tests.helpers.stores import HEADER, IDENTITY, content, fill, header, kv, same, trace, vector


def test_it_is_what_was_put_there(store):
    ids = fill(store, range(5))
    with LanceStore.open(store.path, IDENTITY["model"], embedder="mini", codec="none") as reader:
        assert reader.ids == ids == [trace(i).id for i in range(5)]
        assert (len(reader), reader.writable, reader.dim, reader.dtype) == (5, False, 8, "float32")
        assert list(reader.traces()) == [trace(i) for i in range(5)]
        assert all(same(reader.block(log, "last"), kv(i)) for i, log in enumerate(ids))
        assert reader.verify().empty
        assert repr(reader) == f"LanceStore({store.path!r}, read-only, 5 logs)"
        with pytest.raises(StoreError, match="open for reading only: open it with write=True"):
            fill(reader, [9])
    with pytest.raises(StoreMismatch, match='embedder "mini", but "arctic" was asked for'):
        LanceStore.open(store.path, embedder="arctic")
    with pytest.raises(StoreMismatch, match='dtype "float32", but "bfloat16"'):
        LanceStore.new(store.path, header(dtype="bfloat16"), exist_ok=True)
    with pytest.raises(StoreError, match=r"There is a log store at .* already"):
        LanceStore.new(store.path, HEADER)
    with pytest.raises(StoreError, match=r"There is no log store at .*/other; make one with LanceStore\.create"):
        LanceStore.open(f"{store.path}/other")


def test_a_batch_keeps_its_order(local):
    local.add_many((trace(i), vector(i), {}) for i in range(0, 1000, 7))
    first = local.ids
    local.add_many((trace(i), vector(i), {}) for i in range(1000))
    assert local.ids == first + [trace(i).id for i in range(1000) if i % 7]


# What is asked of the server


def test_hits_of_the_cache_ask_for_nothing(store, server):
    ids = fill(store, range(3))
    with LanceStore(store.path, cache=DiskCache(store._cache.folder, 10_000)) as reader:
        assert len(reader) == 3
        assert all(reader.has_block(log, "last") for log in ids)
        told = [reader.get(log) for log in ids]
        server.requests.clear()
        assert [same(reader.block(log, "last"), kv(i)) for i, log in enumerate(ids)] == [True] * 3
        assert [reader.get(log) for log in ids] == told
        assert all(reader.has_block(log, "last") for log in ids)
        assert server.requests == []


def test_requests_do_not_grow_with_the_store(store, server):
    asked = []
    for size in (1, 200):
        fill(store, range(size))
        server.requests.clear()
        with LanceStore.open(store.path) as reader:
            asked.append(len(server.requests))
            reader.search(vector(1)[None], 1)
            server.requests.clear()
            reader.search(vector(2)[None], 3)
            assert [method for method, _ in server.requests] == ["GET"]
    assert asked[0] == asked[1] <= 8


def test_many_blocks_share_a_commit(store, server):
    ids = store.add_many((trace(i), vector(i), {}) for i in range(30))
    server.requests.clear()
    store.put_blocks((log, "last", kv(i)) for i, log in enumerate(ids))
    assert sum(method == "PUT" for method, _ in server.requests) <= 4
    assert store.summary().loc["last", "logs"] == 30


def test_a_full_batch_is_committed_before_more_is_read(local, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_BYTES", 1000)
    seen = []
    with LanceStore.open(local.path) as reader:

        def logs():
            for i in range(4):
                seen.append(len(reader))
                yield trace(i), vector(i), {"last": kv(i, tokens=20)}

        local.add_many(logs())
    assert seen == [0, 1, 2, 3]


# Several writers


def test_writers_in_threads_lose_nothing_and_double_nothing(store, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_BYTES", 1)  # each log is a commit of its own

    def write(who):
        with LanceStore.open(store.path, write=True) as mine:
            for i in range(3):
                fill(mine, [i, 100 * who + i])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, (1, 2, 3)))
    check_writers(store, 3)


def check_writers(store, each):
    """Three writers added the logs 0 to `each` and as many of their own."""
    numbers = [*range(each), *(100 * who + i for who in (1, 2, 3) for i in range(each))]
    assert sorted(store.ids) == sorted(trace(i).id for i in numbers)
    assert store._logs.table.count() == len(numbers)
    assert store.verify().empty
    assert all(same(store.block(trace(i).id, "last"), kv(i)) for i in numbers)
    with LanceStore.open(store.path) as reader:
        assert reader.ids == store.ids


WRITER = """
import sys
from lagkit.logs.lance import LanceStore
from lagkit.logs.lance import store
from tests.helpers.stores import fill, trace, vector, kv
store.COMMIT_BYTES = 1
who = int(sys.argv[2])
with LanceStore.open(sys.argv[1], write=True) as mine:
    for i in range(20):
        fill(mine, [i, 100 * who + i])
"""


@pytest.mark.slow
def test_writers_in_processes_lose_nothing_and_double_nothing(store, server):
    command = [sys.executable, "-c", WRITER, store.path]
    writers = [
        subprocess.Popen([*command, str(who)], env={**os.environ, **environment(server)}, stderr=subprocess.PIPE)
        for who in (1, 2, 3)
    ]
    said = [writer.communicate(timeout=120)[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], said
    check_writers(store, 20)


@pytest.mark.slow
def test_a_writer_that_is_always_too_late_gives_up(store, server, monkeypatch):
    fill(store, [1])
    monkeypatch.setattr("lagkit.logs.lance.tables.ATTEMPTS", 2)
    refused = "412 Precondition Failed", "<Error><Code>PreconditionFailed</Code></Error>"

    def fault(method, path):
        return refused if method == "PUT" and "logs.lance/_versions" in path else None

    with server.playing(fault), pytest.raises(StoreError, match="other processes changed it at the same moment"):
        fill(store, [2])
    assert store.ids == [trace(1).id]
    fill(store, [2])
    assert store.verify().empty


def test_commits_that_others_preceded_are_tried_again_a_few_times(local, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    tries = []

    async def late():
        tries.append(1)
        if len(tries) < wanted:
            raise RuntimeError("lance error: Commit conflict for version 3: Failed to commit, /a/b.rs:9:9")

    for wanted, done in ((1, 1), (3, 3), (4, None)):
        tries.clear()
        if done:
            local._logs.table._commit(late)
        else:
            with pytest.raises(StoreError, match="other processes changed it at the same moment, again and again"):
                local._logs.table._commit(late)
        assert len(tries) == min(wanted, 3)


def test_a_reader_follows_a_writer(local):
    one, two = fill(local, [1, 2])
    with LanceStore.open(local.path) as reader:
        assert [hit.id for hit in reader.search(vector(1)[None], 1)[0]] == [one]
        [three] = fill(local, [3])
        assert [hit.id for hit in reader.search(vector(3)[None], 1)[0]] == [three]
        local.delete([one])
        assert {hit.id for hit in reader.search(vector(1)[None], 9)[0]} == {two, three}
        local.delete([three])
        [four] = fill(local, [4])
        assert {hit.id for hit in reader.search(vector(1)[None], 9)[0]} == {two, four}
        assert reader.ids == local.ids == [two, four]
        local.prune()
        assert content(reader) == content(local)


def test_a_log_that_others_deleted_can_be_added_again(local):
    [log] = fill(local, [1])
    with LanceStore.open(local.path, write=True) as other:
        other.delete([log])
        assert len(other) == 0
    fill(local, [1])
    assert local.ids == [log]
    assert same(local.block(log, "last"), kv(1))


# Credentials


def test_credentials_reach_no_message(store, server, bucket, caplog, monkeypatch, capfd):
    caplog.set_level(logging.DEBUG)
    fill(store, [1])
    shown = [repr(store), store._repr_html_(), json.dumps({k: str(v) for k, v in vars(store).items()})]
    store._cache = DiskCache(store._cache.folder, 0)
    with server.playing(lambda *_: DENIED), pytest.raises(StoreError, match="InvalidAccessKeyId") as error:
        store.block(trace(1).id, "last")
    shown += [str(error.value), repr(error.value.__cause__), str(error.getrepr())]
    for address in (f"s3://{KEY}:{SECRET}@bucket/logs", f"s3://bucket/logs?secret={SECRET}"):
        with pytest.raises(StoreError, match="belong in environment variables") as refused:
            LanceStore.open(address)
        shown.append(str(refused.value))
    shown += [caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if SECRET in text or KEY in text]


def test_a_size_of_the_cache_that_is_no_number_is_refused(store, monkeypatch):
    monkeypatch.setenv("LAGKIT_STORE_CACHE", "much")
    with pytest.raises(ConfigError, match="LAGKIT_STORE_CACHE is 'much'; set it to a number of bytes"):
        LanceStore.open(store.path)
    monkeypatch.setenv("LAGKIT_STORE_CACHE", "0")
    with LanceStore.open(store.path) as reader:
        assert reader._cache.limit == 0


def test_what_is_not_there_is_asked_for_once(store, server, monkeypatch):
    monkeypatch.setattr(catalog, "FRESH", 60)
    [log] = fill(store, [1])
    store.has_block(log, "other")
    server.requests.clear()
    assert not any(store.has_block(log, f"key {i}") for i in range(50))
    assert server.requests == []


# Archives


def test_an_archive_of_something_else_changes_nothing(local, tmp_path):
    fill(local, [1])
    with LogStore.new(tmp_path / "other", header(model={"name": "other"})) as other:
        fill(other, [2])
        other.export(tmp_path / "other.tar")
    with pytest.raises(StoreMismatch, match='"name": "other"'):
        local.import_archive(tmp_path / "other.tar")
    local.export(tmp_path / "own.tar")
    raw = (tmp_path / "own.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(raw[: len(raw.rstrip(b"\0")) // 2])
    with pytest.raises(StoreError, match=r"no intact archive|cannot be read"):
        local.import_archive(tmp_path / "cut.tar")
    with pytest.raises(StoreError, match="exists already"):
        local.export(tmp_path / "own.tar")
    assert local.ids == [trace(1).id]
    local.delete(local.ids)
    assert local.import_archive(tmp_path / "own.tar") == [trace(1).id] == local.ids
    assert same(local.block(trace(1).id, "last"), kv(1))
