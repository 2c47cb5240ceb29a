"""What the widgets show, from the plain functions behind them."""

from __future__ import annotations

import threading
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from nbconvert.filters import markdown2html
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lagkit.datasets.loaders import Dataset
from lagkit.logs.encode import Encoder, kept_text
from lagkit.logs.listing import Filter, Order
from lagkit.logs.store import LogStore
from lagkit.nightly.pages import PLOTLY, Link, render
from lagkit.policy import POLICIES
from lagkit.runs import experiment
from lagkit.runs.experiment import Experiment
from lagkit.stats.wording import difference
from lagkit.types import Hit, Round, Trace
from lagkit.util.errors import ConfigError, EmptyStore
from lagkit.views import tables
from lagkit.views.findings import say
from lagkit.views.lab import conclude
from lagkit.views.plots.explore import attention_bars, log_map
from lagkit.views.widgets import (
    answers_html,
    delete_log,
    kept_html,
    logs_table,
    run_store,
    search_table,
    similarity_map,
    trace_html,
    unrelated,
)
from lagkit.views.widgets.logs import Wanted, find, project
from tests.helpers.lms import (
    open_store,
    small_run,
    tiny_lm,
    trace_of,
)
from tests.helpers.panels import EMBEDDER, JUDGED, PROMPT

EVIL = "</div><script>alert(1)</script><img src=x onerror=alert(2)> & 'so' \"on\""


def found(store, wanted: Wanted) -> list[str]:
    return find(store, EMBEDDER, wanted)[0]


@pytest.fixture
def store(tmp_path, lm):
    with open_store(tmp_path / "store", lm, *JUDGED) as made:
        yield made


def test_logs_are_listed_with_their_size(store, lm):
    block = Encoder(lm, PROMPT).encode(JUDGED[0], POLICIES["kv_last_round"])
    store.put_block(JUDGED[0].id, "a", block)
    store.put_block(JUDGED[0].id, "b", block)
    table = logs_table(store)
    assert list(table.index) == [trace.id for trace in JUDGED]
    assert table["right"].tolist() == ["wrong", "right", "not judged"]
    assert table["answer"].tolist() == ["", "Ice", ""]
    assert table["rounds"].tolist() == [1, 2, 3]
    assert table["tokens"].tolist() == [2 * len(block), 0, 0]
    assert table["bytes"].tolist() == [store.summary()["bytes"].sum(), 0, 0]


def test_a_search_ranks_all_that_fits(store):
    table = search_table(store, EMBEDDER, "Where does the Danube end?")
    assert table.index[0] == JUDGED[0].id
    assert table["cosine"].is_monotonic_decreasing
    [hits] = store.search(EMBEDDER.queries(["Where does the Danube end?"]), k=3)
    assert table["cosine"].tolist() == [hit.score for hit in hits]
    assert len(search_table(store, EMBEDDER, "cold", k=1)) == 1
    assert found(store, Wanted("Danube", Filter("right"))) == [JUDGED[1].id]
    assert found(store, Wanted(filter=Filter(rounds=(2, 3)))) == [JUDGED[1].id, JUDGED[2].id]
    assert found(store, Wanted(filter=Filter(nbytes=(1, 10)))) == []


def test_a_search_leaves_out_what_is_no_more_similar_than_everyday_sentences(store):
    least = unrelated(store, EMBEDDER)
    assert least < 0.1
    assert found(store, Wanted("something cold", least=least)) == [JUDGED[1].id]
    assert found(store, Wanted("banjo festival", least=least)) == []
    assert len(search_table(store, EMBEDDER, "banjo festival")) == 3


def test_a_table_takes_a_filter_an_order_and_the_least_cosine(store):
    judged = search_table(store, EMBEDDER, "Danube", filter=Filter("right"))
    assert [*judged.index] == [JUDGED[1].id]
    assert [*search_table(store, None, filter=Filter(rounds=(2, 3)), k=1).index] == [JUDGED[1].id]
    assert [*search_table(store, None, order=Order("rounds", down=True), k=2).index] == [JUDGED[2].id, JUDGED[1].id]
    all_of_them = search_table(store, EMBEDDER, "What is cold?")
    assert len(all_of_them) == 3
    longest = search_table(store, EMBEDDER, "What is cold?", order=Order("rounds", down=True), k=1)
    assert [*longest.index] == [JUDGED[2].id], "all that is found is sorted before it is cut"
    assert all_of_them.index[0] != JUDGED[2].id
    worst = search_table(store, EMBEDDER, "What is cold?", order=Order(down=True), k=1)
    assert [*worst.index] == [all_of_them.index[-1]]
    least = unrelated(store, EMBEDDER)
    assert [*search_table(store, EMBEDDER, "something cold", least=least).index] == [JUDGED[1].id]
    assert len(search_table(store, EMBEDDER, "banjo festival", least=least, k=2)) == 0


def test_all_that_is_found_is_sorted(store):
    down = Order("rounds", down=True)
    assert found(store, Wanted(order=down))[0] == JUDGED[2].id
    listed, scores = find(store, EMBEDDER, Wanted("What is cold?", order=down))
    assert listed[0] == JUDGED[2].id
    assert scores[listed[0]] < search_table(store, EMBEDDER, "What is cold?")["cosine"].iloc[0]


def test_a_finished_run_opens_its_logs_without_a_model(tmp_path, monkeypatch):
    first = small_run(tmp_path / "run", tiny_lm(), policies=["no_logs", "kv_last_round"])
    with run_store(first) as made:
        ids = made.ids
        assert ids == [log.id for log in first.logged()]
        assert made.extremes()[1] > 0
    again = Experiment(first.config)
    monkeypatch.setattr(experiment, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with run_store(again) as store:
        assert store.ids == ids


def test_two_threads_load_one_model(tmp_path, monkeypatch):
    run = Experiment(small_run(tmp_path / "run", tiny_lm()).config)
    loaded, begun, go_on = [], threading.Event(), threading.Event()

    def slowly(*_, **__):
        loaded.append(1)
        begun.set()
        assert go_on.wait(60)
        return tiny_lm()

    monkeypatch.setattr(experiment, "load_model", slowly)
    found = []
    threads = [threading.Thread(target=lambda: found.append(run.lm)) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert (len(found), len(loaded)) == (2, 1)


def test_an_empty_store_is_listed_but_not_searched(tmp_path, lm):
    with open_store(tmp_path / "empty", lm) as empty:
        assert len(logs_table(empty)) == len(search_table(empty, EMBEDDER)) == 0
        with pytest.raises(EmptyStore):
            search_table(empty, EMBEDDER, "cold")


@pytest.mark.parametrize("write", [True, False])
def test_a_log_is_deleted_through_a_store_open_for_reading_too(store, write):
    if write:
        delete_log(store, JUDGED[1].id)
    else:
        store.close()
        with LogStore.open(store.path) as reader:
            delete_log(reader, JUDGED[1].id)
            assert JUDGED[1].id not in reader
    with LogStore.open(store.path) as after:
        assert after.ids == [JUDGED[0].id, JUDGED[2].id]
        assert after.embeddings().shape == (2, EMBEDDER.dim)


def hostile() -> Trace:
    """A log whose every text is markup that would run a script."""
    told = Round(EVIL, f"{EVIL}<keywords>{EVIL}</keywords>", EVIL, (Hit(EVIL, 0.5),), (Hit("l1", 0.25),))
    return replace(trace_of(question=EVIL, id="evil"), rounds=(told,), answer=EVIL, error=EVIL)


class Seen(HTMLParser):
    """What a browser would make of a page: its tags, and the text that is read."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_hostile_logs_are_text_on_every_page(tmp_path, lm):
    evil = hostile()
    with open_store(tmp_path / "hostile", lm, evil) as store:
        pages = {
            "trace": trace_html(evil, {"l1": EVIL}),
            "kept words": kept_html(evil, "kv_last_round"),
            "kept tokens": kept_html(evil, "kv_all_rounds", Encoder(lm, PROMPT)),
            "answers": answers_html({EVIL: evil}, {"l1": EVIL}),
            "logs": logs_table(store).to_html(),
            "table": tables.shown(pd.DataFrame({EVIL: [EVIL]}, index=[EVIL]), EVIL).to_html(),
            "findings": conclude(
                tmp_path, {}, [difference(EVIL, {"mean": 0, "low": 0, "high": 0}, "em"), f"The best log: “{EVIL}”."], {}
            ).html,
            "verdict": markdown2html(say([f"The best log: “{EVIL}”."]).data),
            "data": Dataset(EVIL, "qa", (), (), ())._repr_html_(),
        }
        assert Seen(store._repr_html_()).tags.isdisjoint({"script", "img"})
    for name, page in pages.items():
        seen = Seen(page)
        assert seen.tags.isdisjoint({"script", "img"}), name
        assert "alert(1)" in seen.text, name
    assert Seen(pages["trace"]).text.count("alert(1)") == 9
    assert "&lt;keywords&gt;" in pages["trace"]


def test_hostile_logs_are_text_in_figures_and_on_the_gallery_page(tmp_path, lm):
    with open_store(tmp_path / "hostile", lm, hostile()) as store:
        map_, parts = similarity_map(store), pd.DataFrame({"tokens": [1], "share": [0.5], "even": [0.5]}, [EVIL])
    bars = attention_bars(parts, "Title")
    for text in (map_.data[0].text[0], bars.data[0].customdata[0], bars.layout.yaxis.ticktext[0]):
        assert "<" not in text.replace("<br>", "")
        assert "&lt;script&gt;alert(1)" in text
    data = [{PLOTLY: figure.to_plotly_json()} for figure in (map_, bars)] + [{"text/html": trace_html(hostile())}]
    outputs = [new_output("display_data", data=one) for one in data]
    cells = [new_markdown_cell("# A\n\nB."), new_code_cell("1", outputs=outputs, execution_count=1)]
    assert "<script>alert" not in (page := render(new_notebook(cells=cells), "A", "plotly.js", Link("b", "B")))
    assert "<img src=x" not in page
    assert page.count("alert(1)") > 10


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy and policy.inject == "kv"])
def test_marked_tokens_are_those_that_the_encoder_keeps(lm, name):
    encoder, trace = Encoder(lm, PROMPT, {log.id: log for log in JUDGED}), JUDGED[1]
    block = encoder.encode(trace, POLICIES[name])
    reading = encoder.read(trace, POLICIES[name])
    assert [reading.context.ids[slot - reading.context.injected] for slot in reading.kept] == block.ids.tolist()
    page = kept_html(trace, name, encoder)
    assert page.count("<mark") == len(block)
    assert f"keeps {len(block)} of the {len(reading.context.ids)} tokens" in page
    assert f"{block.nbytes / 1024:,.0f} KiB" in page


def test_without_an_encoder_words_are_marked():
    page = kept_html(JUDGED[1], "kv_last_action")
    assert page.count("<mark") == 1
    assert ">&lt;ans&gt;Ice&lt;/ans&gt;</mark>" in page
    assert kept_text(JUDGED[1], "last_action") == "<ans>Ice</ans>"
    assert "reuses no logs" in kept_html(JUDGED[1], "no_logs")
    assert "as text" in kept_html(JUDGED[1], "text_last_round")
    with pytest.raises(ConfigError, match="Unknown policy"):
        kept_html(JUDGED[1], "kv_nothing")


def test_the_map_has_a_point_for_each_log_and_rings_what_was_found(store):
    figure = similarity_map(store, [JUDGED[1].id])
    shown = {trace.name: trace for trace in figure.data}
    assert list(shown) == ["right (1)", "wrong (1)", "not judged (1)", "found by the search (1)"]
    assert (shown["right (1)"].x[0], shown["right (1)"].y[0]) == (
        shown["found by the search (1)"].x[0],
        shown["found by the search (1)"].y[0],
    )
    assert shown["right (1)"].text[0] == "What is cold?<br>answered: Ice<br>rounds: 2"
    assert "two principal components" in figure.layout.title.text


def test_neighbours_stay_neighbours_on_the_map():
    corners = np.eye(4, dtype=np.float32).repeat(8, axis=0) + np.random.default_rng(0).normal(0, 0.01, (32, 4))
    places, method = project((corners / np.linalg.norm(corners, axis=1, keepdims=True)).astype(np.float32))
    assert method == "t-SNE"
    near = ((places[:, None] - places) ** 2).sum(-1).argsort(axis=1)[:, 1]
    assert (near // 8 == np.arange(32) // 8).all()
    assert project(np.ones((1, 4), np.float32))[0].shape == (1, 2)


def test_labels_of_figures_are_escaped(store):
    table = logs_table(store).assign(x=0.0, y=0.0, marked=False, question="<b>?")
    assert all(text.startswith("&lt;b&gt;?") for trace in log_map(table, "t").data for text in trace.text)
