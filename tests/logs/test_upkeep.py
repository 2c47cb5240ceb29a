"""Opening a log store, its size, making it smaller, carrying it elsewhere."""

from __future__ import annotations

import ast
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import lagkit
from lagkit.logs import database
from lagkit.logs.store import LogStore
from lagkit.model.kv import KVBlock
from lagkit.util.errors import StoreError, StoreLocked
from tests.helpers.stores import content, file_of, files_of, fill, kv, new_store, same, trace, vector


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "store") as store:
        yield store


def test_opening_reads_neither_logs_nor_embeddings(tmp_path, monkeypatch):
    asked = []
    read = database.Database.read
    monkeypatch.setattr(
        database.Database, "read", lambda self, sql, *values: asked.append(sql) or read(self, sql, *values)
    )
    for size in (1, 300):
        with new_store(tmp_path / str(size)) as store:
            store.add_many((trace(i), vector(i), {}) for i in range(size))
        asked.clear()
        with LogStore.open(tmp_path / str(size)) as store:
            assert asked == ["PRAGMA user_version"]
            assert store._vectors._index is None
            assert len(store.search(vector(1)[None], 400)[0]) == size


def snapshot(folder):
    coordination = ("logs.sqlite-shm", "logs.sqlite-wal")
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in coordination]
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


def test_reading_changes_no_file(store, tmp_path):
    ids = fill(store, range(3))
    store.close()
    before = snapshot(store.path)
    with LogStore.open(store.path) as reader:
        reader.search(vector(1)[None], 3)
        content(reader)
        reader.verify()
        reader.export(tmp_path / "logs.tar")
        for change in (
            lambda: reader.add(trace(9), vector(9)),
            lambda: reader.put_block(ids[0], "k", kv(1)),
            lambda: reader.delete(ids),
            lambda: reader.prune(),
            lambda: reader.import_archive(tmp_path / "logs.tar"),
        ):
            with pytest.raises(StoreError, match="is open for reading only: open it with write=True"):
                change()
    assert snapshot(store.path) == before


@contextmanager
def without_rights(folder):
    """Nobody may write into the folder, this process included."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        for parent in folder.parents[:-2]:
            parent.chmod(0o755)
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o755)


def test_a_store_on_read_only_media_can_be_read(store):
    [log] = fill(store, [1])
    store.close()
    with without_rights(store.path):
        with LogStore.open(store.path) as reader:
            assert reader.get(log) == trace(1)
            assert reader.search(vector(1)[None], 1)[0][0].id == log
            assert same(reader.block(log, "last"), kv(1))
        with pytest.raises(StoreError, match=r"cannot be written to|cannot be opened"):
            LogStore.open(store.path, write=True)


def test_a_second_writer_is_refused_at_once_and_readers_are_not(store):
    with pytest.raises(StoreLocked, match=r"Another process, or another LogStore of this one, is writing to .*: wait"):
        LogStore.open(store.path, write=True)
    with LogStore.open(store.path) as reader:
        assert len(reader) == 0
    store.close()
    with LogStore.open(store.path, write=True) as again:
        fill(again, [1])
    store.close()


def test_a_closed_store_says_so(store):
    fill(store, [1])
    store.close()
    for ask in (lambda: len(store), lambda: store.search(vector(1)[None], 1), lambda: fill(store, [2]), store.prune):
        with pytest.raises(StoreError, match="was closed; open it again"):
            ask()


def test_repr_and_html(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = {"name": "<script>alert(1)</script>"}
    with new_store(tmp_path / "a<b", model=model) as store:
        store.add(trace(1), vector(1), {"<i>key</i>": kv(1)})
        assert repr(store) == "LogStore('a<b', writable, 1 logs)"
        html = store._repr_html_()
    assert "<script>" not in html
    assert "<i>" not in html
    for shown in ("a&lt;b", "&lt;script&gt;alert(1)", "&lt;i&gt;key", "mini (8 dimensions)", f"{kv(1).ids.numel()}"):
        assert shown in html


def test_delete_refuses_unknown_ids_before_deleting_any(store):
    ids = fill(store, range(3))
    with pytest.raises(StoreError, match=r"There is no log 'log1-x' .*; nothing was deleted"):
        store.delete([ids[0], "log1-x"])
    assert store.ids == ids
    store.delete(ids[0])
    store.delete([ids[2], ids[2]])
    assert (store.ids, len(files_of(store)), store.verify().empty) == ([ids[1]], 1, True)


def test_summary_and_sizes(store):
    assert store.summary().empty
    ids = store.add_many((trace(i), vector(i), {"a": kv(i, tokens=i), "b": kv(100, tokens=2)}) for i in range(4))
    summary = store.summary()
    assert summary.index.tolist() == ["a", "b"]
    assert summary[["logs", "tokens"]].to_numpy().tolist() == [[4, 6], [4, 8]]
    sizes = [file_of(store, log, "a").stat().st_size for log in ids]
    assert summary["bytes"].tolist() == [sum(sizes), 4 * file_of(store, ids[0], "b").stat().st_size]
    assert store.nbytes == sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())


def test_bytes_per_token_are_within_two_percent_of_the_keys_and_values(tmp_path):
    layers, heads, dim, tokens = 30, 3, 64, 150  # SmolLM2-135M
    with new_store(tmp_path / "s", dtype="bfloat16", dim=384) as store:
        for i in range(3):
            drawn = torch.randn(2, layers, heads, tokens, dim).bfloat16()
            block = KVBlock(drawn[0], drawn[1], torch.arange(tokens))
            store.add(trace(i), vector(i, 384), {"k": block})
        ideal = 3 * tokens * 2 * layers * heads * dim * 2
        assert 1 < store.summary()["bytes"].sum() / ideal < 1.001
    assert LogStore.open(tmp_path / "s").nbytes / ideal < 1.02


def test_prune_to_a_size_removes_the_oldest_logs(store):
    ids = store.add_many((trace(i), vector(i), {"k": kv(i, tokens=200)}) for i in range(30))
    store._db.reclaim()
    full, per_log = store.nbytes, file_of(store, ids[0], "k").stat().st_size
    assert per_log > 13_000
    report = store.prune(max_bytes=full - 10 * per_log)
    assert store.nbytes <= full - 10 * per_log
    assert store.ids == ids[10:]
    assert report["log"].tolist() == ids[:10]
    assert set(report["problem"]) == {f"was the oldest in a store above {full - 10 * per_log:,} bytes"}
    assert (report["bytes"] >= per_log).all()
    assert [hit.id for hit in store.search(vector(0)[None], 30)[0]] != []
    assert store.verify().empty
    assert store.prune(max_bytes=store.nbytes).empty
    assert same(store.block(ids[10], "k"), kv(10, tokens=200))


def test_prune_counts_a_shared_file_with_its_last_log(store):
    ids = store.add_many((trace(i), vector(i), {"k": kv(0 if i < 5 else i, tokens=500)}) for i in range(10))
    store._db.reclaim()
    store.prune(max_bytes=store.nbytes - kv(0, tokens=500).nbytes // 2)  # more than the rows of four logs take
    assert store.ids == ids[5:]
    assert store.verify().empty


def test_prune_to_nothing_leaves_a_working_empty_store(store):
    fill(store, range(5))
    assert store.prune(max_bytes=0)["log"].tolist() == [trace(i).id for i in range(5)]
    assert (len(store), files_of(store)) == (0, [])
    fill(store, [1])
    assert store.search(vector(1)[None], 1)[0][0].id == trace(1).id
    with pytest.raises(StoreError, match="cannot be pruned to -1 bytes"):
        store.prune(max_bytes=-1)


def test_nothing_is_ever_unpickled():
    barred_modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
    barred_calls = {
        ("torch", "load"),
        ("np", "load"),
        ("numpy", "load"),
        ("pd", "read_pickle"),
        ("pandas", "read_pickle"),
    }
    found, files = [], list(Path(lagkit.__file__).parent.rglob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(file.name, name) for name in names if name.split(".")[0] in barred_modules]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found += [(file.name, node.attr)] * ((node.value.id, node.attr) in barred_calls)
    assert found == []
    assert len(files) > 8
