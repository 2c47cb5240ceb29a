"""What fails in the agent's loop, a question alone or a batch, and what that leaves of the others."""

from __future__ import annotations

import gc
import weakref

import pytest

from lagkit.agent.loop import Agent
from lagkit.logs.store import LogStore
from lagkit.model.block_cache import BlockCache
from lagkit.model.lm import LM
from lagkit.policy import POLICIES, Policy
from lagkit.types import Question
from lagkit.util.errors import ConfigError, EmptyStore
from tests.agent.test_loop import CHOICE, EMBEDDER, IDS, RIVER, SEA, TOWN, agent, by_question, prefilled, turn
from tests.agent.test_loop import LOGS as LOGS  # of the store
from tests.helpers.lms import new_lm, open_store, qa, short_prompt
from tests.helpers.stores import file_of


def test_a_prompt_that_is_too_long_fails_alone(lm):
    long = qa("Which" + " word" * 2000)
    lm.play({q.text: [" <ans>x</ans>"] for q in (RIVER, long, SEA)})
    traces = by_question(agent(lm).run([RIVER, long, SEA]))
    failed = traces.pop(long.id)
    assert (failed.answer, failed.rounds) == (None, ())
    head, tail = (
        len(lm.tokenize(text)) for text in ("<s><|system|>\nBe brief.</s>\n", prefilled(turn(long, 0, 1), long))
    )
    said = f"{head} injected + {tail} prompt + 8 new tokens are {head + tail + 8}, and tiny-llama holds 4096: "
    assert failed.error.startswith(f"ContextTooLong: question {long.id!r}: {said}")
    assert {t.answer for t in traces.values()} == {"x"}


def test_a_batch_that_fails_is_tried_one_by_one(lm):
    script = {q.text: [" <ans>x</ans>"] for q in (RIVER, SEA)}
    lm.play({**script, TOWN.text: [" <keywords>river</keywords>", RuntimeError("out of memory")]})
    traces = by_question(agent(lm).run([RIVER, TOWN, SEA]))
    assert traces[TOWN.id].error == "RuntimeError: question 'Which town?': out of memory"
    assert (traces[TOWN.id].answer, len(traces[TOWN.id].rounds)) == (None, 1)
    assert [traces[q.id].answer for q in (RIVER, SEA)] == ["x", "x"]
    lm.play({**script, TOWN.text: [RuntimeError("out of memory")]})
    traces = by_question(agent(lm).run([RIVER, TOWN, SEA]))
    assert lm.batches == [3, 1, 1, 1]
    assert [bool(traces[q.id].error) for q in (RIVER, TOWN, SEA)] == [False, True, False]


def test_the_kv_of_a_batch_that_failed_is_freed_before_the_next_one(monkeypatch):
    caches, alive = [], []

    def fail(self, contexts, cache, *rest):
        alive.append(sum(ref() is not None for ref in caches))
        caches.append(weakref.ref(cache))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LM, "_decode", fail)
    gc.disable()  # it counts objects, and not their bytes
    try:
        traces = by_question(agent(new_lm(LM)).run([RIVER, TOWN, SEA]))
    finally:
        gc.enable()
    assert all(trace.error for trace in traces.values())
    assert alive == [0, 0, 0, 0]


def test_a_bug_is_no_failed_question(lm):
    lm.play({RIVER.text: [ZeroDivisionError("bug")]})
    with pytest.raises(ZeroDivisionError, match="bug"):
        list(agent(lm).run([RIVER]))


def test_a_damaged_block_fails_the_questions_that_find_it(lm, store):
    far = qa("w5 w4 w3")
    lm.play({RIVER.text: [" <ans>x</ans>"], far.text: [" <ans>y</ans>"]})
    asking = agent(lm, policy=Policy("kv"), store=store, logs=1)
    list(asking.run([RIVER, far]))
    path = file_of(store, IDS[0], "responses.last_round.bare")
    store.close()
    path.write_bytes(b"")
    lm.block_cache = BlockCache()  # what is in memory is not read again
    lm.play({RIVER.text: [" <ans>x</ans>"], far.text: [" <ans>y</ans>"]})
    with LogStore.open(store.path) as reader:
        traces = by_question(agent(lm, policy=Policy("kv"), store=reader, logs=1).run([RIVER, far]))
    assert traces[RIVER.id].error.startswith(f"DamagedBlock: question 'Which river?': The KV block {path} is damaged")
    assert (traces[far.id].answer, traces[far.id].error) == ("y", None)


def test_a_query_that_cannot_be_searched_fails_alone(lm, store, monkeypatch):
    """An embedder of the user's may give no direction to a text."""
    theirs = EMBEDDER.queries
    monkeypatch.setattr(EMBEDDER, "queries", lambda texts: theirs(texts) * [[text != "?!"] for text in texts])
    lm.play({CHOICE.text: ["?!", "never asked"], "Which river is right?": ["a", "(B) <ans>(B)</ans>"]})
    other = Question("c2", "Which river is right?", ("B",), "choice", ("one", "two"))
    traces = by_question(agent(lm, "choice", policy=Policy("kv"), store=store).run([CHOICE, other]))
    assert traces["c1"].error.startswith("StoreError: question 'c1': A query has length 0.0000 instead of 1: ")
    assert (len(traces["c1"].rounds), traces["c1"].answer) == (1, None)
    assert (traces["c2"].answer, traces["c2"].error) == ("(B)", None)


def test_a_query_without_words_finds_something_with_logs_as_without(lm, store):
    """Variants are compared on the same questions, so none may fail by what it asks for alone."""
    for policy, logs in ((None, None), (Policy("kv"), store)):
        lm.play({RIVER.text: ["<keywords>?!</keywords>", "<ans>x</ans>"]})
        [trace] = agent(lm, policy=policy, store=logs).run([RIVER])
        assert (trace.answer, trace.error, trace.rounds[1].query) == ("x", None, "?!")


def test_an_agent_needs_what_its_policy_reads(lm, tmp_path):
    with pytest.raises(ConfigError, match="Question answering searches passages: give the agent a PassageIndex"):
        Agent(lm, prompt=short_prompt(), embedder=EMBEDDER)
    with pytest.raises(ConfigError, match=r"Policy kv/last_round/kept/front reuses logs: give the agent a LogStore"):
        agent(lm, policy=POLICIES["kv_block"])
    with (
        open_store(tmp_path / "empty", lm) as empty,
        pytest.raises(EmptyStore, match="empty is empty: build logs before"),
    ):
        agent(lm, policy=POLICIES["kv_block"], store=empty)
