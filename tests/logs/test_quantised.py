"""Searching many logs by codes: what is found, and the file that the next process starts from."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.embeddings import Embeddings, Shape
from lagkit.logs import quantised, vectors
from lagkit.logs.store import LogStore
from lagkit.types import Hit, Round, Trace
from lagkit.util import files
from lagkit.util.errors import EmptyStore, StoreError
from tests.helpers.stores import IDENTITY, new_store

N = 4_000
MADE = Embeddings(Shape.load(), N)
QUERIES = MADE.queries(200)
FILE = quantised.NAME


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch):
    monkeypatch.setattr(vectors, "QUANTISED_FROM", 200)
    monkeypatch.setattr(quantised, "SAMPLE", 512)


def told(i: int) -> Trace:
    return Trace(f"q{i}", f"Who is {i}?", "", (Round("?", str(i)),))


IDS = [told(i).id for i in range(2 * N)]


def add(store: LogStore, rows, start: int = 0) -> list[str]:
    return store.add_many((told(start + i), row, {}) for i, row in enumerate(rows))


@pytest.fixture(scope="session")
def _large(tmp_path_factory):
    """A closed store of N made-up logs."""
    patch = pytest.MonkeyPatch()
    patch.setattr(vectors, "QUANTISED_FROM", 200)
    patch.setattr(quantised, "SAMPLE", 512)
    with new_store(tmp_path_factory.mktemp("codes") / "store", dim=MADE.dim) as store:
        add(store, MADE.logs)
    patch.undo()
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
    index = quantised.QuantisedIndex.load(folder, MADE.dim)
    return index.last, len(index)


def ids(hits) -> list[list[str]]:
    return [[hit.id for hit in row] for row in hits]


def recall(found, wanted) -> float:
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids(found), ids(wanted), strict=True)])


def test_the_three_nearest_are_found_with_exact_scores(large, loads):
    with LogStore.open(large) as store:
        exact = store.search(QUERIES, 3, exact=True)
        found = store.search(QUERIES, 3)
        assert recall(found, exact) >= 0.99
        whole = store.search(QUERIES[:20], N, exact=True)
        known = {(q, hit.id): hit.score for q, hits in enumerate(whole) for hit in hits}
        assert all(known[q, hit.id] == hit.score for q, hits in enumerate(found[:20]) for hit in hits)
        assert loads == {"load": 1, "learn": 0}
        store.exact_search = True
        assert store.search(QUERIES, 3) == exact


def test_codes_are_looked_at_and_not_all_embeddings(large, monkeypatch):
    with LogStore.open(large) as store:
        read = []
        rows = store._vectors.rows.rows
        monkeypatch.setattr(store._vectors.rows, "rows", lambda seqs: read.append(len(seqs)) or rows(seqs))
        store.search(QUERIES[:1], 3)
        assert read == [63, quantised.WIDTH]
        assert store._vectors._ids == {}


def test_a_result_depends_on_its_query_alone(large):
    with LogStore.open(large) as store:
        whole = store.search(QUERIES[:40], 5)
        assert [store.search(query[None], 5)[0] for query in QUERIES[:40]] == whole
        assert store.search(QUERIES[7:9], 5) == whole[7:9]
    (large / FILE).unlink()
    with LogStore.open(large) as store:
        assert store.search(QUERIES[:40], 5) == whole


def test_pages_and_exclusion_are_those_of_the_ranking(large):
    query = QUERIES[:1]
    with LogStore.open(large) as store:
        [ranking] = store.search(query, N, exact=True)
        assert store.search(query, N) == [ranking]
        assert store.search(query, 9, offset=N - 4) == [ranking[-4:]]
        assert store.search(query, 3, offset=N) == [[]]
        pages = [hit for start in range(0, 60, 6) for hit in store.search(query, 6, offset=start)[0]]
        assert pages == ranking[:60]
        # Of the logs that are nearest by their codes, all are excluded.
        barred = frozenset(hit.id for hit in ranking[:500])
        assert store.search(query, 3, exclude=barred) == [ranking[500:503]]
        assert store.search(query, 3, 2, exclude=barred | {"unknown"}) == [ranking[502:505]]
        assert store.search(query, 3, exclude=IDS[:N]) == [[]]


def test_equal_embeddings_come_oldest_first_however_many(tmp_path):
    rows = np.repeat(MADE.logs[:40], 50, axis=0)  # more of each than are looked at
    order = np.random.default_rng(0).permutation(len(rows))
    with new_store(tmp_path / "s", dim=MADE.dim) as store:
        added = add(store, rows[order])
        equal = [added[slot] for slot in np.flatnonzero(order // 50 == 3)]
        assert ids(store.search(MADE.logs[3:4], 200))[0][:50] == equal
        assert ids(store.search(MADE.logs[3:4], 3)) == [equal[:3]]
        assert store.search(MADE.logs[:9], 5) == store.search(MADE.logs[:9], 5, exact=True)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_any_small_store_is_searched_as_exactly(tmp_path_factory, data):
    """Few logs are all looked at, so nothing is missed."""
    corners = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.5] * 4, [-0.5, 0.5, 0.5, -0.5]], np.float32)
    drawn = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=60))
    with pytest.MonkeyPatch.context() as patch, new_store(tmp_path_factory.mktemp("s") / "s", dim=4) as store:
        patch.setattr(vectors, "QUANTISED_FROM", 1)
        added = add(store, corners[drawn])
        gone = data.draw(st.sets(st.sampled_from(added)))
        store.search(corners, 2)
        store.delete(gone)
        k, offset = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 5))
        barred = data.draw(st.sets(st.sampled_from(added)))
        if len(gone) == len(set(added)):
            with pytest.raises(EmptyStore):
                store.search(corners, k)
            return
        by_codes = store.search(corners, k, offset, barred)
        assert by_codes == store.search(corners, k, offset, barred, exact=True)


def test_logs_that_are_all_equal_come_oldest_first(tmp_path):
    with new_store(tmp_path / "s", dim=MADE.dim) as store:
        added = add(store, np.repeat(MADE.logs[:1], 300, axis=0))
        assert ids(store.search(QUERIES[:2], 4)) == [added[:4]] * 2
        assert ids(store.search(QUERIES[:1], 4, 2, exclude=added[1:3])) == [added[4:8]]


# The file


def test_a_writer_leaves_codes_when_it_closes_and_readers_start_from_them(tmp_path, loads):
    with new_store(tmp_path / "s", dim=MADE.dim) as store:
        add(store, MADE.logs[:199])
    assert not (store.path / FILE).exists()
    with LogStore.open(store.path, write=True) as store:
        add(store, MADE.logs[199:400], 199)
        assert not (store.path / FILE).exists()
    assert loads == {"load": 0, "learn": 1} or loads == {"load": 1, "learn": 1}
    size = (store.path / FILE).stat().st_size
    assert size < 400 * MADE.dim + 30_000
    assert store.nbytes > size
    loads.update(load=0, learn=0)
    with LogStore.open(store.path) as reader:
        assert ids(reader.search(MADE.logs[:400], 1)) == [[id] for id in IDS[:400]]
    assert loads == {"load": 1, "learn": 0}


def test_codes_follow_additions_and_deletions_by_others(large, loads):
    more = Embeddings(Shape.load(), N + 300).logs[N:]
    with LogStore.open(large, write=True) as writer, LogStore.open(large) as reader:
        stores = (writer, reader)
        assert all(ids(store.search(MADE.logs[:3], 1)) == [[id] for id in IDS[:3]] for store in stores)
        add(writer, more, N)
        assert all(ids(store.search(more[:50], 1)) == [[id] for id in IDS[N : N + 50]] for store in stores)
        writer.delete(IDS[N : N + 300 : 2])
        for store in stores:
            assert ids(store.search(more[:50], 1))[1::2] == [[id] for id in IDS[N + 1 : N + 50 : 2]]
            assert not {id for row in ids(store.search(more, 9)) for id in row} & set(IDS[N : N + 300 : 2])
        assert loads["learn"] == 0


def test_the_file_is_written_anew_when_much_is_new_or_gone(large, loads):
    before = held(large)
    assert before == (N, N)
    more = Embeddings(Shape.load(), 2 * N).logs[N:]
    with LogStore.open(large, write=True) as store:
        add(store, more[:400], N)
    assert held(large) == before
    with LogStore.open(large, write=True) as store:
        add(store, more[400:600], N + 400)
    assert held(large) == (N + 600, N + 600)
    assert loads["learn"] == 0
    with LogStore.open(large, write=True) as store:
        add(store, more[600:], N + 600)
        assert ids(store.search(more[-9:], 1)) == [[id] for id in IDS[-9:]]
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
        "rotten head": lambda path: replaced(path, lambda raw: raw.replace(b'"trained":"4000"', b'"trained":"4001"')),
        "other arrays": lambda path: replaced(path, lambda raw: raw.replace(b'"seqs"', b'"sets"')),
    }


@pytest.mark.parametrize("damage", damages())
def test_damaged_codes_are_named_made_anew_and_change_nothing(large, damage, loads, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    with LogStore.open(large) as store:
        wanted = store.search(QUERIES[:20], 3)
    damages()[damage](large / FILE)
    loads.update(load=0, learn=0)
    with LogStore.open(large) as reader:
        assert reader.search(QUERIES[:20], 3) == wanted
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
        assert writer.search(QUERIES[:20], 3) == wanted
        assert writer.verify().empty
    assert held(large) == (N, N)


def test_codes_of_another_store_are_noticed(large, tmp_path, loads, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    other = Embeddings(Shape.load(), N, seed=5)
    with new_store(tmp_path / "other", dim=MADE.dim) as store:
        add(store, other.logs)
    shutil.copy(large / FILE, store.path / FILE)
    loads.update(load=0, learn=0)
    with LogStore.open(store.path) as store:
        assert ids(store.search(other.logs[:50], 1)) == [[id] for id in IDS[:50]]
    assert loads == {"load": 1, "learn": 1}
    assert "are of other logs; they are made anew" in capsys.readouterr().err


def test_a_database_put_back_is_noticed(large, loads):
    """The last logs are others than when the codes were written, under the same numbers."""
    with LogStore.open(large) as store:
        store.export(large.parent / "a.tar")
    older = shutil.copytree(large, large.parent / "older")
    more = Embeddings(Shape.load(), N + 600).logs[N:]
    with LogStore.open(large, write=True) as store:
        add(store, more, N)
    shutil.copy(large / FILE, older / FILE)
    with LogStore.open(older, write=True) as store:
        add(store, more[::-1], N)
        loads.update(load=0, learn=0)
        assert ids(store.search(more[::-1][:50], 1)) == [[id] for id in IDS[N : N + 50]]
    assert loads["learn"] == 1


def test_codes_that_cannot_be_written_or_read_are_done_without(large, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    with LogStore.open(large) as store:
        wanted = store.search(QUERIES[:20], 3)

    def full(*_):
        raise OSError(28, "No space left on device")

    (large / FILE).unlink()
    with monkeypatch.context() as patch, LogStore.open(large, write=True) as writer:
        patch.setattr(files, "publish", full)
        assert writer.search(QUERIES[:20], 3) == wanted
        assert "could not be written ([Errno 28] No space left" in capsys.readouterr().err
        assert sorted(path.name for path in large.iterdir() if path.name.startswith("search")) == []

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, LogStore.open(large) as reader:
        patch.setattr(quantised, "open", denied, raising=False)
        assert reader.search(QUERIES[:20], 3) == wanted
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
        yield from ((told(i), row, {}) for i, row in enumerate(MADE.logs[:300]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), new_store(tmp_path / "s", dim=MADE.dim) as store:
        store.add_many(interrupted())
    assert not (store.path / FILE).exists()
    with LogStore.open(store.path, write=True) as store:
        assert len(store) == 300
    assert (store.path / FILE).exists()


def test_codes_that_were_interrupted_are_not_gone_on_with(large, monkeypatch):
    more = Embeddings(Shape.load(), N + 200).logs[N:]
    with LogStore.open(large, write=True) as writer, LogStore.open(large) as reader:
        reader.search(QUERIES[:1], 1)
        add(writer, more, N)

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(quantised.Progress, "update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                reader.search(QUERIES[:1], 1)
        assert ids(reader.search(more, 1)) == [[id] for id in IDS[N : N + 200]]
        assert len(reader._vectors._quantised._index) == N + 200


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
        wanted = store.search(QUERIES[:20], 3)
    with new_store(tmp_path / "other", dim=MADE.dim) as store:
        store.import_archive(archive)
    assert held(store.path) == (N, N)
    with LogStore.open(store.path) as store:
        assert store.search(QUERIES[:20], 3) == wanted


@pytest.mark.parametrize(("embedder", "dim"), [("hash-4096", 8), ("mini", 7)])
def test_what_codes_do_not_suit_is_searched_exactly(tmp_path, embedder, dim):
    rows = np.random.default_rng(0).normal(size=(300, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with new_store(tmp_path / "s", dim=dim, embedder=embedder) as store:
        added = add(store, rows)
        assert store.search(rows[:1].astype(np.float32), 1) == [[Hit(added[0], pytest.approx(1, abs=1e-5))]]
        assert store._vectors._quantised is None
    assert not (store.path / FILE).exists()


def test_damaged_logs_are_told(large):
    with LogStore.open(large, write=True) as store:
        with store._db.transaction() as connection:
            connection.execute("UPDATE logs SET embedding = zeroblob(1536) WHERE seq = 8")
        with pytest.raises(StoreError, match="holds damaged embeddings: verify"):
            store.search(MADE.logs[7:8], 1)
    assert IDENTITY["dim"] != MADE.dim
