"""Whatever an endpoint sends back: text, or a sentence; and a journal, a table and a report that can be read."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lagkit.model.api.reply import Malformed, Reply
from lagkit.policy import POLICIES
from lagkit.runs.answers import result_row
from lagkit.runs.journal import Journal
from lagkit.types import Round, Trace, Usage
from lagkit.util.errors import DataError, LagkitError, ReasoningTooLong, RequestRefused
from tests.helpers.endpoints import KEY, Played, playing, said
from tests.helpers.endpoints import Reply as Sent
from tests.helpers.lms import ScriptedLM, new_lm, open_store, qa, trace_of
from tests.model.api.test_agent import RIVER, agent, api_run
from tests.model.api.test_api import CHAT, STOP, ask, failing

THOUGHT = "Maybe <ans>Rome</ans>, as in <ans>(A)</ans>. "


def sent(content: Any = "x", finish: str | None = "stop", usage: Any = None, **message: Any) -> Sent:
    """A completion with this message."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return Sent(body={"id": 7, "choices": [choice], "usage": usage})


# Reasoning


@pytest.mark.parametrize(
    "reply",
    [
        sent(f"<think>{THOUGHT}</think>So <ans>Bari</ans> or <ans>Ulm</ans>"),
        sent(f"{THOUGHT}</think>So <ans>Bari</ans> or <ans>Ulm</ans>"),
        sent("So <ans>Bari</ans> or <ans>Ulm</ans>", reasoning_content=THOUGHT),
        sent("So <ans>Bari</ans>", reasoning=THOUGHT, reasoning_details=[{"type": "x", "text": THOUGHT}]),
        sent(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
                {"type": "text", "text": "<ans>Bari</ans>"},
            ]
        ),
        sent([{"type": "reasoning", "text": THOUGHT}, {"type": "output_text", "text": "<ans>Ba"}, "ri</ans>"]),
    ],
)
def test_reasoning_is_no_action_however_it_is_sent(reply):
    with playing([reply]) as played:
        [trace] = agent(played.model(), max_rounds=1).run([RIVER])
    assert (trace.answer, trace.error) == ("Bari", None)
    assert trace.rounds[0].response.endswith("<ans>Bari</ans>")
    # An endpoint would look for stop strings in the reasoning, too.
    assert "stop" not in played.asked[0]


@pytest.mark.parametrize(
    "reply",
    [
        sent(None, "length", {"prompt_tokens": 5, "completion_tokens": 64}),
        sent(None, "length", reasoning_content=THOUGHT),
        sent("", "length"),
        sent(" \n", "length"),
        sent([{"type": "thinking", "thinking": THOUGHT}], "length"),
        sent(f"<think>{THOUGHT}", "length"),
    ],
)
def test_a_budget_that_went_into_reasoning_is_an_error_of_the_question_and_no_abstention(reply):
    with playing([reply]) as played:
        [trace] = agent(played.model(), max_rounds=2, max_new_tokens=64).run([RIVER])
    assert trace.error.startswith("ReasoningTooLong: question 'Which river?': ")
    assert trace.error.endswith("raise max_new_tokens.")
    assert "64 new tokens" in trace.error
    row = result_row(RIVER, trace)
    assert (row["failed"], row["abstained"], trace.answer) == (True, False, None)
    assert len(played.asked) == 1


def test_what_is_spent_on_reasoning_is_counted():
    with playing([sent(None, "length", {"prompt_tokens": 5, "completion_tokens": 64})]) as played:
        model = played.model()
        [answer] = model.generate([CHAT], 64, stop=STOP)
    assert isinstance(answer, ReasoningTooLong)
    assert model.spent == Usage(5, 0, 64)


# Forms of content


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (sent([{"type": "text", "text": "a "}, {"type": "text", "text": "<ans>b</ans>"}]), "a <ans>b</ans>"),
        (sent(["a", {"text": "b"}]), "ab"),
        (sent([]), ""),
        (sent(None), ""),
        (sent([{"type": "text", "text": None}]), ""),
        (sent("x", None), "x"),
        (sent("x", "some_new_reason"), "x"),
        (sent("x", tool_calls=[{"id": 1}], refusal=""), "x"),
        (sent("a\ud800b \U0001f642"), "a?b \U0001f642"),
        (
            Sent(
                body='{"choices": [{"message": {"content": "naïve"}, "logprobs": [NaN, 1e999]}], "id": null}'.encode()
            ),
            "naïve",
        ),
    ],
)
def test_text_is_read_in_all_its_forms(reply, text):
    with playing([reply]) as played:
        assert ask(played).text == text
    assert len(played.asked) == 1


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (sent(None, refusal="I can't\nhelp"), "URL refuses to answer (I can't help): leave the question out."),
        (
            sent(None, "tool_calls", tool_calls=[{}]),
            "URL calls a tool, though it was offered none, and says nothing: leave",
        ),
        (
            sent(None, function_call={"name": "f"}),
            "URL calls a tool, though it was offered none, and says nothing: leave",
        ),
        (
            sent([{"type": "image_url", "image_url": {}}, {"type": "audio"}]),
            "URL answers with 'audio', 'image_url' instead",
        ),
        (sent("half", "content_filter"), "URL withholds an answer for its content: leave the question out."),
        (sent(None, refusal=f"Not with {KEY}"), "URL refuses to answer (Not with [secret]): leave the question out."),
    ],
)
def test_what_is_no_text_is_told_in_a_sentence_and_fails_alone(reply, sentence):
    with playing([reply]) as played:
        answer = ask(played)
    assert isinstance(answer, RequestRefused)
    assert str(answer).replace(played.url, "URL").startswith(sentence)
    assert len(played.asked) == 1


@pytest.mark.parametrize(
    "usage",
    [
        None, {}, [], "many", 7,
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": 12, "completion_tokens": None},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 10**30, "completion_tokens": 5},
        {"prompt_tokens": 1.5, "completion_tokens": 5},
        {"prompt_tokens": float("nan"), "completion_tokens": 5},
    ],
)  # fmt: skip
def test_a_usage_that_cannot_be_counted_is_none_and_is_told_once(usage, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    with playing([sent("<ans>x</ans>", usage=usage)]) as played:
        model = played.model()
        [first], [second] = model.generate([CHAT], 8), model.generate([CHAT], 8)
    assert (first.text, first.usage.prefilled, second.usage.generated) == ("<ans>x</ans>", 0, 0)
    assert capsys.readouterr().err.count("does not tell how many tokens it used: they are counted as none") == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "Expecting value"),
        (b"<html><h1>502 Bad Gateway</h1></html>", "in '<html><h1>502 Bad"),
        (b'{"choices": [{"message": {"content": "\xff"}}]}', "can't decode byte 0xff"),
        (b"[" * 100_000, "in '[[[["),
        (b'{"choices": [{"message": {"content": 5}}]}', "choices.0.message.content"),
        (b'{"choices": [null]}', "choices.0: Input should be"),
        (b'{"choices": [{"message": null}]}', "choices.0.message: "),
        (b'{"choices": []}', "choices: List should have at least 1 item"),
        (b'{"error": {"message": "overloaded"}}', "choices: Field required"),
        (b"null", "body: Input should be"),
    ],
)  # fmt: skip
def test_what_is_no_completion_says_where_it_is_wrong(body, told):
    with pytest.raises(Malformed, match=re.escape(told)):
        Reply.read(body)
    with playing([Sent(body=body)]) as played:
        assert failing(played, retries=0).startswith("URL does not answer in the form of OpenAI's API: ")


# Any reply


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=["L", "Cs", "Cc", "P"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
texts = st.lists(
    st.sampled_from(["<ans>", "</ans>", "<think>", "</think>", "a", "|", "\n", "\ud800", "\0", "`", "<keywords>", "🙂"])
).map("".join)
contents = (
    texts | st.lists(texts | st.fixed_dictionaries({"type": st.sampled_from(["text", "x"]), "text": texts})) | anything
)
messages = st.fixed_dictionaries(
    {"content": contents}, optional={"refusal": anything, "tool_calls": anything, "reasoning": anything}
)
reasons = st.sampled_from(["stop", "length", "tool_calls", "content_filter", None]) | anything
choices = st.fixed_dictionaries(
    {"message": messages | anything, "finish_reason": reasons}, optional={"logprobs": anything}
)
counts = st.fixed_dictionaries(
    {"prompt_tokens": st.integers() | anything, "completion_tokens": st.integers() | anything}
)
completions = st.fixed_dictionaries({"choices": st.lists(choices, max_size=2)}, optional={"usage": counts | anything})
bodies = (completions | anything).map(lambda body: json.dumps(body).encode()) | st.binary()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[Played, list[bytes]]]:
    body = [b""]
    with playing(lambda asked: Sent(body=body[0])) as played:
        yield played, body


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies)
def test_any_reply_gives_a_sentence_or_a_trace_that_the_journal_gives_back(endpoint, body):
    played, place = endpoint
    place[0] = body
    try:
        [trace] = agent(played.model(retries=0), max_rounds=2).run([RIVER])
    except LagkitError:
        return
    with tempfile.TemporaryDirectory() as folder:
        book = Journal(Path(folder) / "a.jsonl")
        book.append(trace)
        assert book.traces() == [trace]
        row = pd.DataFrame([result_row(RIVER, trace)])
        row.to_parquet(Path(folder) / "a.parquet")
        assert pd.read_parquet(Path(folder) / "a.parquet")["answer"][0] == trace.answer


# What comes of it


ODD = ["|", "a\n\nb", "\udfff\ud800!", "7", "<b>x</b>", "\0", "`", "=1+1", "\x1b[31mred", "NaN", "🙂" * 300]


def test_a_report_of_odd_answers_is_written_and_read(tmp_path):
    turn = iter(range(10**6))

    def odd(asked: dict[str, Any]) -> Sent:
        number = next(turn) % (len(ODD) + 3)
        if number < len(ODD):
            return sent(f"It is <ans>{ODD[number]}</ans>")
        return [sent(None, "length"), sent(None, refusal="\ud800 no | never\n"), sent("")][number - len(ODD)]

    settings = {"log_questions": 21, "seen_questions": 21, "unseen_questions": 9, "batch_size": 1, "max_rounds": 1}
    with playing(odd) as played:
        results = api_run(tmp_path, played.model(), policies=("no_logs", "copy_nearest"), **settings).run()
    told = results[results["policy"] == "no_logs"]
    given = set(told["answer"].dropna())
    assert {"|", "a\n\nb", "\0", "??!", "7", "<b>x</b>", "`", "\x1b[31mred", "🙂" * 300} <= given
    assert told["failed"].sum() >= 2
    assert pd.read_parquet(tmp_path / "results.parquet").equals(results)
    assert "## Unseen questions (n = 9)" in (tmp_path / "report.md").read_text(encoding="utf-8")
    for book in (tmp_path / "traces").glob("*.jsonl"):
        assert len(Journal(book).traces()) > 0


def test_an_answer_that_is_copied_from_a_log_with_lone_surrogates_can_be_written(tmp_path):
    lm = new_lm(ScriptedLM).play({})
    with open_store(
        tmp_path / "store", lm, trace_of("Sea \ud800. <ans>b\udfff</ans>", question="Which river?")
    ) as store:
        [trace] = agent(lm, POLICIES["copy_nearest"], store).run([RIVER])
    assert trace.answer == "b?"
    pd.DataFrame([result_row(RIVER, trace)]).to_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "wrong",
    [
        Trace("q", "Who?", "s", (Round("p", "r", usage=Usage(None, 0, None)),)),
        Trace("q", "Who?", "s", (Round("p", ["r"]),)),
        Trace("q", "Who?", "s", (), answer=5),
        Trace("q", "Who?", "s", (), answer=b"x"),
    ],
)
def test_a_journal_writes_nothing_that_it_could_not_read(tmp_path, wrong):
    book = Journal(tmp_path / "a.jsonl")
    whole = Trace("q", "Who?", "s", (Round("p", "r"),), answer="x")
    book.append(whole)
    with pytest.raises(DataError, match="The trace of question 'q' cannot be written"):
        book.append(wrong)
    assert book.traces() == [whole]


def test_replies_that_hold_no_text_leave_the_others(tmp_path):
    def by_question(asked: dict[str, Any]) -> Sent:
        return sent(None, refusal="no") if "sea?" in str(asked) else said("<ans>x</ans>")

    with playing(by_question) as played:
        traces = {t.question_id: t for t in agent(played.model()).run([qa("Which sea?"), RIVER])}
    assert traces[RIVER.id].answer == "x"
    assert traces["Which sea?"].error.startswith("RequestRefused: question 'Which sea?': http")
