"""The tag parser: what a response asks for, and where its last action stands."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.model.prompts.actions import STOP_STRINGS, Action, last_action_span, parse

TAGS = ("ans", "keywords", "subquestion")
responses = st.lists(
    st.one_of(st.sampled_from([f"<{t}>" for t in TAGS] + [f"</{t}>" for t in TAGS]), st.text(max_size=4)), max_size=8
).map("".join)


@pytest.mark.parametrize(
    ("response", "task", "action"),
    [
        ("It is so. <ans>Rome</ans>", "qa", Action("answer", "Rome")),
        ("<ans>  New\nYork </ans>", "qa", Action("answer", "New\nYork")),
        ("<ans>Rome</ans> or rather <ans>Bari</ans>", "qa", Action("answer", "Bari")),
        ("<ans>Rome</ans> or rather <ans> </ans>", "qa", Action("answer", "Rome")),
        ("<ans>Rome</ans> <keywords>Rome river</keywords>", "qa", Action("answer", "Rome")),
        ("<keywords>a</keywords> <keywords> b c </keywords>", "qa", Action("search", "b c")),
        ("<keywords>a</keywords> <keywords></keywords>", "qa", Action("search", "a")),
        ("<ans></ans> <keywords>a</keywords>", "qa", Action("search", "a")),
        # Tags of the other kind of task say nothing.
        ("who? <subquestion>a</subquestion>", "qa", Action("search", "who? <subquestion>a</subquestion>")),
        ("what <keywords>a</keywords> ", "choice", Action("search", "what <keywords>a</keywords>")),
        ("<subquestion>a b</subquestion>x<subquestion>c</subquestion>", "choice", Action("search", "a b c")),
        ("<subquestion>b</subquestion><subquestion>a</subquestion><subquestion>b </subquestion>", "choice",
         Action("search", "b a")),
        ("<subquestion>a</subquestion> so <ans>(B)</ans>", "choice", Action("answer", "(B)")),
        # No whole tag: all of it is the query.
        ("  no tag at all\n", "qa", Action("search", "no tag at all")),
        ("<ans>cut off", "qa", Action("search", "<ans>cut off")),
        ("Rome</ans>", "qa", Action("search", "Rome</ans>")),
        ("<ans></ans>", "qa", Action("search", "<ans></ans>")),
        ("<ANS>Rome</ANS>", "qa", Action("search", "<ANS>Rome</ANS>")),
        ("<ans>Rome</keywords>", "qa", Action("search", "<ans>Rome</keywords>")),
        ("", "choice", Action("search", "")),
        # An unfinished tag does not hide the finished one behind it.
        ("<keywords>Rome <ans>Rome</ans>", "qa", Action("answer", "Rome")),
    ],
)  # fmt: skip
def test_action_of_a_response(response, task, action):
    assert parse(response, task) == action


@given(responses, st.sampled_from(["qa", "choice"]))
def test_an_answer_is_never_empty_and_a_query_comes_from_the_response(response, task):
    action = parse(response, task)
    assert action.text == action.text.strip()
    if action.kind == "answer":
        assert action.text
        assert re.search(rf"<ans>\s*{re.escape(action.text)}\s*</ans>", response)
    else:
        assert all(word in response for word in action.text.split())


@given(responses)
def test_last_action_span_is_the_last_whole_tag_or_everything(response):
    start, stop = last_action_span(response)
    found = re.fullmatch(r"(?s)<(ans|keywords|subquestion)>.*?</\1>", response[start:stop])
    assert found or (start, stop) == (0, len(response))
    assert last_action_span(response[stop:]) == (0, len(response) - stop)


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        ("<ans>Paris</ans> No: <ans>Paris</ans>.", (21, 37)),
        ("Paris <keywords>Paris</keywords>", (6, 32)),
        ("<keywords>a</keywords><ans></ans>", (22, 33)),
        ("no tag", (0, 6)),
        ("", (0, 0)),
    ],
)
def test_last_action_span_counts_characters(response, kept):
    assert last_action_span(response) == kept


@pytest.mark.parametrize("task", ["qa", "choice"])
def test_a_stop_string_ends_a_response_that_has_an_action(task):
    for stop in STOP_STRINGS[task]:
        tag = stop.strip("</>")
        assert parse(f"<{tag}>x{stop}", task).text == "x"


def test_sub_questions_may_come_in_numbers_so_they_stop_nothing():
    assert STOP_STRINGS == {"qa": ("</ans>", "</keywords>"), "choice": ("</ans>",)}
