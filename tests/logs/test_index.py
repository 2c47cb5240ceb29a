"""The vector index against a brute-force search, with ties, pages, removal and exclusion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.logs.index import VectorIndex
from lagkit.util.errors import DataError

# Few distinct integer vectors: many equal scores, all exact in float32.
rows = st.lists(st.tuples(*[st.integers(-1, 1)] * 3), max_size=40).map(lambda r: np.array(r, np.float32).reshape(-1, 3))


def indexed(vectors):
    index = VectorIndex(3)
    index.add([f"v{i}" for i in range(len(vectors))], vectors)
    return index


def brute(vectors, query, barred=()):
    scores = vectors @ query
    order = sorted(range(len(vectors)), key=lambda i: (-scores[i], i))
    return [(f"v{i}", float(scores[i])) for i in order if f"v{i}" not in barred]


@given(rows, st.integers(0, 45), st.integers(0, 45), st.sets(st.integers(0, 45).map("v{}".format)))
def test_search_is_the_sorted_brute_force(vectors, k, offset, barred):
    query = np.array([1, 2, -1], np.float32)
    hits = indexed(vectors).search(query[None], k, offset, barred)[0]
    assert [(hit.id, hit.score) for hit in hits] == brute(vectors, query, barred)[offset : offset + k]


@given(rows, st.integers(1, 7))
def test_pages_partition_the_ranking(vectors, k):
    query = np.array([[0.5, -1, 2]], np.float32)
    index = indexed(vectors)
    pages = [hit.id for start in range(0, len(vectors), k) for hit in index.search(query, k, start)[0]]
    assert pages == [id for id, _ in brute(vectors, query[0])]


@given(rows, st.sets(st.integers(0, 45).map("v{}".format)))
def test_removed_vectors_are_gone_and_the_rest_keep_their_order(vectors, gone):
    index = indexed(vectors)
    there = gone & {f"v{i}" for i in range(len(vectors))}
    index.remove(gone)
    assert len(index) == len(vectors) - len(there)
    query = np.array([1, 0, 1], np.float32)
    hits = index.search(query[None], 50)[0]
    assert [(hit.id, hit.score) for hit in hits] == brute(vectors, query, gone)


@given(rows, st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_any_order_of_additions_and_removals_is_that_of_the_additions(vectors, changes):
    index, held = indexed(vectors), {f"v{i}": row for i, row in enumerate(vectors)}
    for comes, i in changes:
        if comes and f"v{i}" not in held:
            held[f"v{i}"] = np.array([i % 3 - 1, i % 2, 1], np.float32)
            index.add([f"v{i}"], held[f"v{i}"][None])
        elif not comes:
            index.remove([f"v{i}"])
            held.pop(f"v{i}", None)
    query = np.array([1, 2, -1], np.float32)
    ranking = sorted(((id, float(row @ query)) for id, row in held.items()), key=lambda hit: -hit[1])
    assert [(hit.id, hit.score) for hit in index.search(query[None], 99)[0]] == ranking
    assert len(index) == len(held)


def test_several_queries_at_once_and_readding():
    index = indexed(np.eye(3, dtype=np.float32))
    assert [[hit.id for hit in hits] for hits in index.search(np.eye(3)[::-1], 1)] == [["v2"], ["v1"], ["v0"]]
    index.remove(["v0"])
    index.add(["v0"], np.array([[0, 0, 5]]))
    [[hit]] = index.search(np.array([[0, 0, 1]]), 1)
    assert (hit.id, hit.score) == ("v0", 5.0)


def hits(index, queries, *how):
    return [[(hit.id, hit.score) for hit in row] for row in index.search(queries, *how)]


def sparse(rng, n, dim):
    """Counts of words, as hashed embeddings have them: long zeros, equal scores, and sums that rounding tells apart."""
    rows = rng.poisson(0.02, (n, dim)).astype(np.float32)
    rows[:: max(1, n // 3)] = rows[0]
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def dense(rng, n, dim):
    rows = rng.normal(size=(n, dim)).astype(np.float32) * rng.lognormal(sigma=1, size=(n, 1)).astype(np.float32)
    rows[n // 2 :] = rows[: n - n // 2]  # everything twice
    return np.nextafter(rows, np.where(rng.random((n, 1)) < 0.3, 9, rows), dtype=np.float32)  # or almost


@given(st.sampled_from([sparse, dense]), st.integers(0, 2**32), st.data())
def test_a_result_does_not_depend_on_the_batch(made, seed, data):
    rng = np.random.default_rng(seed)
    n, dim = data.draw(st.integers(1, 80)), data.draw(st.sampled_from([3, 17, 384, 1000]))
    vectors, queries = made(rng, n, dim), made(rng, data.draw(st.integers(4, 40)), dim)
    index = VectorIndex(dim)
    index.add([f"v{i}" for i in range(n)], vectors)
    k, offset = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 20))
    barred = data.draw(st.sets(st.integers(0, n).map("v{}".format), max_size=5))
    alone = [hits(index, query[None], k, offset, barred)[0] for query in queries]
    assert hits(index, queries, k, offset, barred) == alone
    some = data.draw(st.permutations(range(len(queries))))[: max(4, len(queries) // 2)]
    assert hits(index, queries[some], k, offset, barred) == [alone[i] for i in some]
    index.remove({"v0", "v3"})
    assert hits(index, queries, k) == [hits(index, query[None], k)[0] for query in queries]


def test_a_large_batch_is_searched_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    index = VectorIndex(8)
    index.add([f"v{i}" for i in range(50)], dense(rng, 50, 8))
    queries = dense(rng, 33, 8)
    whole = hits(index, queries, 7)
    monkeypatch.setattr("lagkit.logs.index._SCORES", 120)
    assert hits(index, queries, 7) == whole == [hits(index, query[None], 7)[0] for query in queries]


def test_empty_index_finds_nothing():
    assert VectorIndex(3).search(np.ones((2, 3)), 5) == [[], []]
    assert VectorIndex(3).search(np.ones((9, 3)), 5) == [[]] * 9


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a"], np.ones((2, 3)), "1 ids were given for 2 vectors"),
        (["a"], np.ones((1, 4)), r"must have the shape \[n, 3\]; \[1, 4\] was given"),
        (["a"], np.ones(3), r"must have the shape \[n, 3\]; \[3\] was given"),
    ],
)
def test_wrong_additions_change_nothing(ids, vectors, message):
    index = indexed(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=message):
        index.add(ids, vectors)
    assert len(index) == 3


@pytest.mark.parametrize("ids", [["a", "a"], ["a", "v1"]])
def test_an_id_that_would_be_there_twice_is_refused(ids):
    index = indexed(np.eye(3, dtype=np.float32))
    with pytest.raises(DataError, match=f"The id '{ids[1]}' would be in the index twice"):
        index.add(ids, np.ones((2, 3)))
    assert len(index) == 3


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="k=-1 and offset=0"):
        VectorIndex(3).search(np.ones((1, 3)), -1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_no_number_is_named(wrong):
    """FAISS returns the last vector twice, or none, where one is not finite."""
    vectors = np.eye(3, dtype=np.float32)
    vectors[1, 2] = wrong
    index = indexed(np.eye(3, dtype=np.float32))
    with pytest.raises(DataError, match="The embedding of 'b' holds nan or inf: look at its text"):
        index.add(["a", "b", "c"], vectors)
    assert len(index) == 3
    for rows in (vectors, np.repeat(vectors, 3, axis=0)):  # one by one, and as a batch
        with pytest.raises(DataError, match=r"The embedding of query \d holds nan or inf"):
            index.search(rows, 2)
