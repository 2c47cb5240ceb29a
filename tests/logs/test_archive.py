"""Exported log stores: the same bit by bit, whatever fails on the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lagkit.__main__ import main
from lagkit.logs.archive import Archive
from lagkit.logs.store import LogStore
from lagkit.model.kv import KVBlock
from lagkit.util.errors import StoreError, StoreMismatch
from tests.helpers.stores import content, files_of, fill, kv, new_store, same, trace, vector


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "store") as store:
        yield store


def test_export_and_import_are_inverse_bit_by_bit(store, tmp_path):
    ids = store.add_many((trace(i), vector(i), {"a": kv(i), "b": kv(0, tokens=0)} if i else {}) for i in range(6))
    assert store.export(tmp_path / "logs.tar") == tmp_path / "logs.tar"
    with new_store(tmp_path / "copy") as copy:
        assert copy.import_archive(tmp_path / "logs.tar") == ids
        assert content(copy) == content(store)
        assert copy.search(vector(3)[None], 6) == store.search(vector(3)[None], 6)
        assert files_of(copy) == files_of(store)
        copy.export(tmp_path / "again.tar")
        assert copy.verify().empty
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "logs.tar").read_bytes()
    with pytest.raises(StoreError, match=r"logs\.tar exists already"):
        store.export(tmp_path / "logs.tar")


def test_import_adds_to_what_is_there(store, tmp_path):
    fill(store, [1, 2])
    store.export(tmp_path / "logs.tar")
    with new_store(tmp_path / "other") as other:
        mine = other.add(trace(2), vector(2), {"last": kv(50), "mine": kv(51)})
        assert other.import_archive(tmp_path / "logs.tar") == [trace(1).id, mine]
        assert other.ids == [mine, trace(1).id]
        assert same(other.block(mine, "last"), kv(50))
        assert same(other.block(trace(1).id, "last"), kv(1))
        assert (other.verify().empty, len(files_of(other))) == (True, 3)
    with new_store(tmp_path / "empty") as empty:
        empty.export(tmp_path / "empty.tar")
        assert store.import_archive(tmp_path / "empty.tar") == []


@pytest.mark.parametrize("change", [{"model": {"name": "big"}}, {"embedder": "x"}, {"dim": 9}, {"dtype": "float16"}])
def test_import_into_another_models_store_is_refused(store, tmp_path, change):
    fill(store, [1])
    store.export(tmp_path / "logs.tar")
    with (
        new_store(tmp_path / "other", **change) as other,
        pytest.raises(StoreMismatch, match=rf"logs\.tar was built with {next(iter(change))} .* was asked for"),
    ):
        other.import_archive(tmp_path / "logs.tar")
    with LogStore.open(tmp_path / "other") as other:
        assert (len(other), files_of(other)) == (0, [])


def test_an_archive_is_opened_once_and_its_blocks_only_for_a_store_of_its_model(store, tmp_path, monkeypatch, capsys):
    fill(store, [1, 2])
    file, parsed, opened, parse = store.export(tmp_path / "logs.tar"), [], [], KVBlock.parse
    monkeypatch.setattr(KVBlock, "parse", lambda *given: parsed.append(given) or parse(*given))
    read = Archive._read
    monkeypatch.setattr(Archive, "_read", lambda self: opened.append(self) or read(self))
    with new_store(tmp_path / "other", model={"name": "big"}) as other:
        for path in (file, str(file)):
            with pytest.raises(StoreMismatch):
                other.import_archive(path)
    assert main(["store", "import", str(tmp_path / "other"), str(file)]) == 2
    assert "was built with model" in capsys.readouterr().err
    assert (len(opened), parsed) == (3, [])
    for new in (2, 0):
        assert main(["store", "import", str(tmp_path / "new"), str(file)]) == 0
        assert f"{new} of 2 logs were new" in capsys.readouterr().out
    assert (len(opened), len(parsed)) == (5, 4)


def test_an_export_that_fails_ends_its_snapshot(store, tmp_path, monkeypatch):
    fill(store, [1])
    monkeypatch.setattr("lagkit.logs.archive.json", None)
    with pytest.raises(AttributeError) as held:
        store.export(tmp_path / "logs.tar")
    assert held.tb  # which holds all that was going on
    assert not store._db._connection.in_transaction


def test_a_full_disk_while_importing_leaves_the_store_as_it_was(store, tmp_path, monkeypatch):
    fill(store, range(4))
    store.export(tmp_path / "good.tar")
    write, written = Path.write_bytes, []

    def filling(path, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(path, content))

    with new_store(tmp_path / "target") as target:
        fill(target, [1])
        before, files = content(target), files_of(target)
        monkeypatch.setattr(Path, "write_bytes", filling)
        with pytest.raises(StoreError, match=r"Block 'last' of log \S+ could not be stored in .*the disk is full"):
            target.import_archive(tmp_path / "good.tar")
        assert (content(target), files_of(target), len(written)) == (before, files, 2)
        monkeypatch.undo()
        target.import_archive(tmp_path / "good.tar")
        assert len(target) == 4


def test_a_failed_export_leaves_no_file(store, tmp_path, monkeypatch):
    fill(store, [1])
    with pytest.raises(StoreError, match=r"The archive .*logs\.tar could not be written"):
        store.export(tmp_path / "nowhere" / "logs.tar")

    def failing(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match=r"could not be written .*No space left on device"):
        store.export(tmp_path / "logs.tar")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    fill(store, [2])
