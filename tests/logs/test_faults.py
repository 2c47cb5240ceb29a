"""The log store when disks fill, processes die and files rot: nothing committed is lost, nothing wrong is returned."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

import lagkit.logs.store
from lagkit.logs.store import LogStore
from lagkit.util.errors import DamagedBlock, StoreError
from tests.helpers.killed import clean, needs_forks
from tests.helpers.stores import content, file_of, files_of, fill, kv, new_store, same, trace, vector


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "store") as store:
        yield store


# Full disks


def disk_full(path, content):
    path.write_text("half a block")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_store_as_it_was(store, monkeypatch):
    [old] = fill(store, [1])
    before, files = content(store), files_of(store)
    monkeypatch.setattr(Path, "write_bytes", disk_full)
    message = rf"Block 'k' of log {trace(2).id} could not be stored in .*: it needs [0-9]{{3}} bytes, but the disk"
    with pytest.raises(StoreError, match=message):
        store.add(trace(2), vector(2), {"k": kv(2)})
    with pytest.raises(StoreError, match=r"disk is full \([\d,]+ bytes are free\)\. The store is as it was before"):
        store.put_block(old, "k", kv(2))
    assert (content(store), files_of(store)) == (before, files)
    monkeypatch.undo()
    store.add(trace(2), vector(2), {"k": kv(2)})
    assert (len(store), store.verify().empty) == (2, True)


def test_a_block_whose_sync_fails_is_not_committed(store, monkeypatch):
    def failing(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match=r"it needs \d{3} bytes, but .*Input/output error"):
        store.add(trace(2), vector(2), {"k": kv(2)})
    monkeypatch.undo()
    assert (len(store), files_of(store)) == (0, [])


def test_a_file_is_synced_and_named_durably_before_its_row_is_committed(store, monkeypatch):
    seen = []
    fsync, replace, commit = os.fsync, os.replace, store._commit
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(("sync", os.fstat(fd).st_ino)) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: seen.append(("rename", os.stat(a).st_ino)) or replace(a, b))
    monkeypatch.setattr(store, "_commit", lambda *rows: seen.append(("commit", 0)) or commit(*rows))
    path = file_of(store, fill(store, [1])[0])
    file, folder = path.stat().st_ino, path.parent.stat().st_ino
    assert seen[-4:] == [("sync", file), ("rename", file), ("sync", folder), ("commit", 0)]
    assert store._db.read("PRAGMA synchronous") == [(2,)]  # FULL: SQLite syncs the commit itself


def test_a_full_database_takes_the_files_back(store, monkeypatch):
    fill(store, [1])
    before, files = content(store), files_of(store)
    monkeypatch.setattr(lagkit.logs.store, "COMMIT_EVERY", 1e9)
    [(pages,)] = store._db.read("PRAGMA page_count")
    store._db.read(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(StoreError, match=r"could not take [\d,]{6,} bytes of rows \(database or disk is full\)"):
        fill(store, range(2, 40))
    assert (content(store), files_of(store)) == (before, files)
    store._db.read("PRAGMA max_page_count = 100000")
    fill(store, range(2, 40))
    assert (len(store), store.verify().empty) == (39, True)


def limited_writer(path):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    with LogStore.open(path, write=True) as store:
        try:
            store.add(trace(2), vector(2), {"k": kv(2, tokens=10_000)})
        except StoreError as error:
            ok = "it needs 680,2" in str(error) and "bytes, but the disk is full" in str(error) and store.verify().empty
            store.add(trace(3), vector(3), {"k": kv(3)})
            os._exit(0 if ok else 1)
    os._exit(2)


@needs_forks
def test_the_systems_own_limit_is_met_the_same_way(store):
    fill(store, [1])
    store.close()
    child = clean.Process(target=limited_writer, args=(store.path,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    with LogStore.open(store.path) as reader:
        assert list(reader.traces()) == [trace(1), trace(3)]
        assert (len(files_of(reader)), reader.verify().empty) == (2, True)


def test_an_interruption_before_the_commit_leaves_no_file(store, monkeypatch):
    def interrupted(needed=0):
        raise KeyboardInterrupt

    monkeypatch.setattr(store._db, "transaction", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(store, [1])
    monkeypatch.undo()
    assert (len(store), files_of(store)) == (0, [])


# Damaged files


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (flip, "is damaged: its content is not what was stored"),
        (truncate, "is damaged: it has 204 bytes instead of 408"),
        (empty, "is damaged: it has 0 bytes instead of 408"),
        (remove, "is missing"),
    ],
)
def test_a_damaged_block_is_named_and_the_rest_stays_usable(store, damage, flaw):
    one, two = fill(store, [1, 2])
    path, size = file_of(store, one), file_of(store, one).stat().st_size
    damage(path)
    flaw = flaw.replace("204", str(size // 2)).replace("408", str(size))
    with LogStore.open(store.path) as reader:
        for _ in range(2):
            with pytest.raises(DamagedBlock) as error:
                reader.block(one, "last")
            assert f"The KV block {path} {flaw}. All other blocks stay usable; verify() lists" in str(error.value)
        assert same(reader.block(two, "last"), kv(2))
        assert reader.get(one) == trace(1)
        assert reader.has_block(one, "last")
    relative = path.relative_to(store.path).as_posix()
    assert store.verify().to_numpy().tolist() == [[relative, one, f"the file of block 'last' {flaw}"]]
    with pytest.raises(DamagedBlock):
        store.export(store.path.parent / "logs.tar")
    assert [p.name for p in store.path.parent.iterdir()] == ["store"]
    left = path.stat().st_size if path.exists() else 0
    assert store.prune().to_numpy().tolist() == [[relative, one, f"the file of block 'last' {flaw}", left]]
    assert (store.verify().empty, store.block_keys(one), len(store)) == (True, [], 2)
    store.put_block(one, "last", kv(1))
    assert same(store.block(one, "last"), kv(1))


@pytest.mark.parametrize("damage", [flip, truncate, remove])
@pytest.mark.parametrize("number", [1, 5])
def test_adding_a_damaged_block_again_repairs_it(store, damage, number):
    [log] = fill(store, [1])
    damage(file_of(store, log))
    store.put_block(log, "last", kv(number))
    assert same(store.block(log, "last"), kv(number))
    assert (store.verify().empty, len(files_of(store))) == (True, 1)


def test_damage_is_noticed_however_often_a_block_was_read(store):
    [log] = fill(store, [1])
    assert same(store.block(log, "last"), kv(1))
    path = file_of(store, log)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedBlock, match="its content is not what was stored"):
        store.block(log, "last")


def test_a_block_deleted_or_replaced_while_it_is_looked_up(store, monkeypatch):
    one, two = fill(store, [1, 2])
    with LogStore.open(store.path) as reader:
        load = reader._files.load

        def meanwhile(change):
            def slow(*args):
                monkeypatch.undo()
                change()
                return load(*args)

            monkeypatch.setattr(reader._files, "load", slow)

        meanwhile(lambda: store.delete([one]))
        with pytest.raises(StoreError, match=f"There is no log '{one}'"):
            reader.block(one, "last")
        path = file_of(store, two)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"!")
        flaw = reader._files.flaw
        monkeypatch.setattr(reader._files, "flaw", lambda *args: path.write_bytes(content) and flaw(*args))
        with pytest.raises(DamagedBlock, match=f"The KV block {path} changed while it was read: ask for it again.$"):
            reader.block(two, "last")
        monkeypatch.undo()
        assert same(reader.block(two, "last"), kv(2))
        remove(file_of(store, two))
        meanwhile(lambda: store.put_block(two, "last", kv(3)))
        assert same(reader.block(two, "last"), kv(3))


def test_orphans_and_unfinished_files_are_listed_and_removed(store):
    [log] = fill(store, [1])
    for name in ("kv/new-1.safetensors", "kv/ab/abcd.safetensors", "kv/ab/notes.txt"):
        (store.path / name).parent.mkdir(exist_ok=True)
        (store.path / name).write_bytes(b"12345")
    problems = store.verify()
    assert problems["file"].tolist() == ["kv/ab/abcd.safetensors", "kv/ab/notes.txt", "kv/new-1.safetensors"]
    assert set(problems["problem"]) == {"is an orphan: no log names this file"}
    assert store.prune()["bytes"].tolist() == [5, 5, 5]
    assert (store.verify().empty, same(store.block(log, "last"), kv(1))) == (True, True)


def test_altered_rows_are_found_and_pruned(store, tmp_path):
    one, two, three, four = fill(store, [1, 2, 3, 4])
    store.close()
    with sqlite3.connect(store.path / "logs.sqlite") as raw:
        raw.execute("UPDATE traces SET json = replace(json, 'Be brief', 'Be long') WHERE seq = 1")
        raw.execute("UPDATE traces SET json = '{\"rounds\": 3' WHERE seq = 2")
        raw.execute("UPDATE logs SET embedding = x'00' WHERE seq = 3")
        raw.execute("DELETE FROM traces WHERE seq = 4")
    raw.close()
    with LogStore.open(store.path, write=True) as store:
        problems = store.verify()
        assert problems["log"].tolist() == [one, two, three, four]
        assert problems["problem"].tolist() == [
            *["its trace is damaged"] * 2, "its embedding is damaged (1 bytes)", "its trace is missing",
        ]  # fmt: skip
        for log in (one, two):
            with pytest.raises(StoreError, match=rf"The trace of {log} in .* is damaged: prune\(\) removes this log"):
                store.get(log)
        with pytest.raises(StoreError, match=r"damaged embeddings: verify\(\) names their logs, prune\(\) removes"):
            store.search(vector(1)[None], 1)
        with pytest.raises(StoreError, match=rf"Log {one} cannot be exported: its trace is damaged\. prune"):
            store.export(tmp_path / "logs.tar")
        pruned = store.prune()
        assert pruned["problem"].tolist()[:4] == problems["problem"].tolist()
        assert (len(store), store.verify().empty, files_of(store)) == (0, True, [])
        fill(store, [1, 2])
        assert content(store).keys() == {one, two}


def test_a_ruined_database_is_a_store_error(store):
    fill(store, range(40))
    store.close()
    path = store.path / "logs.sqlite"
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 4096))
    with LogStore.open(store.path) as store, pytest.raises(StoreError, match=r"cannot be read .*malformed"):
        store.get(trace(1).id)
    path.write_bytes(b"no database at all" * 300)
    for write in (False, True):
        with pytest.raises(StoreError, match=r"cannot be opened .*not a database"):
            LogStore.open(store.path, write=write)
    path.unlink()
    with pytest.raises(StoreError, match="cannot be opened"):
        LogStore.open(store.path)
