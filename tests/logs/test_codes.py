"""The file of codes, which the next search of many logs starts from."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from lagkit.logs import quantised
from lagkit.logs.store import LogStore
from lagkit.util import files
from lagkit.util.errors import StoreError
from tests.helpers.codes import add, few_are_many, ids, told
from tests.helpers.stores import new_store

N, DIM = 640, 32  # more than centroids are learnt from here


def drawn(n: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, DIM), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


LOGS, MORE, QUERIES = np.split(drawn(2 * N + 20), [N, 2 * N])
IDS = [told(i).id for i in range(2 * N)]
FILE = quantised.NAME


@pytest.fixture(scope="module", autouse=True)
def _few_are_many():
    with few_are_many():
        yield


@pytest.fixture(scope="module")
def _large(tmp_path_factory):
    """A closed store of N made-up logs."""
    with new_store(tmp_path_factory.mktemp("codes") / "store", dim=DIM) as store:
        add(store, LOGS)
    return store.path


@pytest.fixture
def large(_large, tmp_path):
    """A copy of it."""
    return shutil.copytree(_large, tmp_path / "store")


@pytest.fixture
def loads(monkeypatch):
    """Counts how often codes are read from a file, and learnt."""
    counts = {"load": 0, "learn": 0}
    for name in counts:
        call = getattr(quantised.QuantisedIndex, name)

        def counted(*args, name=name, call=call):
            counts[name] += 1
            return call(*args)

        monkeypatch.setattr(quantised.QuantisedIndex, name, staticmethod(counted))
    return counts


def held(folder) -> tuple[int, int]:
    """The number of the last log in the file, and how many it has."""
    index = quantised.QuantisedIndex.load(folder, DIM)
    return index.last, len(index)


def test_a_writer_leaves_codes_when_it_closes_and_readers_start_from_them(tmp_path, loads):
    with new_store(tmp_path / "s", dim=DIM) as store:
        add(store, LOGS[:199])
    assert not (store.path / FILE).exists()
    with LogStore.open(store.path, write=True) as store:
        add(store, LOGS[199:400], 199)
        assert not (store.path / FILE).exists()
    assert loads == {"load": 0, "learn": 1} or loads == {"load": 1, "learn": 1}
    size = (store.path / FILE).stat().st_size
    assert size < 400 * DIM + 5_000
    assert store.nbytes > size
    loads.update(load=0, learn=0)
    with LogStore.open(store.path) as reader:
        assert ids(reader.search(LOGS[:400], 1)) == [[id] for id in IDS[:400]]
    assert loads == {"load": 1, "learn": 0}


def test_codes_follow_additions_and_deletions_by_others(large, loads):
    with LogStore.open(large, write=True) as writer, LogStore.open(large) as reader:
        stores = (writer, reader)
        assert all(ids(store.search(LOGS[:3], 1)) == [[id] for id in IDS[:3]] for store in stores)
        add(writer, MORE[:60], N)
        assert all(ids(store.search(MORE[:50], 1)) == [[id] for id in IDS[N : N + 50]] for store in stores)
        writer.delete(IDS[N : N + 60 : 2])
        for store in stores:
            assert ids(store.search(MORE[:50], 1))[1::2] == [[id] for id in IDS[N + 1 : N + 50 : 2]]
            assert not {id for row in ids(store.search(MORE[:60], 9)) for id in row} & set(IDS[N : N + 60 : 2])
        assert loads["learn"] == 0


def test_the_file_is_written_anew_when_much_is_new_or_gone(large, loads):
    before = held(large)
    assert before == (N, N)
    with LogStore.open(large, write=True) as store:
        add(store, MORE[:64], N)
    assert held(large) == before
    with LogStore.open(large, write=True) as store:
        add(store, MORE[64:96], N + 64)
    assert held(large) == (N + 96, N + 96)
    assert loads["learn"] == 0
    with LogStore.open(large, write=True) as store:
        add(store, MORE[96:], N + 96)
        assert ids(store.search(MORE[-9:], 1)) == [[id] for id in IDS[-9:]]
    assert held(large) == (2 * N, 2 * N)
    assert loads["learn"] == 1  # from twice as many logs
    with LogStore.open(large, write=True) as store:
        store.delete(IDS[: N // 2])
        store.search(QUERIES[:1], 1)
    assert held(large) == (2 * N, 2 * N - N // 2)


def damages():
    def replaced(path, make):
        path.write_bytes(make(path.read_bytes()))

    return {
        "missing": lambda path: path.unlink(),
        "empty": lambda path: replaced(path, lambda raw: b""),
        "torn": lambda path: replaced(path, lambda raw: raw[: len(raw) // 2]),
        "zeros": lambda path: replaced(path, lambda raw: raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2)),
        "rotten codes": lambda path: replaced(path, lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]),
        "rotten head": lambda path: replaced(path, lambda raw: raw.replace(b'"trained":"640"', b'"trained":"641"')),
        "other arrays": lambda path: replaced(path, lambda raw: raw.replace(b'"seqs"', b'"sets"')),
    }


@pytest.mark.parametrize("damage", damages())
def test_damaged_codes_are_named_made_anew_and_change_nothing(large, damage, loads, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    with LogStore.open(large) as store:
        wanted = store.search(QUERIES, 3)
    damages()[damage](large / FILE)
    loads.update(load=0, learn=0)
    with LogStore.open(large) as reader:
        assert reader.search(QUERIES, 3) == wanted
        assert loads == {"load": 1, "learn": 1}
        problems = reader.verify()
    if damage != "missing":
        assert "is damaged: " in capsys.readouterr().err
        [[file, log, problem]] = problems.to_numpy().tolist()
        assert (file, log) == (FILE, "")
        assert problem.startswith("is damaged (")
        assert problem.endswith("), and only saves time")
    with LogStore.open(large, write=True) as writer:
        gone = writer.prune()
        assert gone["file"].tolist() == problems["file"].tolist()
        assert not (large / FILE).exists()
        assert writer.verify().empty
        assert writer.search(QUERIES, 3) == wanted
        assert writer.verify().empty
    assert held(large) == (N, N)


def test_codes_of_another_store_are_noticed(large, tmp_path, loads, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    other = drawn(N, seed=5)
    with new_store(tmp_path / "other", dim=DIM) as store:
        add(store, other)
    shutil.copy(large / FILE, store.path / FILE)
    loads.update(load=0, learn=0)
    with LogStore.open(store.path) as store:
        assert ids(store.search(other[:50], 1)) == [[id] for id in IDS[:50]]
    assert loads == {"load": 1, "learn": 1}
    assert "are of other logs; they are made anew" in capsys.readouterr().err


def test_a_database_put_back_is_noticed(large, loads):
    """The last logs are others than when the codes were written, under the same numbers."""
    with LogStore.open(large) as store:
        store.export(large.parent / "a.tar")
    older = shutil.copytree(large, large.parent / "older")
    with LogStore.open(large, write=True) as store:
        add(store, MORE[:100], N)
    shutil.copy(large / FILE, older / FILE)
    with LogStore.open(older, write=True) as store:
        add(store, MORE[99::-1], N)
        loads.update(load=0, learn=0)
        assert ids(store.search(MORE[99:49:-1], 1)) == [[id] for id in IDS[N : N + 50]]
    assert loads["learn"] == 1


def test_codes_that_cannot_be_written_or_read_are_done_without(large, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    with LogStore.open(large) as store:
        wanted = store.search(QUERIES, 3)

    def full(*_):
        raise OSError(28, "No space left on device")

    (large / FILE).unlink()
    with monkeypatch.context() as patch, LogStore.open(large, write=True) as writer:
        patch.setattr(files, "publish", full)
        assert writer.search(QUERIES, 3) == wanted
        assert "could not be written ([Errno 28] No space left" in capsys.readouterr().err
        assert sorted(path.name for path in large.iterdir() if path.name.startswith("search")) == []

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, LogStore.open(large) as reader:
        patch.setattr(quantised, "open", denied, raising=False)
        assert reader.search(QUERIES, 3) == wanted
        assert "Permission denied; the codes of all logs are made anew" in capsys.readouterr().err
        with pytest.raises(StoreError, match="may not be read"):
            reader.verify()


def test_a_reader_writes_nothing(large):
    (large / FILE).unlink()
    with LogStore.open(large) as reader:
        reader.search(QUERIES[:1], 1)
    assert not (large / FILE).exists()


def test_who_interrupts_need_not_wait_for_codes(tmp_path, loads):
    def interrupted():
        yield from ((told(i), row, {}) for i, row in enumerate(LOGS[:300]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), new_store(tmp_path / "s", dim=DIM) as store:
        store.add_many(interrupted())
    assert not (store.path / FILE).exists()
    with LogStore.open(store.path, write=True) as store:
        assert len(store) == 300
    assert (store.path / FILE).exists()


def test_codes_that_were_interrupted_are_not_gone_on_with(large, monkeypatch):
    with LogStore.open(large, write=True) as writer, LogStore.open(large) as reader:
        reader.search(QUERIES[:1], 1)
        add(writer, MORE[:100], N)

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(quantised.Progress, "update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                reader.search(QUERIES[:1], 1)
        assert ids(reader.search(MORE[:100], 1)) == [[id] for id in IDS[N : N + 100]]
        assert len(reader._vectors._quantised._index) == N + 100


def test_codes_in_a_store_of_odd_dimension_are_damaged(tmp_path, large):
    with new_store(tmp_path / "odd", dim=7) as store:
        shutil.copy(large / FILE, store.path / FILE)
        assert store.verify()["problem"].tolist() == [
            "is damaged (codes are of two numbers each, and 7 is odd), and only saves time"
        ]


def test_an_unfinished_file_is_an_orphan(large):
    unfinished = large / f"{quantised.NAME}.0123.new"
    unfinished.write_bytes(b"half")
    with LogStore.open(large, write=True) as store:
        orphan = [unfinished.name, "", "is an orphan: no log names this file"]
        assert store.verify().to_numpy().tolist() == [orphan]
        assert store.prune().to_numpy().tolist() == [[*orphan, 4]]
        assert store.verify().empty
        assert not unfinished.exists()


def test_archives_leave_codes_out_and_an_import_makes_them(large, tmp_path):
    with LogStore.open(large) as store:
        archive = store.export(tmp_path / "logs.tar")
        wanted = store.search(QUERIES, 3)
    with new_store(tmp_path / "other", dim=DIM) as store:
        store.import_archive(archive)
    assert held(store.path) == (N, N)
    with LogStore.open(store.path) as store:
        assert store.search(QUERIES, 3) == wanted
