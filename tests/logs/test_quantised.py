"""Searching many logs by codes: what is found."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.embeddings import Embeddings, Shape
from lagkit.logs import quantised, vectors
from lagkit.logs.store import LogStore
from lagkit.types import Hit
from lagkit.util.errors import EmptyStore, StoreError
from tests.helpers.codes import add, few_are_many, ids, told
from tests.helpers.stores import IDENTITY, new_store

N = 4_000
MADE = Embeddings(Shape.load(), N)
QUERIES = MADE.queries(200)
IDS = [told(i).id for i in range(N)]


@pytest.fixture(scope="module", autouse=True)
def _few_are_many():
    with few_are_many():
        yield


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A closed store of N made-up logs; nothing is written to it."""
    with new_store(tmp_path_factory.mktemp("codes") / "store", dim=MADE.dim) as store:
        add(store, MADE.logs)
    return store.path


@pytest.fixture
def copied(large, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(large, tmp_path / "store")


def recall(found, wanted) -> float:
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids(found), ids(wanted), strict=True)])


def test_the_three_nearest_are_found_with_exact_scores(large):
    with LogStore.open(large) as store:
        exact = store.search(QUERIES, 3, exact=True)
        found = store.search(QUERIES, 3)
        assert recall(found, exact) >= 0.99
        whole = store.search(QUERIES[:20], N, exact=True)
        known = {(q, hit.id): hit.score for q, hits in enumerate(whole) for hit in hits}
        assert all(known[q, hit.id] == hit.score for q, hits in enumerate(found[:20]) for hit in hits)
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


def test_a_result_depends_on_its_query_alone(copied):
    with LogStore.open(copied) as store:
        whole = store.search(QUERIES[:40], 5)
        assert [store.search(query[None], 5)[0] for query in QUERIES[:40]] == whole
        assert store.search(QUERIES[7:9], 5) == whole[7:9]
    (copied / quantised.NAME).unlink()
    with LogStore.open(copied) as store:
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
        assert store.search(query, 3, exclude=IDS) == [[]]


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


@pytest.mark.parametrize(("embedder", "dim"), [("hash-4096", 8), ("mini", 7)])
def test_what_codes_do_not_suit_is_searched_exactly(tmp_path, embedder, dim):
    rows = np.random.default_rng(0).normal(size=(300, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with new_store(tmp_path / "s", dim=dim, embedder=embedder) as store:
        added = add(store, rows)
        assert store.search(rows[:1].astype(np.float32), 1) == [[Hit(added[0], pytest.approx(1, abs=1e-5))]]
        assert store._vectors._quantised is None
    assert not (store.path / quantised.NAME).exists()


def test_damaged_logs_are_told(copied):
    with LogStore.open(copied, write=True) as store:
        with store._db.transaction() as connection:
            connection.execute("UPDATE logs SET embedding = zeroblob(1536) WHERE seq = 8")
        with pytest.raises(StoreError, match="holds damaged embeddings: verify"):
            store.search(MADE.logs[7:8], 1)
    assert IDENTITY["dim"] != MADE.dim
