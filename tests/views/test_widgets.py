"""The widgets without a browser: buttons pressed by their callbacks, and what is then shown."""

from __future__ import annotations

import threading

import pytest

from lagkit.logs.encode import Encoder
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.logs.store import LogStore
from lagkit.types import Limits
from lagkit.util.errors import ConfigError
from lagkit.views.widgets import LogExplorer, Playground, asking
from lagkit.views.widgets import parts as widget_parts
from tests.helpers.lms import ScriptedLM, new_lm, open_store, passages_about, qa, short_prompt, trace_of

PROMPT, EMBEDDER = short_prompt(), HashEmbedder()
QUESTION = qa("Where does the Danube end?", "Black Sea")
SEARCH, ANSWER = "Not told. <keywords>Danube</keywords>", "It is told. <ans>Black Sea</ans>"
TRACES = (
    trace_of("It ends in <ans>Sea</ans>", question="Where does the Danube end?", id="q1"),
    trace_of("Hm. <keywords>x</keywords>", "<ans>Ice</ans>", question="What is <b>cold</b>?", id="q2"),
)


@pytest.fixture(scope="module")
def lm():
    return new_lm(ScriptedLM)


@pytest.fixture
def store(tmp_path, lm):
    open_store(tmp_path / "store", lm, *TRACES).close()
    with LogStore.open(tmp_path / "store") as reader:
        yield reader


@pytest.fixture
def explorer(store, lm):
    return LogExplorer(store, embedder=EMBEDDER, encoder=Encoder(lm, PROMPT))


@pytest.fixture
def playground(store, lm):
    made = {"prompt": PROMPT, "embedder": EMBEDDER, "passages": PassageIndex(passages_about("danube", "ice"), EMBEDDER)}
    return Playground(
        lm, store, **made, limits=Limits(max_rounds=3), questions=[QUESTION], variants=["no_logs", "kv_last_round"]
    )


def listed(explorer: LogExplorer) -> list[str]:
    return [log for _, log in explorer.logs.options]


def test_the_explorer_lists_all_logs_and_shows_the_first(explorer):
    assert listed(explorer) == [trace.id for trace in TRACES]
    assert "2 of 2 logs." in explorer.message.value
    assert "Where does the Danube end?" in explorer.trace.value
    assert "kv_last_round" in explorer.kept.value
    assert "<mark" in explorer.kept.value


def test_the_explorer_searches_and_filters(explorer):
    explorer.query.value = "something cold"
    assert listed(explorer) == [TRACES[1].id, TRACES[0].id]
    assert explorer.logs.options[0][0].startswith("0.")
    assert "&lt;b&gt;cold&lt;/b&gt;" in explorer.trace.value
    assert "<b>cold</b>" not in explorer.trace.value
    explorer.query.value = ""
    explorer.rounds.value = (1, 1)
    assert listed(explorer) == [TRACES[0].id]
    explorer.right.value = "right"
    assert listed(explorer) == []
    assert explorer.delete.disabled
    assert "No log is chosen" in explorer.trace.value


def test_a_search_without_words_is_answered_in_a_sentence(explorer):
    explorer.query.value = "???"
    assert "A query has length 0" in explorer.message.value
    assert "Traceback" not in explorer.message.value


def test_another_policy_keeps_other_tokens(explorer):
    explorer.policy.value = "kv_last_action"
    action = explorer.kept.value.count("<mark")
    explorer.policy.value = "kv_all_rounds"
    assert 0 < action < explorer.kept.value.count("<mark")


def test_a_log_is_deleted_only_after_a_second_press(explorer, store):
    explorer.logs.value = TRACES[1].id
    explorer.delete.click()
    assert explorer.asking.layout.display == "flex"
    explorer.keep.click()
    assert (explorer.asking.layout.display, len(store)) == ("none", 2)
    explorer.delete.click()
    explorer.confirm.click()
    assert store.ids == listed(explorer) == [TRACES[0].id]
    assert "was deleted; 1 are left" in explorer.message.value
    assert "&lt;b&gt;" in explorer.message.value


def test_choosing_another_log_takes_the_question_back(explorer):
    explorer.delete.click()
    explorer.logs.value = TRACES[1].id
    assert explorer.asking.layout.display == "none"


def test_a_store_that_another_writes_to_is_left_alone(explorer, store):
    with LogStore.open(store.path, write=True):
        explorer.delete.click()
        explorer.confirm.click()
    assert len(store) == 2
    assert "is writing to" in explorer.message.value


def test_the_map_is_drawn_when_it_is_looked_at(explorer):
    assert explorer.map.outputs == ()
    explorer.tabs.selected_index = 2
    [shown] = explorer.map.outputs
    assert "application/vnd.plotly.v1+json" in shown["data"]
    explorer.query.value = "cold"
    [shown] = explorer.map.outputs
    assert list(shown["data"]) == ["application/vnd.plotly.v1+json"], "nothing that loads a script from elsewhere"
    figure = shown["data"]["application/vnd.plotly.v1+json"]
    assert any("found by the search" in trace["name"] for trace in figure["data"])


def test_callbacks_may_come_from_any_thread(explorer, store):
    """JupyterLab sends them to a thread of its own once that has started."""
    said = []

    def press():
        explorer.tabs.selected_index = 2
        explorer.query.value = "cold"
        explorer.delete.click()
        explorer.confirm.click()
        said.append(explorer.message.value)

    thread = threading.Thread(target=press)
    thread.start()
    thread.join(60)
    assert "was deleted; 1 are left" in said[0]
    assert (
        "1 logs by similarity"
        in explorer.map.outputs[0]["data"]["application/vnd.plotly.v1+json"]["layout"]["title"]["text"]
    )
    assert store.ids == listed(explorer) == [TRACES[0].id]


def test_the_playground_answers_under_each_ticked_variant(playground, lm):
    lm.play({QUESTION.text: [SEARCH, ANSWER, ANSWER]})
    playground.example.value = QUESTION
    assert playground.question.value == QUESTION.text
    playground.ask_button.click()
    assert playground.wait(60)
    assert "Done: 2 variants." in playground.message.value
    assert {name: (len(t.rounds), t.correct) for name, t in playground.traces.items()} == {
        "no_logs": (2, True),
        "kv_last_round": (1, True),
    }
    shown = playground.answers.value
    assert shown.count("Black Sea") >= 2
    assert "logs found:" in shown
    assert "tokens prefilled" in shown
    assert playground.progress.value == playground.progress.max
    assert list(playground.attended.options) == ["no_logs", "kv_last_round"]
    assert playground.attended.value == "no_logs"
    assert (playground.ask_button.disabled, playground.stop_button.disabled) == (False, True)


def test_other_words_than_the_examples_are_a_question_of_ones_own(playground):
    assert playground.example.label == "a question of your own"
    playground.example.value = QUESTION
    assert playground.question.value == QUESTION.text
    playground.question.value = "Where does the Rhine end?"
    assert playground.example.label == "a question of your own"


def test_a_question_in_words_is_not_judged(playground, lm):
    lm.play({"Why <i>so</i>?": [ANSWER, ANSWER]})
    playground.question.value = "Why <i>so</i>?"
    playground.ask()
    assert playground.wait(60)
    assert [trace.correct for trace in playground.traces.values()] == [None, None]
    assert "<i>so" not in playground.answers.value


def test_stop_ends_the_work_after_the_round_it_is_in(playground, lm, monkeypatch):
    lm.play({QUESTION.text: [SEARCH] * 6})
    reached, go_on = threading.Event(), threading.Event()
    generate = ScriptedLM.generate

    def slow(self, *contexts, **settings):
        reached.set()
        assert go_on.wait(60)
        return generate(self, *contexts, **settings)

    monkeypatch.setattr(ScriptedLM, "generate", slow)
    playground.question.value = QUESTION.text
    playground.ask_button.click()
    assert reached.wait(60)
    assert playground.busy
    assert playground.ask_button.disabled
    playground.stop_button.click()
    assert "Stopping after this round" in playground.message.value
    go_on.set()
    assert playground.wait(60)
    assert lm.turn[QUESTION.text] == 1
    assert list(playground.traces) == ["no_logs"]
    assert "Stopped" in playground.message.value


@pytest.mark.parametrize(
    ("question", "ticked", "said"),
    [
        ("  ", True, "Type a question first."),
        ("Who?", False, "Choose at least one variant to ask."),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(playground, question, ticked, said):
    for box in playground.variants.values():
        box.value = box.value and ticked
    playground.question.value = question
    playground.ask()
    assert playground.wait(60)
    assert said in playground.message.value
    assert not playground.ask_button.disabled


def test_errors_that_nobody_foresaw_are_told_in_a_sentence_too(playground, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("division\n by <zero>")
        yield

    monkeypatch.setattr("lagkit.views.widgets.playground.follow", broken)
    playground.question.value = "Who?"
    playground.ask()
    assert playground.wait(60)
    assert "Something unexpected went wrong (ZeroDivisionError: division by &lt;zero&gt;)." in playground.message.value
    assert playground.progress.bar_style == "danger"


def test_the_playground_shows_what_an_answer_attends_to(playground, lm):
    lm.play({QUESTION.text: [ANSWER, ANSWER]})
    playground.example.value = QUESTION
    playground.ask()
    assert playground.wait(60)
    playground.attended.value = "kv_last_round"
    playground.attend_button.click()
    assert playground.wait(60)
    figure = playground.attention.outputs[0]["data"]["application/vnd.plotly.v1+json"]
    assert any("Where does the Danube end?" in name for name in figure["data"][0]["customdata"])
    assert figure["layout"]["title"]["text"] == "What the last response of KV, last round attends to"


@pytest.mark.parametrize("live", [True, False])
def test_widgets_are_shown_to_persons_only(explorer, monkeypatch, live):
    shown = []
    monkeypatch.setattr(widget_parts, "in_live_notebook", lambda: live)
    monkeypatch.setattr(widget_parts, "display", shown.append)
    explorer._ipython_display_()
    assert (shown[0] is explorer.view) == live
    assert live or "The LogExplorer is for a person in JupyterLab" in shown[0].data


def test_a_multiple_choice_question_needs_its_options():
    with pytest.raises(ConfigError, match="choose one of the examples"):
        asking.as_question("Which?", short_prompt("choice"))
