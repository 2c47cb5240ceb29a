"""The explorer without a browser: buttons pressed by their callbacks, and what is then shown."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from traitlets import TraitError

from lagkit.logs.encode import Encoder
from lagkit.logs.store import LogStore
from lagkit.views.widgets import LogExplorer, logs
from lagkit.views.widgets import explorer as explorer_module
from lagkit.views.widgets.parts import MODEL_TURN
from tests.helpers.lms import open_store
from tests.helpers.panels import EMBEDDER, PROMPT, TRACES, loaded

KEPT, MAP = 1, 2  # tabs


def listed(explorer: LogExplorer) -> list[str]:
    return [row[0] for row in explorer.logs.rows]


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
    with pytest.raises(TraitError):
        explorer.logs.order = ["rounds"]
    assert listed(explorer) == [TRACES[1].id, TRACES[0].id]


def test_words_without_end_are_told_in_short(explorer):
    explorer.query.value = "x" * 100_000
    assert "Nothing is similar to “xxx" in explorer.message.value
    assert len(explorer.message.value) < 1000


def test_a_search_without_words_is_answered_in_a_sentence(explorer):
    explorer.query.value = "???"
    assert "Nothing is similar to “???”" in explorer.message.value
    assert "Traceback" not in explorer.message.value


def test_another_policy_keeps_other_tokens(explorer):
    explorer.tabs.selected_index = KEPT
    explorer.policy.value = "kv_last_action"
    action = explorer.kept.value.count("<mark")
    explorer.policy.value = "kv_all_rounds"
    assert 0 < action < explorer.kept.value.count("<mark")


def test_a_log_that_another_process_deleted_leaves_the_list(explorer, store, lm, tmp_path):
    gone = explorer.log
    explorer.delete.click()
    with LogStore.open(tmp_path / "store", write=True) as writer:
        writer.delete([gone])
    explorer.confirm.click()
    assert "deleted by another process; 1 are left" in explorer.message.value
    assert gone not in listed(explorer)


def test_a_log_whose_words_no_file_takes_is_listed(tmp_path, lm):
    open_store(tmp_path / "odd", lm, replace(TRACES[0], question="Who \ud800?")).close()
    with LogStore.open(tmp_path / "odd") as reader:
        shown = LogExplorer(reader, embedder=EMBEDDER, encoder=loaded(Encoder(lm, PROMPT)))
        assert [*logs.logs_table(reader)["question"]] == ["Who ??"]
        assert len(listed(shown)) == 1
        assert "unexpected" not in shown.message.value


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


def test_choosing_another_log_takes_the_question_back(explorer, store):
    explorer.delete.click()
    explorer.logs.chosen = TRACES[1].id
    assert explorer.asking.layout.display == "none"
    explorer.confirm.click()  # a press that was under way
    assert {*store.ids} == {trace.id for trace in TRACES}


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


def test_a_log_that_is_pressed_on_the_map_and_not_listed_is_not_chosen(explorer):
    explorer.tabs.selected_index = MAP
    explorer.rounds.value = (1, 1)
    assert listed(explorer) == [TRACES[0].id]
    explorer.map.chosen = TRACES[1].id
    assert (explorer.log, explorer.map.chosen) == (TRACES[0].id, TRACES[0].id)
    explorer.right.value = "right"
    explorer.map.chosen = TRACES[1].id
    assert (explorer.log, explorer.map.chosen, explorer.delete.disabled) == (None, "", True)


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
    go_on, told = threading.Event(), threading.Event()

    class Waiting(SimpleNamespace):
        @property
        def local_lm(self):
            assert go_on.wait(60)
            return lm

    explorer = LogExplorer.of(Waiting(prompt=PROMPT), store)
    assert listed(explorer) == [trace.id for trace in TRACES]
    explorer.loading.add_done_callback(lambda _: told.set())  # behind that of the explorer
    explorer.tabs.selected_index = KEPT
    assert "The model is being loaded" in explorer.kept.value
    go_on.set()
    assert told.wait(60)
    assert "tokens that it reads" in explorer.kept.value
    assert "The model is being loaded" not in explorer.kept.value


def test_an_encoder_that_is_there_already_shows_tokens_and_policies_are_chosen(store, lm):
    policies = ["text_last_round", "kv/last_action/kept/front/usual/around"]
    explorer = LogExplorer(store, embedder=EMBEDDER, encoder=Encoder(lm, PROMPT), policies=policies)
    assert [name for _, name in explorer.policy.options] == policies
    explorer.tabs.selected_index = KEPT
    explorer.policy.value = policies[1]
    assert "tokens that it reads" in explorer.kept.value
    assert not explorer.look.disabled
    explorer.look.click()
    assert len(explorer.attention.outputs) == 1


def test_an_explorer_without_a_model_waits_for_no_other(store):
    explorer = LogExplorer(store, embedder=EMBEDDER)
    looking = threading.Thread(target=lambda: explorer.tabs.set_trait("selected_index", KEPT), daemon=True)
    with MODEL_TURN:  # as the playground holds it in a round
        looking.start()
        looking.join(30)
        assert "<mark" in explorer.kept.value


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
