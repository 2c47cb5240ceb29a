"""Listings of a store: filters and pages as a plain pass over all logs gives them, without reading all traces."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lagkit.logs.files import BlockRow, NewBlock, digest_of
from lagkit.logs.header import Header
from lagkit.logs.listing import JUDGED, Filter, Order
from lagkit.logs.retrieve import HashEmbedder
from lagkit.logs.store import Store
from lagkit.types import Round, Trace
from lagkit.util.errors import StoreError
from lagkit.views.widgets import LogExplorer, search_table
from lagkit.views.widgets.logs import Wanted, find
from tests.helpers.stores import kv

EMBEDDER = HashEmbedder(64)
IDENTITY = {"model": {"name": "tiny"}, "embedder": EMBEDDER.name, "dim": 64, "dtype": "float32"}
FILTERS = [Filter(), Filter("right"), Filter("wrong"), Filter("not judged"), Filter(rounds=(2, 3))]
FILTERS += [
    Filter(nbytes=(0, 0)),
    Filter(nbytes=(1, 10**9)),
    Filter("right", (1, 2), (1, 10**9)),
    Filter(rounds=(9, 9)),
]


def trace(i: int) -> Trace:
    rounds = tuple(Round("prompt " * 100, f"said {i}", f"q{i}") for _ in range(1 + i % 4))
    return Trace(f"q{i}", f"Who is number {i}?", "Be brief.", rounds, str(i), correct=(True, False, None)[i % 3])


def filled(path: Path, count: int, blocks: bool = True) -> Store:
    store = Store.new(str(path), Header.new(**IDENTITY))
    vectors = np.random.default_rng(0).normal(size=(count, 64)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store.add_many((trace(i), vectors[i], {"last": kv(i)} if blocks and i % 2 else {}) for i in range(count))
    return store


@pytest.fixture(params=["store", "store.lance"], scope="module")
def store(request, tmp_path_factory) -> Iterator[Store]:
    """Thirty logs, which stay as they are."""
    if request.param.endswith("lance"):
        pytest.importorskip("lancedb")
    with filled(tmp_path_factory.mktemp("stores") / request.param, 30) as made:
        yield made


def plainly(store: Store, wanted: Filter) -> list[str]:
    held = store.sizes()["bytes"]

    def fits(trace: Trace) -> bool:
        limits = ((wanted.rounds, len(trace.rounds)), (wanted.nbytes, held[trace.id]))
        within = all(limit is None or limit[0] <= number <= limit[1] for limit, number in limits)
        return within and wanted.right in ("", JUDGED[trace.correct])

    return [trace.id for trace in store.traces() if fits(trace)]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_filters_and_pages_are_those_of_a_plain_pass(store, wanted):
    found = plainly(store, wanted)
    assert store.matching(wanted) == found
    assert store.count(wanted) == len(found)
    assert store.matching(wanted, 2, 3) == found[2:5]
    assert store.matching(wanted, 100, 3) == []


@pytest.mark.parametrize("name", ["store", "store.lance"])
def test_deleted_logs_are_listed_no_more(tmp_path, name):
    if name.endswith("lance"):
        pytest.importorskip("lancedb")
    with filled(tmp_path / name, 30) as store:
        listed = {wanted: store.matching(wanted) for wanted in FILTERS}
        gone = store.ids[:5]
        store.delete(gone)
        for wanted in FILTERS:
            assert store.matching(wanted) == plainly(store, wanted) == [i for i in listed[wanted] if i not in gone]


def test_extremes_and_sizes_of_some_logs(store):
    assert store.extremes() == (4, int(store.sizes()["bytes"].max()))
    some = store.ids[3:6]
    assert store.sizes(some).equals(store.sizes().loc[some])


def test_a_listing_in_lance_is_made_once_for_each_version(tmp_path, monkeypatch):
    pytest.importorskip("lancedb")
    from lagkit.logs.lance import listing

    made, make = [], listing.in_memory
    monkeypatch.setattr(listing, "in_memory", lambda *rows: made.append(rows) or make(*rows))
    with filled(tmp_path / "store.lance", 6) as store, Store.open(store.path) as reader:
        assert [reader[i].question_id for i in range(6)] == [f"q{i}" for i in range(6)]
        assert (len(reader.sizes()), len(made)) == (6, 1)
        assert (reader.count(Filter("right")), reader.extremes()[0], len(made)) == (2, 4, 2)
        with ThreadPoolExecutor(4) as pool:
            assert [*pool.map(reader.__getitem__, range(6))] == [*reader.traces()]
        assert len(made) == 2
        store.delete(store.ids[:1])
        assert (reader[0].question_id, reader.count(Filter()), len(made)) == ("q1", 5, 3)
        store.put_block(store.ids[0], "more", kv(9))
        assert (reader.sizes()["blocks"].iloc[0], len(made)) == (2, 4)
        reader.close()
        with pytest.raises(StoreError, match="was closed"):
            reader.count(Filter())


def test_a_strangers_logs_in_lance_are_listed_or_refused_in_a_sentence(tmp_path):
    pytest.importorskip("lancedb")
    from lagkit.logs.lance.catalog import block_rows, log_rows

    with filled(tmp_path / "store.lance", 1) as store:
        for change in ({"correct": [1]}, {"rounds": 5}, {"question": {"a": float("nan")}}):
            text = json.dumps({"question": "Who?", "answer": None, "rounds": [], "correct": True} | change)
            row = (f"log-{[*change]}", np.eye(1, 64, dtype="f4").tobytes(), text)
            store._logs.table.append(log_rows(store.header, [(row, digest_of(text.encode()))]))
        assert (store.count(Filter("right")), store.count(Filter("not judged"))) == (3, 1)
        assert len(store.matching(Filter(), order=Order("question"))) == 4
        blocks = [NewBlock(store.ids[0], BlockRow(key, 1, 2**62, "0" * 64), b"x") for key in ("a", "b", "c")]
        store._blocks.table.append(block_rows(blocks, 0))
        with pytest.raises(StoreError, match=r"The logs at .* cannot be listed \(integer overflow\): verify\(\) tells"):
            store.sizes()
        assert len(store.verify()) >= 3


def test_traces_of_some_logs_come_in_the_order_that_was_asked_for(store):
    wanted = [store.ids[slot] for slot in (7, 2, 29)]
    assert list(store.traces(wanted)) == [store.get(log) for log in wanted]
    assert list(store.traces([])) == []
    with pytest.raises(StoreError, match="There is no log 'nobody'"):
        list(store.traces(["nobody"]))


def test_a_page_of_logs_in_lance_takes_few_requests(tmp_path, monkeypatch):
    """Each is a round trip to the object store."""
    pytest.importorskip("lancedb")
    from lagkit.logs.lance.tables import Table

    asked, take = [], Table.take
    monkeypatch.setattr(Table, "take", lambda *given: asked.append(given) or take(*given))
    with filled(tmp_path / "store.lance", 300, blocks=False) as store:
        assert len(search_table(store, EMBEDDER, k=200)) == 200
    assert len(asked) <= 4


@pytest.mark.parametrize("wanted", FILTERS[:5], ids=str)
def test_a_search_lists_the_nearest_of_those_that_are_wanted(store, wanted):
    found, scores = find(store, EMBEDDER, Wanted("Who is number 7?", wanted))
    assert sorted(found) == sorted(plainly(store, wanted))
    cosines = [scores[log] for log in found]
    assert cosines == sorted(cosines, reverse=True)


def test_the_explorer_reads_a_page_of_traces_and_no_more(tmp_path, monkeypatch):
    read: list[str] = []
    kept = Trace.from_dict.__func__
    monkeypatch.setattr(
        Trace, "from_dict", classmethod(lambda cls, raw: read.append(raw["question"]) or kept(cls, raw))
    )
    with filled(tmp_path / "store", 500, blocks=False) as store:
        explorer = LogExplorer(store, embedder=EMBEDDER)
        assert "500 of 500 logs. Listed: 1 to 200." in explorer.message.value
        assert (len(explorer.logs.rows), explorer.earlier.disabled, explorer.later.disabled) == (200, True, False)
        assert len(read) <= 205
        explorer.later.click()
        explorer.later.click()
        assert [row[0] for row in explorer.logs.rows] == store.ids[400:]
        assert (explorer.earlier.disabled, explorer.later.disabled) == (False, True)
        read.clear()
        explorer.right.value = "wrong"
        assert "167 of 500 logs.<" in explorer.message.value
        assert len(read) <= 175


@pytest.mark.slow
@pytest.mark.parametrize("name", ["store", "store.lance"])
def test_fifty_thousand_logs_open_and_filter_in_a_second(tmp_path, name):
    if name.endswith("lance"):
        pytest.importorskip("lancedb")
    with filled(tmp_path / name, 50_000, blocks=False) as store:
        if name.endswith("lance"):
            store.extremes()  # reads every trace once, as docs/stores.md says
        began = time.process_time()
        explorer = LogExplorer(store, embedder=EMBEDDER)
        opened = time.process_time()
        explorer.right.value = "wrong"
        filtered = time.process_time()
        assert "16,667 of 50,000 logs." in explorer.message.value
        explorer.logs.order = ["rounds", True]
        ordered = time.process_time()
        assert {row[4] for row in explorer.logs.rows} == {"4"}
        assert (opened - began < 1.0, filtered - opened < 1.0, ordered - filtered < 1.0) == (True, True, True)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("by", ["added", "question", "answer", "right", "rounds", "bytes"])
def test_all_that_match_are_sorted_and_not_only_a_page(store, by, down):
    """Logs that are alike stand oldest first, either way."""
    rank, held = {True: 0, False: 1, None: 2}, store.sizes()["bytes"]
    keys = {
        "added": lambda t: int(t.question_id[1:]),
        "question": lambda t: t.question.lower(),
        "answer": lambda t: (t.answer or "").lower(),
        "right": lambda t: rank[t.correct],
        "rounds": lambda t: len(t.rounds),
        "bytes": lambda t: int(held[t.id]),
    }
    expected = [t.id for t in sorted(store.traces(), key=keys[by], reverse=down)]
    assert store.matching(Filter(), order=Order(by, down)) == expected
    assert store.matching(Filter(), 3, 4, Order(by, down)) == expected[3:7]
    wrong = {*store.matching(Filter("wrong"))}
    assert store.matching(Filter("wrong"), order=Order(by, down)) == [log for log in expected if log in wrong]
