"""The log store when nothing goes wrong but the caller's arguments: identity, logs, blocks."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lagkit.logs import database
from lagkit.logs import store as store_module
from lagkit.logs.store import LogStore, Store
from lagkit.model.kv import KVBlock
from lagkit.util.errors import StoreError, StoreMismatch
from tests.helpers.stores import DIM, HEADER, files_of, fill, header, kv, new_store, same, trace, vector


def test_a_store_remembers_whose_it_is(place):
    new_store(place, dtype="torch.bfloat16").close()
    with Store.open(place, {"rope": "r1", "name": "tiny"}, embedder="mini") as store:
        assert (store.model, store.embedder) == ({"name": "tiny", "rope": "r1"}, "mini")
        assert (store.dim, store.dtype, store.writable, len(store)) == (DIM, "bfloat16", False, 0)


def test_another_models_store_is_refused_with_both_fingerprints(place):
    new_store(place).close()
    with pytest.raises(StoreMismatch) as error:
        Store.open(place, {"name": "tiny", "rope": "r2"})
    assert '{"name": "tiny", "rope": "r1"}' in str(error.value)
    assert '{"name": "tiny", "rope": "r2"}' in str(error.value)
    with pytest.raises(StoreMismatch, match='embedder "mini", but "arctic" was asked for'):
        Store.open(place, embedder="arctic")
    with pytest.raises(StoreMismatch, match='dim "8", but "16"'):
        Store.new(place, header(dim=16), exist_ok=True)
    with pytest.raises(StoreMismatch, match='dtype "float32", but "bfloat16"'):
        Store.new(place, header(dtype="bfloat16"), exist_ok=True)


def test_open_or_create_does_either(place):
    with Store.new(place, HEADER, exist_ok=True) as store:
        [log] = fill(store, [1])
    with Store.new(place, HEADER, exist_ok=True) as store:
        assert (store.ids, store.writable) == ([log], True)


def test_create_refuses_what_is_there(tmp_path):
    new_store(tmp_path / "s").close()
    with pytest.raises(StoreError, match=r"There is a log store at .* already"):
        new_store(tmp_path / "s")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match=r"holds other things \(thesis.txt\)"):
        new_store(tmp_path / "home")
    with pytest.raises(StoreError, match="No log store can be made at"):
        new_store(tmp_path / "home" / "thesis.txt")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["venv", "venv.lance"])
def test_a_folder_of_something_else_is_not_asked_to_give_up_its_links(tmp_path, name):
    (tmp_path / name / "bin").mkdir(parents=True)
    (tmp_path / name / "bin" / "python").symlink_to("/usr/bin/python3")
    with pytest.raises(StoreError, match=r"holds other things \(bin\): give a log store its own"):
        new_store(tmp_path / name)
    assert [p.name for p in (tmp_path / name).iterdir()] == ["bin"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "at least one; 0 was given"),
        ({"dtype": "float17"}, "'float17' is no dtype"),
        ({"dtype": "nn"}, "'nn' is no dtype"),
        ({"model": {"layers": {1, 2}}}, "must be a mapping that JSON can hold"),
        ({"embedder": None}, "the embedder's name"),
    ],
)
def test_create_refuses_a_malformed_identity_and_makes_nothing(place, changes, message):
    with pytest.raises(StoreError, match=message):
        new_store(place, **changes)
    assert not place.exists()


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"There is no log store at .*; make one with LogStore\.create"):
        LogStore.open(tmp_path)
    new_store(tmp_path / "s").close()
    written = json.loads((tmp_path / "s" / "store.json").read_text())
    head = {key: value for key, value in written.items() if key != "crc32"}
    for changed, message in [
        ({**head, "format": 5}, "format 5, newer than the 4"),
        (
            {**head, "format": 3},
            "format 3, of an earlier lagkit: make the store anew. That of a run can be deleted: the command",
        ),
        ({**head, "kind": "shop"}, "does not describe a log store"),
        ({**head, "colour": "red"}, "does not describe a log store"),
        ({**head, "dim": "8"}, "'8' was given"),
        ({**written, "dim": 9}, "does not describe a log store .its checksum is another"),
        ([1], "does not describe a log store"),
    ]:
        (tmp_path / "s" / "store.json").write_text(json.dumps(changed))
        with pytest.raises(StoreError, match=message):
            LogStore.open(tmp_path / "s")


def test_migrations_run_once_in_order_and_only_when_writing(tmp_path, monkeypatch):
    with new_store(tmp_path / "s") as store:
        before = fill(store, [1, 2])
    now = database.FIRST + len(database.MIGRATIONS)
    steps = (*database.MIGRATIONS, "ALTER TABLE logs ADD COLUMN note TEXT DEFAULT 'old';", "CREATE TABLE third (x);")
    monkeypatch.setattr(database, "MIGRATIONS", steps)
    with pytest.raises(StoreError, match=f"schema {now}, older than {now + 2}: open it once with write=True"):
        LogStore.open(tmp_path / "s")
    with LogStore.open(tmp_path / "s", write=True) as store:
        assert store._db.read("SELECT id, note FROM logs ORDER BY seq") == [(id, "old") for id in before]
        assert store._db.read("PRAGMA user_version") == [(now + 2,)]
    LogStore.open(tmp_path / "s", write=True).close()
    monkeypatch.undo()
    with pytest.raises(
        StoreError, match=f"schema {now + 2}, newer than the {now} that this lagkit knows: update lagkit"
    ):
        LogStore.open(tmp_path / "s")


def test_a_store_of_a_schema_before_the_first_is_refused(tmp_path):
    new_store(tmp_path / "s").close()
    with sqlite3.connect(tmp_path / "s" / "logs.sqlite") as raw:
        raw.execute("PRAGMA user_version = 2")
    raw.close()
    for write in (False, True):
        with pytest.raises(StoreError, match="has schema 2, of which no version of lagkit was released"):
            LogStore.open(tmp_path / "s", write=write)


def test_a_failed_migration_changes_nothing(tmp_path, monkeypatch):
    new_store(tmp_path / "s").close()
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, "CREATE TABLE more (x); SELECT nonsense;"))
    with pytest.raises(StoreError, match="nonsense"):
        LogStore.open(tmp_path / "s", write=True)
    monkeypatch.undo()
    with LogStore.open(tmp_path / "s", write=True) as store:
        assert store._db.read("SELECT name FROM sqlite_master WHERE name = 'more'") == []


def test_logs_come_back_as_they_went_in(store):
    ids = fill(store, range(5))
    assert ids == [trace(i).id for i in range(5)] == store.ids == list(store)
    assert len(store) == 5
    assert ids[3] in store
    assert "log1-x" not in store
    assert store.get(ids[3]) == trace(3)
    assert list(store.traces()) == [trace(i) for i in range(5)]
    with pytest.raises(StoreError, match=r"no log 'log1-x' in the store at .*, which has 5 logs"):
        store.get("log1-x")


def test_adding_again_changes_nothing_but_brings_missing_blocks(store):
    log = store.add(trace(1), vector(1), {"a": kv(1)})
    files = files_of(store)
    assert store.add(trace(1), vector(2), {"a": kv(9)}) == log
    assert (len(store), files_of(store)) == (1, files)
    assert same(store.block(log, "a"), kv(1))
    assert store.search(vector(1)[None], 1)[0][0].score == pytest.approx(1, abs=1e-6)
    store.add(trace(1), vector(1), {"b": kv(2)})
    store.put_block(log, "c", kv(3))
    store.put_block(log, "c", kv(4))
    assert store.block_keys(log) == ["a", "b", "c"]
    assert same(store.block(log, "b"), kv(2))
    assert same(store.block(log, "c"), kv(3))
    assert [store.has_block(log, key) for key in ("a", "z")] == [True, False]
    assert not store.has_block("log1-x", "a")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [0, 1, 150])
def test_blocks_are_equal_bit_by_bit(place, dtype, tokens):
    drawn = torch.randn(2, 3, 2, tokens, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    block = KVBlock(drawn[0], drawn[1], torch.arange(tokens))
    with new_store(place, dtype=str(dtype)) as store:
        log = store.add(trace(1), vector(1), {"k": block})
        assert same(store.block(log, "k"), block)
    with Store.open(place) as store:
        assert same(store.block(log, "k"), block)


def test_an_unknown_key_is_answered_with_the_known_ones(store):
    log = store.add(trace(1), vector(1), {"responses.last.bare": kv(1), "kept.all.bare": kv(2)})
    with pytest.raises(StoreError, match=r"no KV block 'nope'; it has: kept\.all\.bare, responses\.last\.bare"):
        store.block(log, "nope")
    bare = store.add(trace(2), vector(2))
    with pytest.raises(StoreError, match="it has: none"):
        store.block(bare, "nope")
    for ask in (store.block_keys, lambda log: store.block(log, "k"), lambda log: store.put_block(log, "k", kv(1))):
        with pytest.raises(StoreError, match="no log 'log1-x'"):
            ask("log1-x")


def test_equal_blocks_share_a_file_until_the_last_log_goes(store):
    one = store.add(trace(1), vector(1), {"last": kv(7), "all": kv(7)})
    two = store.add(trace(2), vector(2), {"last": kv(7)})
    assert len(files_of(store)) == 1
    store.delete([one])
    assert same(store.block(two, "last"), kv(7))
    store.delete([two])
    assert files_of(store) == []


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (vector(1, DIM - 1), rf"must be a row of {DIM} numbers; an array of shape \[1, {DIM - 1}\]"),
        (vector(1)[None], r"an array of shape \[1, 1, 8\]"),
        (vector(1) * 2, r"has length 2\.0000 instead of 1"),
        (np.zeros(DIM), r"has length 0\.0000 instead of 1"),
        (np.full(DIM, np.nan), "holds nan or inf"),
        (np.array([np.inf] + [0] * (DIM - 1)), "holds nan or inf"),
    ],
)
def test_a_wrong_embedding_is_refused(store, embedding, message):
    with pytest.raises(StoreError, match=f"The embedding of log {trace(1).id} {message}|{message}"):
        store.add(trace(1), embedding, {"k": kv(1)})
    assert (len(store), files_of(store)) == (0, [])


def test_embeddings_in_half_precision_or_torch_are_fine(store):
    half = store.add(trace(1), vector(1).astype(np.float16))
    full = store.add(trace(2), torch.from_numpy(vector(2)))
    assert [hits[0].id for hits in store.search(np.stack([vector(1), vector(2)]), 1)] == [half, full]


def test_a_block_of_another_dtype_is_refused(store):
    log = store.add(trace(1), vector(1))
    with pytest.raises(StoreError, match=r"Block 'k' of log log2-\w+ is bfloat16, the store at .* holds float32"):
        store.put_block(log, "k", kv(1, dtype=torch.bfloat16))
    assert (store.block_keys(log), files_of(store)) == ([], [])


def test_logs_before_a_failing_one_are_kept(store):
    def logs():
        yield trace(1), vector(1), {"k": kv(1)}
        yield trace(2), vector(2), {"k": kv(2)}
        yield trace(3), vector(3), {"ok": kv(3), "wrong": kv(3, dtype=torch.float16)}
        raise AssertionError("not reached")

    with pytest.raises(StoreError, match="Block 'wrong'"):
        store.add_many(logs())
    assert list(store.traces()) == [trace(1), trace(2)]
    assert (len(files_of(store)), store.verify().empty) == (2, True)


def test_an_interrupted_iterable_keeps_what_it_gave(store):
    def logs():
        yield trace(1), vector(1), {}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add_many(logs())
    assert store.ids == [trace(1).id]
    assert store.add_many([]) == []


@pytest.mark.parametrize(("seconds", "seen"), [(0, [0, 1, 2]), (1e9, [0, 0, 0])])
def test_add_many_commits_as_time_passes(folder_store, monkeypatch, seconds, seen):
    monkeypatch.setattr(store_module, "COMMIT_EVERY", seconds)
    counts = []
    with LogStore.open(folder_store.path) as reader:

        def logs():
            for i in range(3):
                counts.append(len(reader))
                yield trace(i), vector(i), {"k": kv(i)}

        folder_store.add_many(logs())
        assert (counts, len(reader)) == (seen, 3)


def test_the_iterable_may_read_the_store_but_not_change_it(store):
    [first] = fill(store, [1])

    def logs():
        assert store.search(vector(1)[None], 1)[0][0].id == first
        yield trace(2), vector(2), {"k": store.block(first, "last")}
        store.delete([first])

    with pytest.raises(StoreError, match="is adding logs: change it after that"):
        store.add_many(logs())
    assert store.ids == [first, trace(2).id]
    store.delete([first])
    assert same(store.block(trace(2).id, "k"), kv(1))


def test_any_thread_may_use_a_store(place):
    with new_store(place) as writer, Store.open(place) as reader:
        ids = fill(writer, range(3))
        added = threading.Thread(target=lambda: ids.extend(fill(writer, range(3, 60))))
        added.start()

        def ask(i: int) -> None:
            for store in (writer, reader):
                assert store.get(ids[i % 3]) == trace(i % 3)
                assert store.search([vector(i % 3)], k=1)[0][0].id == ids[i % 3]
                assert same(store.block(ids[i % 3], "last"), kv(i % 3))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(60)))
        added.join(60)
        assert writer.ids == reader.ids == ids
        assert len(writer.search([vector(0)], k=100)[0]) == len(ids) == 60
        closer = threading.Thread(target=writer.close)
        closer.start()
        closer.join(60)
        Store.open(place, write=True).close()
