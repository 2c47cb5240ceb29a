"""Searching a log store: the ranking, and an index that follows whoever changes the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lagkit.logs.base import Store
from lagkit.logs.index import VectorIndex
from lagkit.types import Hit
from lagkit.util.errors import EmptyStore, StoreError
from tests.helpers.stores import DIM, files_of, fill, kv, new_store, same, trace, vector


def test_search_ranks_pages_and_excludes(store):
    ids = fill(store, range(30))
    matrix, queries = np.stack([vector(i) for i in range(30)]), np.stack([vector(100), vector(101)])
    for query, hits in zip(queries, store.search(queries, 30), strict=True):
        ranking = np.argsort(-(matrix @ query))
        assert [hit.id for hit in hits] == [ids[i] for i in ranking]
        assert [hit.score for hit in hits] == pytest.approx((matrix @ query)[ranking], abs=1e-6)
        assert [hit.id for hit in store.search(query[None], 3, offset=3)[0]] == [ids[i] for i in ranking[3:6]]
        barred = frozenset(ids[i] for i in ranking[1:4])
        left = [ids[i] for i in ranking if ids[i] not in barred]
        assert [hit.id for hit in store.search(query[None], 4, 1, barred)[0]] == left[1:5]
        assert store.search(query[None], 3, offset=29)[0] == [Hit(ids[ranking[29]], pytest.approx(hits[-1].score))]
        assert store.search(query[None], 3, offset=30) == [[]]
    assert store.search(np.zeros((0, DIM)), 3) == []


def test_equal_embeddings_come_in_the_order_of_insertion(place):
    same_vector, other = vector(5, 384), vector(6, 384)
    with new_store(place, dim=384) as store:
        ids = store.add_many((trace(i), other if i % 3 == 0 else same_vector, {}) for i in range(50))
        equal = [id for i, id in enumerate(ids) if i % 3]
        assert [hit.id for hit in store.search(same_vector[None], 10)[0]] == equal[:10]
        assert [hit.id for hit in store.search(same_vector[None], 10, offset=10)[0]] == equal[10:20]


def test_searches_that_make_no_sense_are_refused(store):
    with pytest.raises(EmptyStore, match="has no logs yet: add some"):
        store.search(vector(1)[None], 1)
    fill(store, [1])
    for vectors, k, offset, message in [
        (vector(1), 1, 0, r"A query must be a row of 8 numbers; an array of shape \[8\]"),
        (vector(1, 4)[None], 1, 0, r"an array of shape \[1, 4\]"),
        (vector(1)[None] * 3, 1, 0, "A query has length 3.0000"),
        (vector(1)[None] * np.nan, 1, 0, "A query holds nan or inf"),
        (vector(1)[None], 0, 0, "k >= 1 and offset >= 0; k=0"),
        (vector(1)[None], 1, -1, "offset=-1 were given"),
    ]:
        with pytest.raises(StoreError, match=message):
            store.search(vectors, k, offset)
    store.delete(store.ids)
    with pytest.raises(EmptyStore):
        store.search(vector(1)[None], 1)


def test_an_interrupted_search_is_followed_by_a_whole_one(store, monkeypatch):
    ids, add = fill(store, [1, 2]), VectorIndex.add

    def interrupted(*given):
        monkeypatch.undo()
        add(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(VectorIndex, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.search(vector(1)[None], 9)
    assert sorted(hit.id for hit in store.search(vector(1)[None], 9)[0]) == sorted(ids)


def test_a_readers_index_follows_the_writer(store):
    one, two = fill(store, [1, 2])
    with Store.open(store.path) as reader:
        assert reader.search(vector(3)[None], 9)[0] == store.search(vector(3)[None], 9)[0]
        [three] = fill(store, [3])
        assert reader.search(vector(3)[None], 1)[0] == [Hit(three, pytest.approx(1, abs=1e-6))]
        store.delete([three])
        assert {hit.id for hit in reader.search(vector(3)[None], 9)[0]} == {one, two}
        # As many logs, and the newest number taken away and given anew: neither may be mistaken for no change.
        store.delete([two])
        [four] = fill(store, [4])
        assert {hit.id for hit in reader.search(vector(3)[None], 9)[0]} == {one, four}


def test_blocks_alone_do_not_rebuild_the_index(store):
    [log] = fill(store, [1])
    store.search(vector(1)[None], 1)
    index = store._vectors._index
    store.put_block(log, "other", kv(2))
    fill(store, [2])
    assert len(store.search(vector(1)[None], 5)[0]) == 2
    assert store._vectors._index is index


def test_deletions_are_followed_one_by_one(store):
    ids = fill(store, range(9))
    with Store.open(store.path) as reader:
        reader.search(vector(1)[None], 1)
        index = reader._vectors._index
        store.delete(ids[2:5])
        again = fill(store, [3])  # was deleted, and comes back under a higher number, with the same id
        left = [i for i in range(9) if i not in (2, 4)]
        with Store.open(store.path) as fresh:
            assert reader.search(vector(1)[None], 9) == fresh.search(vector(1)[None], 9)
        assert {hit.id for hit in reader.search(vector(1)[None], 9)[0]} == {trace(i).id for i in left}
        assert reader._vectors._index is index
        assert again == [ids[3]]


class StoreAgainstDict(RuleBasedStateMachine):
    """Any sequence of changes leaves what a dictionary would hold, and a brute-force search finds the same."""

    # Products of these are exact in float32, so scores are equal when they are equal.
    VECTORS = tuple(np.array(v, np.float32) for v in ([1, 0, 0, 0], [0, 1, 0, 0], [0.5] * 4, [-0.5, 0.5, 0.5, -0.5]))
    numbers, keys = st.integers(0, 7), st.sampled_from(["a", "b"])

    def __init__(self):
        super().__init__()
        self.path = Path(self.folder) / f"{len(list(Path(self.folder).iterdir()))}{self.suffix}"
        self.store = new_store(self.path, dim=4)
        self.reader = Store.open(self.path)
        self.vectors, self.blocks = {}, {}

    def teardown(self):
        assert self.store.verify().empty
        self.reader.close()
        self.store.close()

    @rule(i=numbers, v=st.integers(0, 3), blocks=st.dictionaries(keys, st.integers(0, 3)))
    def add(self, i, v, blocks):
        log = self.store.add(trace(i), self.VECTORS[v], {key: kv(n) for key, n in blocks.items()})
        self.vectors.setdefault(log, self.VECTORS[v])
        self.blocks[log] = {**blocks, **self.blocks.get(log, {})}

    @precondition(lambda self: self.vectors)
    @rule(data=st.data(), key=keys, n=st.integers(0, 3))
    def put_block(self, data, key, n):
        log = data.draw(st.sampled_from(list(self.vectors)))
        self.store.put_block(log, key, kv(n))
        self.blocks[log].setdefault(key, n)

    @precondition(lambda self: self.vectors)
    @rule(data=st.data())
    def delete(self, data):
        logs = data.draw(st.lists(st.sampled_from(list(self.vectors)), min_size=1, max_size=3))
        self.store.delete(logs)
        for log in set(logs):
            del self.vectors[log], self.blocks[log]

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store.open(self.path, write=True)

    @precondition(lambda self: self.vectors)
    @rule(v=st.integers(0, 3), k=st.integers(1, 9), offset=st.integers(0, 4), barred=st.sets(numbers))
    def search(self, v, k, offset, barred):
        barred = {trace(i).id for i in barred}
        scores = {log: float(vector @ self.VECTORS[v]) for log, vector in self.vectors.items() if log not in barred}
        ranking = sorted(scores.items(), key=lambda item: -item[1])[offset : offset + k]
        for store in (self.store, self.reader):
            hits = store.search(self.VECTORS[v][None], k, offset, barred)[0]
            assert [(hit.id, hit.score) for hit in hits] == ranking

    @invariant()
    def holds_the_same(self):
        for store in (self.store, self.reader):
            assert store.ids == list(self.vectors)
            assert {log: store.block_keys(log) for log in store} == {log: sorted(b) for log, b in self.blocks.items()}
        for log, blocks in self.blocks.items():
            assert all(same(self.reader.block(log, key), kv(n)) for key, n in blocks.items())
        assert len(files_of(self.store)) == len({n for blocks in self.blocks.values() for n in blocks.values()})


@pytest.mark.parametrize(("suffix", "examples", "steps"), [("", 10, 20), (".lance", 6, 15)])
def test_any_sequence_of_changes_matches_a_dictionary(tmp_path, suffix, examples, steps):
    StoreAgainstDict.folder, StoreAgainstDict.suffix = tmp_path, suffix
    run_state_machine_as_test(
        StoreAgainstDict, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )
    assert list(tmp_path.iterdir())
