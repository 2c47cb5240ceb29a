"""What an object store has lost or altered is named and pruned, everything else stays usable, and no room is wasted."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from lagkit.logs.files import digest_of
from lagkit.logs.lance import DiskCache, LanceStore, upkeep
from lagkit.logs.lance import store as module
from lagkit.logs.lance.catalog import log_rows
from lagkit.util.errors import DamagedBlock, StoreError
from tests.helpers.stores import content, fill, kv, same, trace, vector


def damage(server, bucket, part, change):
    """Alter, or with None remove, the objects with `part` in their names."""
    name = bucket.removeprefix("s3://")
    for key in server.keys(name, part):
        if change is None:
            server.client.delete_object(Bucket=name, Key=key)
        else:
            body = server.client.get_object(Bucket=name, Key=key)["Body"].read()
            server.client.put_object(Bucket=name, Key=key, Body=change(body))


@pytest.mark.parametrize("change", [None, lambda body: body[:-9] + b"x" * 9], ids=["missing", "altered"])
def test_a_lost_file_of_blocks_is_named_and_pruned(store, server, bucket, change):
    big = {"last": kv(1, tokens=20_000)}  # too large to stand among the columns
    first = store.add(trace(1), vector(1), big)
    damage(server, bucket, ".blob", change)
    second = fill(store, [2])[0]
    with LanceStore(store.path, True, cache=DiskCache(store._cache.folder, 0)) as fresh:
        with pytest.raises(DamagedBlock, match=rf"The KV block 'last' of log {first} is .* at s3:.* All other blocks"):
            fresh.block(first, "last")
        assert same(fresh.block(second, "last"), kv(2))
        assert fresh.verify()["log"].tolist() == [first]
        gone = fresh.prune()
        assert (gone["log"].tolist(), gone["bytes"].tolist()) == ([first], [store._blocks.find(first, "last").bytes])
        assert fresh.verify().empty
        assert (fresh.ids, fresh.block_keys(first)) == ([first, second], [])
        fresh.add(trace(1), vector(1), big)
        assert same(fresh.block(first, "last"), big["last"])


@pytest.mark.parametrize("table", ["logs", "blocks"])
def test_a_lost_data_file_takes_only_its_own_rows(store, server, bucket, table):
    fill(store, [1])
    damage(server, bucket, f"{table}.lance/data/", None)
    fill_later = [trace(2).id]
    with LanceStore(store.path, True, cache=DiskCache(store._cache.folder, 0)) as fresh:
        if table == "blocks":
            fill(fresh, [2])
            assert same(fresh.block(trace(2).id, "last"), kv(2))
            with pytest.raises(StoreError, match="has no KV block 'last'; it has: none"):
                fresh.block(trace(1).id, "last")
        found = fresh.verify()
        assert (found["file"][0], "cannot be read" in found["problem"][0]) == (f"{table}.lance", True)
        assert "data/" in found["problem"][0]
        fresh.prune()
        assert set(fresh.verify()["problem"]) <= {"its block 'last' is an orphan: no log of this id is there"}
        fill(fresh, [1, 2])
        assert sorted(fresh.ids) == sorted([trace(1).id, *fill_later])
        assert fresh.verify().empty
        assert all(same(fresh.block(trace(i).id, "last"), kv(i)) for i in (1, 2))


def test_a_log_that_is_there_twice_is_found_once_and_named_and_pruned(local):
    """LanceDB does not enforce that ids are unique: another program may append a row again."""
    one, two = fill(local, [1, 2])
    rows = [(log.id, log.embedding, log.trace) for log in local.packed()]
    table = log_rows(local.header, [(row, digest_of(row[2].encode())) for row in rows])
    local._logs.table.append(table)
    with LanceStore.open(local.path, write=True) as fresh:
        assert [hit.id for hit in fresh.search(vector(1)[None], 5)[0]] == [one, two]
        assert (fresh.ids, len(fresh)) == ([one, two], 2)
        said = [f"a row of it holds once more log {log}" for log in (one, two)]
        assert fresh.verify()["problem"].tolist() == said
        fresh.delete([one])
        assert (fresh.ids, fresh.verify()["problem"].tolist()) == ([two], said[1:])
        assert LanceStore.open(local.path).ids == [two]
        assert fresh.prune()["problem"].tolist() == said[1:]
        assert fresh.verify().empty
        assert same(fresh.block(two, "last"), kv(2))
    assert local.ids == [two]


def test_altered_bytes_of_any_file_are_never_taken_for_data(store, server, bucket):
    fill(store, range(3))
    name = bucket.removeprefix("s3://")
    expected = content(store)
    for key in server.keys(name, "/data/"):
        body = server.client.get_object(Bucket=name, Key=key)["Body"].read()
        for place in range(0, len(body), max(1, len(body) // 5)):
            altered = body[:place] + bytes([body[place] ^ 0x10]) + body[place + 1 :]
            server.client.put_object(Bucket=name, Key=key, Body=altered)
            with LanceStore(store.path, cache=DiskCache(store._cache.folder, 0)) as reader:
                for log in expected:
                    for ask, right in ((reader.get, trace), (lambda log: reader.block(log, "last"), kv)):
                        number = list(expected).index(log)
                        try:
                            found = ask(log)
                        except StoreError:
                            continue
                        assert found == trace(number) if right is trace else same(found, kv(number))
        server.client.put_object(Bucket=name, Key=key, Body=body)
    assert content(store) == expected


def test_blocks_without_a_log_are_pruned_when_nobody_can_need_them(local, monkeypatch):
    fill(local, [1])
    commit = local._logs.table.merge
    monkeypatch.setattr(local._logs.table, "merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fill(local, [2])
    monkeypatch.setattr(local._logs.table, "merge", commit)
    assert local.ids == [trace(1).id]
    assert local.verify()["problem"].tolist() == ["its block 'last' is an orphan: no log of this id is there"]
    assert local.prune().empty
    monkeypatch.setattr(upkeep, "GRACE", -10)
    assert local.prune()["log"].tolist() == [trace(2).id]
    assert local.verify().empty


def test_prune_gives_bytes_back(store, server, bucket, monkeypatch):
    monkeypatch.setattr(module, "KEEP", timedelta(milliseconds=1))
    ids = store.add_many((trace(i), vector(i), {"last": kv(i, tokens=2000)}) for i in range(10))
    name, held = bucket.removeprefix("s3://"), store.nbytes
    before = server.nbytes(name)
    assert held < before < 1.2 * held
    time.sleep(0.01)
    assert store.prune(max_bytes=held // 2)["log"].tolist() == ids[:6]
    assert 0.3 * held < store.nbytes <= held // 2
    assert server.nbytes(name) < 0.5 * before
    assert store.ids == ids[6:]
    assert store.verify().empty
    assert all(same(store.block(trace(i).id, "last"), kv(i, tokens=2000)) for i in range(6, 10))


def test_a_cap_is_held_without_reading_a_block(store, server):
    ids = fill(store, range(4))
    server.requests.clear()
    assert store.evict(store.nbytes) == []
    assert store.evict(store.nbytes - 1) == ids[:1]
    assert not [path for method, path in server.requests if method == "GET" and ".blob" in path]
    assert (store.ids, store.verify().empty) == (ids[1:], True)
    assert store.evict(0) == ids[1:]
    assert store.nbytes == 0
    with pytest.raises(StoreError, match="cannot be capped at -1 bytes"):
        store.evict(-1)


def test_the_table_of_logs_is_gathered_as_it_grows(local, monkeypatch):
    monkeypatch.setattr(module, "FRAGMENTS", 3)
    for i in range(9):
        fill(local, [i])
        assert local._logs.table.fragments() <= 4
    assert local.ids == [trace(i).id for i in range(9)]
    assert len(local.search(vector(0)[None], 20)[0]) == 9
