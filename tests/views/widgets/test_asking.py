"""Questions answered under variants, and the attention that their answers pay, from the plain functions."""

from __future__ import annotations

import numpy as np
import pytest

from lagkit.agent.loop import Agent
from lagkit.logs.retrieve import PassageIndex
from lagkit.policy import POLICIES
from lagkit.types import Limits, Trace
from lagkit.util.errors import DataError
from lagkit.views import palette
from lagkit.views.lab import Answers
from lagkit.views.plots.explore import attention_bars
from lagkit.views.widgets import answers_html, attention_table, attention_tokens, follow, kept_html, log_names
from tests.helpers.lms import open_store, passages_about, trace_of
from tests.helpers.panels import ANSWER, EMBEDDER, JUDGED, PROMPT, QUESTION, SEARCH

PASSAGES = PassageIndex(passages_about("danube", "ice"), EMBEDDER)
SETTINGS = {"prompt": PROMPT, "embedder": EMBEDDER, "passages": PASSAGES, "limits": Limits(max_rounds=3)}


@pytest.fixture
def store(tmp_path, lm):
    with open_store(tmp_path / "store", lm, *JUDGED) as made:
        yield made


def ask(lm, store, question, variants, **settings) -> dict[str, Trace]:
    return {name: trace for name, trace, _ in follow(lm, store, question, variants, **settings)}


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
    assert log_names(store, traces.values()) == {trace.id: trace.question for trace in JUDGED}


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
    texts = [len(lm.tokenize(t.rounds[-1].response)) for t in JUDGED]
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
        last = JUDGED[2].rounds[-1].response
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
    assert "shows the model nothing of a log" in kept_html(JUDGED[0], "copy_nearest")
