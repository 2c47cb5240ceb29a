"""An object store that is slow, busy, closed or gone: one sentence, in time, and nothing that was committed is lost."""

from __future__ import annotations

import socket
import time

import pytest

from lagkit.logs.lance import DiskCache, LanceStore, tables
from lagkit.util.errors import EndpointError, StoreError, StoreUnreachable
from tests.helpers.objectstore import DENIED, HANG, SLOW_DOWN
from tests.helpers.stores import HEADER, content, fill, kv, same, trace, vector


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Little time for each request."""
    monkeypatch.setattr(tables, "TIMEOUT", 1.0)
    monkeypatch.setattr(tables, "DEADLINE", 8.0)
    monkeypatch.setattr(tables, "RETRIES", 1)


@pytest.fixture
def store(bucket):
    with LanceStore.new(f"{bucket}/store", HEADER) as store:
        fill(store, range(3))
        yield store


def check(store):
    """What was committed is there."""
    with LanceStore(store.path, cache=DiskCache(store._cache.folder, 0)) as reader:
        assert reader.ids[:3] == [trace(i).id for i in range(3)]
        assert all(same(reader.block(trace(i).id, "last"), kv(i)) for i in range(3))
        assert reader.verify().empty


DENIES = r"refuses access to s3://.* \(InvalidAccessKeyId\): look at the credentials and the region"
FAULTS = {
    "hangs": (HANG, 0.3, r"could not be \w+ within 0.3 s: see to the network"),
    "throttles": (SLOW_DOWN, 9.0, r"limits the rate of requests to s3://.* \(SlowDown\) for too long: wait"),
    "denies": (DENIED, 9.0, DENIES),
}
ASKS = {
    "block": lambda store, reader: reader.block(trace(1).id, "last"),
    "add": lambda store, reader: fill(store, [7]),
    "open": lambda store, reader: LanceStore.open(store.path),
    "get": lambda store, reader: reader.get(trace(1).id),
    "len": lambda store, reader: len(reader),
    "search": lambda store, reader: reader.search(vector(1)[None], 1),
    "delete": lambda store, reader: store.delete([trace(1).id]),
    "prune": lambda store, reader: store.prune(),
}
# LanceDB itself tries listings again for seconds.
QUICK = {("throttles", "add"), ("denies", "block")}
CASES = [
    pytest.param(fault, ask, marks=() if fault == "hangs" or (fault, ask) in QUICK else pytest.mark.slow)
    for fault in FAULTS
    for ask in ASKS
]


@pytest.mark.parametrize(("fault", "ask"), CASES)
def test_each_way_of_asking_ends_in_one_sentence_and_in_time(store, server, fault, ask, monkeypatch):
    answer, seconds, said = FAULTS[fault]
    reader = LanceStore(store.path, cache=DiskCache(store._cache.folder, 0))
    assert len(reader) == 3
    reader._block_rows.sync()
    monkeypatch.setattr(tables, "DEADLINE", seconds)
    with server.playing(lambda *_: answer):
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match=said) as error:
            ASKS[ask](store, reader)
        assert time.monotonic() - began < seconds + 1
    assert isinstance(error.value, EndpointError)  # it ends a run, which resumes
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert ".cargo" not in text
    monkeypatch.setattr(tables, "DEADLINE", 9.0)
    check(store)
    fill(store, [7])
    assert len(store) == 4


def test_a_busy_moment_is_waited_out(store, server, monkeypatch):
    monkeypatch.setattr(tables, "RETRIES", 3)
    refused = []

    def now_and_then(method, path):
        refused.append(len(server.requests) % 3 == 0)
        return SLOW_DOWN if refused[-1] else None

    with server.playing(now_and_then):
        fill(store, [3])
        with LanceStore(store.path, cache=DiskCache(store._cache.folder, 0)) as reader:
            assert reader.ids == [trace(i).id for i in range(4)]
            assert same(reader.block(trace(3).id, "last"), kv(3))
    assert sum(refused) > 3
    check(store)


def test_a_connection_that_hangs_once_is_tried_again(store, server):
    hung = []

    def once(method, path):
        if method == "PUT" and not hung:
            hung.append(path)
            return HANG
        return None

    with server.playing(once):
        fill(store, [3])
    assert hung
    assert store.ids == [trace(i).id for i in range(4)]


def test_a_commit_whose_answer_is_lost_is_not_made_twice(store, server):
    """The server commits and then says that it did not: adding again finds the log there."""
    lost = []

    def after(method, path):
        if method == "PUT" and "logs.lance/_versions" in path and not lost:
            lost.append(path)
            return "500 Internal Server Error", ""
        return None

    with server.playing(after):
        fill(store, [3])
    fill(store, [3])
    assert store._logs.table.count() == 4
    check(store)


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(StoreUnreachable, match=r"There is no bucket for s3://no-such-bucket/logs: make it"):
        LanceStore.open("s3://no-such-bucket/logs")


@pytest.mark.slow
def test_a_server_that_is_down_is_told_from_a_bucket_that_is_not_there(store, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match="cannot be reached: see to the network and to AWS_ENDPOINT"):
            LanceStore.open(store.path)
        assert time.monotonic() - began < 9


def test_prune_keeps_what_it_may_not_read(store, server):
    before = content(store)

    def no_blocks(method, path):
        return DENIED if method == "GET" and "blocks.lance/data" in path else None

    with server.playing(no_blocks), pytest.raises(StoreError, match="refuses access"):
        store.prune(max_bytes=0)
    assert content(store) == before
    check(store)


def test_a_header_that_is_damaged_is_refused(store, server, bucket):
    name = bucket.removeprefix("s3://")
    for key in server.keys(name, "logs.lance/_versions"):
        server.client.put_object(Bucket=name, Key=key, Body=b"garbage")
    with pytest.raises(StoreError, match=r"log store at s3://.*/store is damaged: it could not be opened"):
        LanceStore.open(store.path)
