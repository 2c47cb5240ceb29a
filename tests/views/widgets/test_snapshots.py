"""Widgets where nobody can press them: their snapshots, on pages and in headless runs."""

from __future__ import annotations

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lagkit.logs.store import LogStore
from lagkit.nightly.pages import WIDGET, Link, render
from lagkit.views.widgets import parts as widget_parts
from tests.helpers.panels import ANSWER, QUESTION, SEARCH


def test_a_widget_is_displayed_with_a_snapshot_and_without_a_person_alone(explorer, monkeypatch):
    for live in (True, False):
        monkeypatch.setattr(widget_parts, "in_live_notebook", lambda live=live: live)
        shown = explorer._repr_mimebundle_()
        assert (WIDGET in shown) == live
        assert "Where does the Danube end?" in shown["text/html"]
        assert "&lt;b&gt;cold&lt;/b&gt;" in shown["text/html"]
        assert "VBox" not in shown["text/html"] + shown["text/plain"]


def test_an_explorer_of_logs_that_others_deleted_is_displayed_with_a_sentence(explorer, monkeypatch):
    gone = explorer.found[0]
    with LogStore.open(explorer.store.path, write=True) as other:
        other.delete(gone)
    for live in (True, False):
        monkeypatch.setattr(widget_parts, "in_live_notebook", lambda live=live: live)
        shown = explorer._repr_mimebundle_()
        assert (WIDGET in shown) == live
        assert shown["text/plain"].startswith(f"There is no log '{gone}' in the store at ")
        assert shown["text/html"].startswith("<p>There is no log &#x27;")


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
