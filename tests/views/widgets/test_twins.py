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

from lagkit.agent.loop import Agent
from lagkit.datasets.loaders import Dataset
from lagkit.logs.encode import Encoder, kept_text
from lagkit.logs.listing import Filter, Order
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.logs.store import LogStore
from lagkit.nightly.pages import PLOTLY, Link, render
from lagkit.policy import POLICIES
from lagkit.runs import experiment
from lagkit.runs.experiment import Experiment
from lagkit.stats.wording import difference
from lagkit.types import Hit, Limits, Round, Trace
from lagkit.util.errors import ConfigError, DataError, EmptyStore
from lagkit.views import palette, tables
from lagkit.views.findings import say
from lagkit.views.lab import Answers, conclude
from lagkit.views.plots.explore import attention_bars, log_map
from lagkit.views.widgets import (
    answers_html,
    attention_table,
    attention_tokens,
    delete_log,
    follow,
    kept_html,
    log_names,
    logs_table,
    run_store,
    search_table,
    similarity_map,
    trace_html,
    unrelated,
)
from lagkit.views.widgets.logs import Wanted, find, project
from tests.helpers.lms import (
    ScriptedLM,
    new_lm,
    open_store,
    passages_about,
    qa,
    short_prompt,
    small_run,
    tiny_lm,
    trace_of,
)

PROMPT, EMBEDDER = short_prompt(), HashEmbedder()
QUESTION = qa("Where does the Danube end?", "Black Sea")
SEARCH, ANSWER = "Not told. <keywords>Danube</keywords>", "It is told. <ans>Black Sea</ans>"
TRACES = (
    replace(trace_of("In the <ans>Sea</ans>", question="Where does the Danube end?", id="q1"), correct=False),
    replace(trace_of(SEARCH, "<ans>Ice</ans>", question="What is cold?", id="q2"), correct=True, answer="Ice"),
    trace_of("Hm.", "Hm.", "Hm.", question="What is warm?", id="q3"),
)
PASSAGES = PassageIndex(passages_about("danube", "ice"), EMBEDDER)
EVIL = "</div><script>alert(1)</script><img src=x onerror=alert(2)> & 'so' \"on\""
SETTINGS = {"prompt": PROMPT, "embedder": EMBEDDER, "passages": PASSAGES, "limits": Limits(max_rounds=3)}


def ask(lm, store, question, variants, **settings) -> dict[str, Trace]:
    return {name: trace for name, trace, _ in follow(lm, store, question, variants, **settings)}


def found(store, wanted: Wanted) -> list[str]:
    return find(store, EMBEDDER, wanted)[0]


@pytest.fixture(scope="module")
def lm():
    return new_lm(ScriptedLM)


@pytest.fixture
def store(tmp_path, lm):
    with open_store(tmp_path / "store", lm, *TRACES) as made:
        yield made


def test_logs_are_listed_with_their_size(store, lm):
    block = Encoder(lm, PROMPT).encode(TRACES[0], POLICIES["kv_last_round"])
    store.put_block(TRACES[0].id, "a", block)
    store.put_block(TRACES[0].id, "b", block)
    table = logs_table(store)
    assert list(table.index) == [trace.id for trace in TRACES]
    assert table["right"].tolist() == ["wrong", "right", "not judged"]
    assert table["answer"].tolist() == ["", "Ice", ""]
    assert table["rounds"].tolist() == [1, 2, 3]
    assert table["tokens"].tolist() == [2 * len(block), 0, 0]
    assert table["bytes"].tolist() == [store.summary()["bytes"].sum(), 0, 0]


def test_a_search_ranks_all_that_fits(store):
    table = search_table(store, EMBEDDER, "Where does the Danube end?")
    assert table.index[0] == TRACES[0].id
    assert table["cosine"].is_monotonic_decreasing
    [hits] = store.search(EMBEDDER.queries(["Where does the Danube end?"]), k=3)
    assert table["cosine"].tolist() == [hit.score for hit in hits]
    assert len(search_table(store, EMBEDDER, "cold", k=1)) == 1
    assert found(store, Wanted("Danube", Filter("right"))) == [TRACES[1].id]
    assert found(store, Wanted(filter=Filter(rounds=(2, 3)))) == [TRACES[1].id, TRACES[2].id]
    assert found(store, Wanted(filter=Filter(nbytes=(1, 10)))) == []


def test_a_search_leaves_out_what_is_no_more_similar_than_everyday_sentences(store):
    least = unrelated(store, EMBEDDER)
    assert least < 0.1
    assert found(store, Wanted("something cold", least=least)) == [TRACES[1].id]
    assert found(store, Wanted("banjo festival", least=least)) == []
    assert len(search_table(store, EMBEDDER, "banjo festival")) == 3


def test_a_table_takes_a_filter_an_order_and_the_least_cosine(store):
    judged = search_table(store, EMBEDDER, "Danube", filter=Filter("right"))
    assert [*judged.index] == [TRACES[1].id]
    assert [*search_table(store, None, filter=Filter(rounds=(2, 3)), k=1).index] == [TRACES[1].id]
    assert [*search_table(store, None, order=Order("rounds", down=True), k=2).index] == [TRACES[2].id, TRACES[1].id]
    all_of_them = search_table(store, EMBEDDER, "What is cold?")
    assert len(all_of_them) == 3
    longest = search_table(store, EMBEDDER, "What is cold?", order=Order("rounds", down=True), k=1)
    assert [*longest.index] == [TRACES[2].id], "all that is found is sorted before it is cut"
    assert all_of_them.index[0] != TRACES[2].id
    worst = search_table(store, EMBEDDER, "What is cold?", order=Order(down=True), k=1)
    assert [*worst.index] == [all_of_them.index[-1]]
    least = unrelated(store, EMBEDDER)
    assert [*search_table(store, EMBEDDER, "something cold", least=least).index] == [TRACES[1].id]
    assert len(search_table(store, EMBEDDER, "banjo festival", least=least, k=2)) == 0


def test_all_that_is_found_is_sorted(store):
    down = Order("rounds", down=True)
    assert found(store, Wanted(order=down))[0] == TRACES[2].id
    listed, scores = find(store, EMBEDDER, Wanted("What is cold?", order=down))
    assert listed[0] == TRACES[2].id
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
        delete_log(store, TRACES[1].id)
    else:
        store.close()
        with LogStore.open(store.path) as reader:
            delete_log(reader, TRACES[1].id)
            assert TRACES[1].id not in reader
    with LogStore.open(store.path) as after:
        assert after.ids == [TRACES[0].id, TRACES[2].id]
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
    encoder, trace = Encoder(lm, PROMPT, {log.id: log for log in TRACES}), TRACES[1]
    block = encoder.encode(trace, POLICIES[name])
    reading = encoder.read(trace, POLICIES[name])
    assert [reading.context.ids[slot - reading.context.injected] for slot in reading.kept] == block.ids.tolist()
    page = kept_html(trace, name, encoder)
    assert page.count("<mark") == len(block)
    assert f"keeps {len(block)} of the {len(reading.context.ids)} tokens" in page
    assert f"{block.nbytes / 1024:,.0f} KiB" in page


def test_without_an_encoder_words_are_marked():
    page = kept_html(TRACES[1], "kv_last_action")
    assert page.count("<mark") == 1
    assert ">&lt;ans&gt;Ice&lt;/ans&gt;</mark>" in page
    assert kept_text(TRACES[1], "last_action") == "<ans>Ice</ans>"
    assert "reuses no logs" in kept_html(TRACES[1], "no_logs")
    assert "as text" in kept_html(TRACES[1], "text_last_round")
    with pytest.raises(ConfigError, match="Unknown policy"):
        kept_html(TRACES[1], "kv_nothing")


def test_the_map_has_a_point_for_each_log_and_rings_what_was_found(store):
    figure = similarity_map(store, [TRACES[1].id])
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


def test_following_gives_every_round_and_stops_when_nobody_asks(store, lm):
    lm.play({QUESTION.text: [SEARCH, ANSWER] * 2})
    followed = follow(lm, store, QUESTION, ["no_logs"], **SETTINGS)
    steps = [(name, len(trace.rounds), trace.correct, ended) for name, trace, ended in followed]
    assert steps == [("no_logs", 1, None, False), ("no_logs", 2, True, True)]
    going = follow(lm, store, QUESTION, ["no_logs", "kv_last_round"], **SETTINGS)
    next(going)
    going.close()
    assert lm.turn[QUESTION.text] == 3


def test_following_ends_with_what_a_run_gives(store, lm):
    settings = {key: value for key, value in SETTINGS.items() if key != "prompt"}
    lm.play({QUESTION.text: [SEARCH, SEARCH, ANSWER] * 2})
    [run] = Agent(lm, prompt=PROMPT, **settings).run([QUESTION])
    *_, followed = Agent(lm, prompt=PROMPT, **settings).follow(QUESTION)
    assert followed == run


def test_answers_stand_side_by_side(store, lm):
    lm.play({QUESTION.text: [SEARCH, ANSWER, ANSWER]})
    traces = ask(lm, store, QUESTION, ["no_logs", "kv_last_round"], **SETTINGS)
    table = Answers(traces, {}).table()
    assert table["answer"].tolist() == ["Black Sea", "Black Sea"]
    assert table["rounds"].tolist() == [2, 1]
    assert table["logs"].tolist() == [0, 3]
    assert table["injected"].tolist() == [trace.usage.injected for trace in traces.values()]
    page = answers_html(traces, log_names(store, traces.values()))
    assert page.index("no_logs") < page.index("kv_last_round") < page.index("What is cold?")
    assert log_names(store, traces.values()) == {trace.id: trace.question for trace in TRACES}


@pytest.mark.parametrize(
    ("name", "logs"),
    [
        ("no_logs", 0),
        ("kv_last_round", 3),
        ("kv_last_round_prefix", 3),
        ("text_last_round", 1),
        ("text/last_round/responses/prefix", 1),
        ("text_last_round_user_turn", 1),
    ],
)
def test_attention_is_shared_out_over_all_parts(store, lm, name, logs):
    lm.play({QUESTION.text: [SEARCH, ANSWER]})
    trace = ask(lm, store, QUESTION, [name], **SETTINGS)[name]
    table = attention_table(lm, store, trace, prompt=PROMPT, passages=PASSAGES, question=QUESTION)
    assert table["share"].sum() == pytest.approx(1, abs=1e-5)
    assert table["even"].sum() == pytest.approx(1, abs=1e-5)
    assert table.index.str.startswith("log").sum() == logs
    assert {"question", "opening of the answer", "its own words", "passage 1: Danube"} <= set(table.index)
    last = trace.rounds[-1].usage
    own = table["tokens"]["its own words"]
    assert table["tokens"].sum() - own == last.prefilled + last.injected
    texts = [len(lm.tokenize(t.rounds[-1].response)) for t in TRACES]
    if POLICIES.get(name) and POLICIES[name].inject == "kv":
        assert sorted(table["tokens"][table.index.str.startswith("log")]) == pytest.approx(sorted(texts), abs=1)


@pytest.mark.parametrize("name", ["no_logs", "kv_last_round", "text_last_round", "text_last_round_user_turn"])
def test_attention_token_by_token_adds_up_to_that_of_the_parts(store, lm, name):
    lm.play({QUESTION.text: [SEARCH, ANSWER]})
    trace, about = ask(lm, store, QUESTION, [name], **SETTINGS)[name], {"prompt": PROMPT, "passages": PASSAGES}
    found = attention_tokens(lm, store, trace, question=QUESTION, **about)
    table = attention_table(lm, store, trace, question=QUESTION, **about)
    by_part = found.by_part()
    assert by_part["tokens"].sum() == table["tokens"].sum()
    assert by_part["share"].sum() == pytest.approx(1, abs=1e-5)
    assert by_part["share"]["its own words"] == pytest.approx(table["share"]["its own words"], abs=1e-5)
    own = "".join(piece.text for piece in found.pieces if piece.part == "its own words")
    assert own.strip() == lm.plain(trace.rounds[-1].response).strip()
    if name == "kv_last_round":
        last = TRACES[2].rounds[-1].response
        assert any(part.endswith("What is warm?") for part in by_part.index)
        pieces = "".join(piece.text for piece in found.pieces if piece.part.endswith("What is warm?"))
        assert pieces.strip() == last


def test_attention_to_passages_that_are_not_at_hand_counts_as_the_rest(store, lm):
    lm.play({QUESTION.text: [SEARCH, ANSWER]})
    trace = ask(lm, store, QUESTION, ["text_last_round"], **SETTINGS)["text_last_round"]
    assert any(round.passages for round in trace.rounds)
    with_them = attention_table(lm, store, trace, prompt=PROMPT, passages=PASSAGES, question=QUESTION)
    table = attention_table(lm, store, trace, prompt=PROMPT, question=QUESTION)
    named = [part for part in with_them.index if part.startswith("passage")]
    assert list(table.index) == [part for part in with_them.index if part not in named]
    assert table["tokens"].sum() == with_them["tokens"].sum()


def test_a_trace_that_failed_at_once_has_no_attention(store, lm):
    with pytest.raises(DataError, match="no response whose attention"):
        attention_table(lm, store, trace_of(), prompt=PROMPT, passages=PASSAGES)


def test_bars_show_shares_and_marks_even_ones(store, lm):
    lm.play({QUESTION.text: [ANSWER]})
    trace = ask(lm, store, QUESTION, ["kv_last_round"], **SETTINGS)["kv_last_round"]
    table = attention_table(lm, store, trace, prompt=PROMPT, passages=PASSAGES)
    bar, mark, told = (figure := attention_bars(table, "Title")).data
    assert list(bar.x) == table["share"].tolist()
    assert list(mark.x) == table["even"].tolist()
    assert bar.marker.color == palette.SERIES[0]
    assert len(figure.layout.yaxis.ticktext) == len(table)
    assert figure.layout.yaxis.ticktext[0].startswith("log 1: ")
    assert told.text[0].strip() == f"{table['share'].iloc[0]:.1%} on {table['tokens'].iloc[0]:,} tokens"
    assert list(told.x) == np.maximum(table["share"], table["even"]).tolist()


def test_variants_may_change_the_limits(lm, store):
    lm.play({QUESTION.text: [" Unknown. <keywords>river</keywords>"]})
    traces = ask(lm, store, QUESTION, ["no_logs+max_rounds=1", "copy_nearest"], **SETTINGS)
    assert len(traces["no_logs+max_rounds=1"].rounds) == 1
    with pytest.raises(DataError, match="was copied from a log, so the model attended to nothing"):
        attention_table(lm, store, traces["copy_nearest"], prompt=PROMPT, passages=PASSAGES)
    assert "shows the model nothing of a log" in kept_html(TRACES[0], "copy_nearest")
