"""The playground without a browser: what is asked, what is shown, and how it stops."""

from __future__ import annotations

import threading

import pytest

from lagkit.logs.retrieve import PassageIndex
from lagkit.types import Limits
from lagkit.util.errors import ConfigError, StoreError
from lagkit.views.widgets import Means, Playground, asking
from lagkit.views.widgets import playground as playground_module
from lagkit.views.widgets.parts import begin
from tests.helpers.lms import ScriptedLM, passages_about, short_prompt
from tests.helpers.panels import ANSWER, EMBEDDER, PROMPT, QUESTION, SEARCH


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


def test_a_variant_that_breaks_off_says_where_and_what_it_did_can_be_looked_at(playground, lm, monkeypatch):
    lm.play({QUESTION.text: [SEARCH] * 6})
    follow = playground_module.follow

    def breaks(*given, **settings):
        yield next(follow(*given, **settings))
        raise StoreError("The store is gone.")

    monkeypatch.setattr(playground_module, "follow", breaks)
    playground.question.value = QUESTION.text
    playground.ask()
    assert playground.wait(60)
    assert "The store is gone." in playground.message.value
    assert "in round 2" not in playground.answers.value
    assert playground.answers.value.count("<i>broke off after round 1</i>") == 2
    assert [name for _, name in playground.attended.options] == ["no_logs"]


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

    playground = Playground(begin(broken), store, prompt=PROMPT, limits=Limits())
    playground.ask("Who?")
    assert playground.wait(60)
    assert "There is no such model." in playground.message.value
    assert not playground.ask_button.disabled


def test_a_playground_is_made_of_what_is_there_already(store, lm):
    lm.play({QUESTION.text: [ANSWER]})
    means = Means(lm, EMBEDDER, PassageIndex(passages_about("danube"), EMBEDDER))
    playground = Playground(means, store, prompt=PROMPT, limits=Limits(max_rounds=1), variants=["no_logs"])
    assert "The model is there" in playground.message.value
    playground.ask(QUESTION.text)
    assert playground.wait(60)
    assert "Done: 1 variant." in playground.message.value


def test_variants_of_ones_own_are_offered_and_ticked(store):
    offered = ("no_logs", "no_logs+passages=2")
    playground = Playground(begin(lambda: None), store, prompt=PROMPT, limits=Limits(), variants=offered)
    shown = {name for name, box in playground.variants.items() if box.layout.display != "none"}
    assert (playground._ticked, shown) == ([*offered], {*offered})


def test_a_multiple_choice_question_needs_its_options():
    with pytest.raises(ConfigError, match="choose one of the examples"):
        asking.as_question("Which?", short_prompt("choice"))
