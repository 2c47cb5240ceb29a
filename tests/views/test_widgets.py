"""The widgets without a browser: buttons pressed by their callbacks, and what is then shown."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lagkit.logs.encode import Encoder
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.logs.store import LogStore
from lagkit.nightly.pages import WIDGET, Link, render
from lagkit.types import Limits
from lagkit.util.errors import ConfigError
from lagkit.views.widgets import LogExplorer, Playground, asking, logs
from lagkit.views.widgets import explorer as explorer_module
from lagkit.views.widgets import parts as widget_parts
from lagkit.views.widgets.parts import Later
from tests.helpers.lms import ScriptedLM, new_lm, open_store, passages_about, qa, short_prompt, trace_of

PROMPT, EMBEDDER = short_prompt(), HashEmbedder()
QUESTION = qa("Where does the Danube end?", "Black Sea")
KEPT, MAP = 1, 2  # tabs
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
    return explorer.logs.ids


def test_the_explorer_lists_all_logs_and_shows_the_first(explorer):
    assert listed(explorer) == [trace.id for trace in TRACES]
    assert "2 of 2 logs." in explorer.message.value
    assert "Where does the Danube end?" in explorer.trace.value
    assert explorer.kept.value == "", "the model need not read a log before somebody looks"
    explorer.tabs.selected_index = KEPT
    assert "kv_last_round" in explorer.kept.value
    assert "<mark" in explorer.kept.value


def test_a_query_narrows_the_list_and_filters_do(explorer):
    explorer.query.value = "something cold"
    assert listed(explorer) == [TRACES[1].id]
    assert "1 of 2 logs, similar to “something cold” (cosine above 0.00)." in explorer.message.value
    assert explorer.logs.columns[0][1] == "cosine"
    assert explorer.logs.rows[0][1].startswith("0.")
    assert "&lt;b&gt;cold&lt;/b&gt;" in explorer.trace.value
    assert "<b>cold</b>" not in explorer.trace.value
    explorer.query.value = ""
    explorer.rounds.value = (1, 1)
    assert listed(explorer) == [TRACES[0].id]
    explorer.right.value = "right"
    assert listed(explorer) == []
    assert explorer.logs.empty in explorer.message.value
    assert "No log fits: 0 of 2 logs." in explorer.logs.empty
    assert explorer.delete.disabled
    assert "No log is chosen" in explorer.trace.value


def test_a_query_that_nothing_is_similar_to_is_told_so(explorer):
    explorer.query.value = "banjo festival"
    assert listed(explorer) == []
    assert "Nothing is similar to “banjo festival”" in explorer.message.value


def test_a_head_that_is_pressed_sorts_all_that_are_found(explorer):
    explorer.logs.order = ["rounds", True]
    assert listed(explorer) == [TRACES[1].id, TRACES[0].id]
    explorer.logs.order = ["question", False]
    assert listed(explorer) == [TRACES[1].id, TRACES[0].id]
    explorer.query.value = "cold Danube"
    assert explorer.logs.order == ["added", False], "what is searched for comes best first"
    cosines = [row[1] for row in explorer.logs.rows]
    assert len(cosines) == 2
    assert cosines == sorted(cosines, reverse=True)
    explorer.logs.order = ["added", True]
    assert [row[1] for row in explorer.logs.rows] == cosines[::-1]


def test_a_log_that_was_read_stays_chosen_when_the_list_is_sorted(explorer):
    explorer.logs.chosen = TRACES[1].id
    explorer.logs.order = ["rounds", False]
    assert explorer.log == TRACES[1].id


def test_an_order_that_no_table_asks_for_is_not_taken(explorer):
    explorer.logs.order = ["1; DROP TABLE logs", True]
    assert listed(explorer) == [TRACES[1].id, TRACES[0].id]


def test_a_search_without_words_is_answered_in_a_sentence(explorer):
    explorer.query.value = "???"
    assert "A query has length 0" in explorer.message.value
    assert "Traceback" not in explorer.message.value


def test_another_policy_keeps_other_tokens(explorer):
    explorer.tabs.selected_index = KEPT
    explorer.policy.value = "kv_last_action"
    action = explorer.kept.value.count("<mark")
    explorer.policy.value = "kv_all_rounds"
    assert 0 < action < explorer.kept.value.count("<mark")


def test_a_log_is_deleted_only_after_a_second_press(explorer, store):
    explorer.logs.chosen = TRACES[1].id
    explorer.delete.click()
    assert explorer.asking.layout.display == "flex"
    assert "Delete the log of “What is &lt;b&gt;cold&lt;/b&gt;?”, for good?" in explorer.question.value
    explorer.keep.click()
    assert (explorer.asking.layout.display, len(store)) == ("none", 2)
    explorer.delete.click()
    explorer.confirm.click()
    assert store.ids == listed(explorer) == [TRACES[0].id]
    assert "was deleted; 1 are left" in explorer.message.value
    assert "&lt;b&gt;" in explorer.message.value


def test_choosing_another_log_takes_the_question_back(explorer):
    explorer.delete.click()
    explorer.logs.chosen = TRACES[1].id
    assert explorer.asking.layout.display == "none"


def test_a_store_that_another_writes_to_is_left_alone(explorer, store):
    with LogStore.open(store.path, write=True):
        explorer.delete.click()
        explorer.confirm.click()
    assert len(store) == 2
    assert "is writing to" in explorer.message.value


def test_the_map_is_drawn_when_it_is_looked_at_and_follows_the_search(explorer):
    assert explorer.map.points == []
    explorer.tabs.selected_index = MAP
    assert {point[0]: point[3] for point in explorer.map.points} == dict.fromkeys(listed(explorer), "not judged")
    assert set(explorer.map.found) == {trace.id for trace in TRACES}
    assert explorer.map.chosen == TRACES[0].id
    explorer.query.value = "cold"
    assert (explorer.map.found, explorer.map.chosen) == ([TRACES[1].id], TRACES[1].id)


def test_a_press_on_the_map_chooses_the_log_in_the_list(explorer):
    explorer.tabs.selected_index = MAP
    explorer.map.chosen = TRACES[1].id
    assert explorer.logs.chosen == TRACES[1].id
    assert "&lt;b&gt;cold&lt;/b&gt;" in explorer.trace.value
    explorer.logs.chosen = TRACES[0].id
    assert explorer.map.chosen == TRACES[0].id


def test_of_very_many_logs_the_chosen_one_is_on_the_map(explorer, monkeypatch):
    monkeypatch.setattr(logs, "_MANY", 1)
    monkeypatch.setattr(explorer_module, "_BEST", 0)
    explorer.tabs.selected_index = MAP
    assert [point[0] for point in explorer.map.points] == [TRACES[0].id]
    assert explorer.map.title.startswith("1 of 2 logs")
    explorer.logs.chosen = TRACES[1].id
    assert TRACES[1].id in [point[0] for point in explorer.map.points]
    assert explorer.map.chosen == TRACES[1].id


def test_the_lasso_filters_until_it_is_cleared(explorer):
    explorer.tabs.selected_index = MAP
    assert explorer.unlasso.layout.display == "none"
    explorer.map.lasso = [TRACES[1].id]
    assert listed(explorer) == [TRACES[1].id]
    assert "1 of 2 logs inside the lasso." in explorer.message.value
    assert explorer.unlasso.layout.display == ""
    explorer.unlasso.click()
    assert listed(explorer) == [trace.id for trace in TRACES]


def test_the_explorer_shows_what_kept_tokens_attended_to(explorer):
    explorer.tabs.selected_index = KEPT
    explorer.look.click()
    [shown] = explorer.attention.outputs
    assert "lagkit-tokens" in shown["data"]["text/html"]
    assert "<script>" in shown["data"]["text/html"], "an output runs the view's script"
    explorer.policy.value = "text_last_round"
    assert (explorer.attention.outputs, explorer.look.disabled) == ((), True)


def test_the_explorer_is_there_before_its_model(store, lm):
    go_on = threading.Event()

    class Waiting(SimpleNamespace):
        @property
        def local_lm(self):
            assert go_on.wait(60)
            return lm

    explorer = LogExplorer.of(Waiting(prompt=PROMPT), store)
    assert listed(explorer) == [trace.id for trace in TRACES]
    explorer.tabs.selected_index = KEPT
    assert "The model is being loaded" in explorer.kept.value
    go_on.set()
    explorer.wait(60)
    assert "tokens that it reads" in explorer.kept.value
    assert "The model is being loaded" not in explorer.kept.value


def test_callbacks_may_come_from_any_thread(explorer, store):
    """JupyterLab sends them to a thread of its own once that has started."""
    said = []

    def press():
        explorer.tabs.selected_index = MAP
        explorer.query.value = "cold"
        explorer.delete.click()
        explorer.confirm.click()
        said.append(explorer.message.value)

    thread = threading.Thread(target=press)
    thread.start()
    thread.join(60)
    assert "was deleted; 1 are left" in said[0]
    assert "1 logs by similarity" in explorer.map.title
    assert (listed(explorer), explorer.map.found) == ([], [])
    explorer.query.value = ""
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
    assert "Right answer: <b>Black Sea</b>" in shown
    assert "(\N{MINUS SIGN}1)" in shown, "a round fewer than without logs"
    assert "tokens prefilled" in shown
    assert playground.progress.value == playground.progress.max
    assert playground.progress.layout.visibility == "hidden", "the bar goes when the work is done"
    assert list(playground.attended.options) == [("no logs", "no_logs"), ("KV, last round", "kv_last_round")]
    assert playground.attended.value == "no_logs"
    assert (playground.ask_button.disabled, playground.stop_button.disabled) == (False, True)


def test_enter_asks(playground, lm):
    lm.play({QUESTION.text: [SEARCH, ANSWER, ANSWER]})
    playground.question.value = QUESTION.text
    playground.question._handle_custom_msg({"event": "submit"}, [])
    assert playground.wait(60)
    assert set(playground.traces) == {"no_logs", "kv_last_round"}


def test_a_few_variants_are_offered_and_more_on_demand(playground):
    def offered():
        return [name for name, box in playground.variants.items() if box.layout.display != "none"]

    assert offered() == ["no_logs", "kv_last_round"]
    playground.more.value = True
    assert len(offered()) > 10
    playground.variants["copy_nearest"].value = True
    playground.more.value = False
    assert offered() == ["no_logs", "kv_last_round", "copy_nearest"], "what is ticked stays in sight"


def test_words_of_an_example_are_the_example_and_others_a_question_of_ones_own(playground):
    assert playground.example.label == "a question of your own"
    playground.example.value = QUESTION
    assert playground.question.value == QUESTION.text
    playground.question.value = "Where does the Rhine end?"
    assert playground.example.label == "a question of your own"
    playground.question.value = QUESTION.text
    assert playground.example.value == QUESTION


def test_what_differs_from_the_first_variant_is_marked(playground, lm):
    lm.play({QUESTION.text: [SEARCH, ANSWER, "It is. <ans>Ice</ans>"]})
    playground.ask(QUESTION)
    assert playground.wait(60)
    assert playground.answers.value.count("not the answer of the first variant") == 1
    assert "In brackets and underlined" in playground.answers.value


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
    assert "Stopped; what was done until then is shown. Not asked: KV, last round." in playground.message.value
    assert playground.answers.value.count("<i>stopped after round 1</i>") == 2, "in the summary and in its column"
    assert "no answer" not in playground.answers.value
    assert "not judged" not in playground.answers.value


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
    [shown] = playground.attention.outputs
    assert "log 1: Where does the Danube end?" in shown["data"]["text/html"]
    assert "its own words" in shown["data"]["text/html"]


def test_a_playground_whose_model_cannot_be_loaded_says_so(store):
    def broken():
        raise ConfigError("There is no such model.")

    means = Later(broken)
    playground = Playground(means, store, prompt=PROMPT)
    means.start()
    playground.ask("Who?")
    assert playground.wait(60)
    assert "There is no such model." in playground.message.value
    assert not playground.ask_button.disabled


def test_a_widget_is_displayed_with_a_snapshot_and_without_a_person_alone(explorer, monkeypatch):
    for live in (True, False):
        monkeypatch.setattr(widget_parts, "in_live_notebook", lambda live=live: live)
        shown = explorer._repr_mimebundle_()
        assert (WIDGET in shown) == live
        assert "Where does the Danube end?" in shown["text/html"]
        assert "&lt;b&gt;cold&lt;/b&gt;" in shown["text/html"]
        assert "VBox" not in shown["text/html"] + shown["text/plain"]


def test_the_snapshot_of_a_playground_waits_for_what_was_asked(playground, lm):
    assert "Nothing was asked yet." in playground._repr_mimebundle_()["text/html"]
    lm.play({QUESTION.text: [SEARCH, ANSWER, ANSWER]})
    playground.ask(QUESTION)
    shown = playground._repr_mimebundle_()["text/html"]
    assert not playground.busy
    assert shown.count("<b class='lagkit-answer'>Black Sea</b>") == 4


def test_a_snapshot_stands_on_the_page_in_the_place_of_the_widget(explorer, monkeypatch):
    monkeypatch.setattr(widget_parts, "in_live_notebook", lambda: True)
    shown = explorer._repr_mimebundle_()
    cell = new_code_cell("explorer", outputs=[new_output("execute_result", data=shown, execution_count=1)])
    page = render(new_notebook(cells=[new_markdown_cell("# A\n\nB."), cell]), "A", "plotly.js", Link("b", "B"))
    assert "Where does the Danube end?" in page
    assert "A widget stands here" not in page
    assert "model_id" not in page


def test_a_multiple_choice_question_needs_its_options():
    with pytest.raises(ConfigError, match="choose one of the examples"):
        asking.as_question("Which?", short_prompt("choice"))
