"""What did not change since the last round is not read again, and nothing else comes of that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.agent.loop import Agent
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prefix_cache import PrefixCache, PrefixCaches
from lagkit.policy import POLICIES
from lagkit.types import Limits
from tests.helpers.lms import ActingLM, new_lm, open_store, passages_about, qa, short_prompt, tiny_lm, trace_of

WORDS = st.lists(st.integers(3, 8), min_size=1, max_size=12).map(tuple)


def reads(lm: LM) -> list[int]:
    """How many tokens each forward pass gets, padding included, from now on."""
    counted = []
    lm.model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: counted.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    return counted


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3"])
@pytest.mark.parametrize("injected", [0, 4])
def test_going_on_from_a_seat_is_reading_all_of_it(family, injected):
    lm = tiny_lm(family)
    parts = (lm.encode(Context((7, 8, 9, 10)), 0, injected),) if injected else ()
    prefix_cache = PrefixCache()
    first, longer = (
        Context(ids, parts, prefix_cache) for ids in (tuple(range(3, 20)), (*range(3, 15), *range(30, 50)))
    )
    lm.generate([first], 3)
    resumed = prefix_cache.resume(longer)
    assert resumed.injected == injected + 12
    assert resumed.ids == tuple(range(30, 50))
    expected = lm.logits(replace(longer, prefix_cache=None))[-1]
    assert torch.allclose(lm.logits(resumed)[-1], expected, atol=1e-5)
    assert prefix_cache.nbytes == 0  # given away
    lm.generate([first], 3)
    [said], [alone] = lm.generate([longer], 5), lm.generate([replace(longer, prefix_cache=None)], 5)
    assert said.ids == alone.ids
    assert (said.usage.prefilled, said.usage.reused, alone.usage.reused) == (32, 12, 0)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 1), WORDS), min_size=2, max_size=5))
def test_any_row_of_prompts_gives_what_each_gives_alone(prompts):
    lm = tiny_lm("llama")
    blocks = [(), (lm.encode(Context((7, 8)), 0, 2),)]
    prefix_caches = PrefixCaches()
    for which, ids in prompts:
        context = Context(ids, blocks[which], prefix_caches.of("q"))
        [said], [alone] = lm.generate([context], 3), lm.generate([replace(context, prefix_cache=None)], 3)
        assert said.ids == alone.ids


def test_only_what_is_new_is_computed():
    lm = new_lm(LM)
    counted, prefix_cache = reads(lm), PrefixCache()
    lm.generate([Context(tuple(range(3, 40)), (), prefix_cache)], 1)
    lm.generate([Context((*range(3, 40), 50, 51), (), prefix_cache)], 1)
    assert counted == [37, 2]


def test_other_logs_in_front_leave_nothing_to_go_on_from():
    lm, prefix_cache = tiny_lm(), PrefixCache()
    one, other = (lm.encode(Context(ids), 0, 2) for ids in ((7, 8), (7, 9)))
    for parts in ((), (other,), (one, other), (one,)):
        lm.generate([Context((3, 4, 5, 6), (one,), prefix_cache)], 1)
        changed = Context((3, 4, 5, 6), parts, prefix_cache)
        assert (prefix_cache.resume(changed) is changed) == (parts != (one,))


def test_seats_are_bounded_and_the_oldest_is_cleared_first():
    lm = tiny_lm()
    prefix_caches = PrefixCaches()
    for name in "ab":
        lm.generate([Context(tuple(range(3, 30)), (), prefix_caches.of(name))], 1)
    both = prefix_caches.nbytes
    assert both == 2 * prefix_caches.of("a").nbytes > 0
    prefix_caches.max_bytes = both - 1
    kept = prefix_caches.of("a")
    assert prefix_caches.nbytes == kept.nbytes == both // 2
    assert prefix_caches.of("b").nbytes == 0


@pytest.mark.parametrize("ask", ["run", "follow"])
def test_questions_that_are_given_up_are_forgotten(ask):
    lm, questions = new_lm(ActingLM), [qa(f"Which of {i}?") for i in range(5)]
    index = PassageIndex(passages_about("moon", "tide"), HashEmbedder())
    limits = Limits(max_rounds=4, max_new_tokens=6, batch_size=2)
    agent = Agent(lm, prompt=short_prompt(), embedder=HashEmbedder(), passages=index, limits=limits)
    traces = agent.run(questions) if ask == "run" else agent.follow(questions[0])
    next(traces)
    caches = agent.builder.prefix_caches
    assert caches.nbytes > 0
    traces.close()
    assert caches.nbytes == 0


@pytest.mark.parametrize("name", [None, "text_last_round_user_turn", "kv_last_round", "kv_last_round_prefix"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_traces_do_not_depend_on_it(tmp_path, monkeypatch, name, batch_size):
    lm, embedder, words = new_lm(ActingLM), HashEmbedder(), [f"word{i}" for i in range(7)]
    logs = [trace_of(f"It is {word}. <ans>{word}</ans>", question=f"{word}?", id=word) for word in words]
    index = PassageIndex(passages_about(*words), embedder)
    questions = [qa(f"Which of {word} and {i}?") for i, word in enumerate(words[:5])]
    limits = Limits(max_rounds=4, max_new_tokens=6, batch_size=batch_size, force_answer=True)

    def traces(store):
        agent = Agent(
            lm,
            prompt=short_prompt(),
            embedder=embedder,
            passages=index,
            policy=POLICIES.get(name),
            store=store,
            limits=limits,
        )
        traces = {trace.question_id: trace for trace in agent.run(questions)}
        assert agent.builder.prefix_caches.nbytes == 0  # a question that has ended is forgotten
        return traces

    with open_store(tmp_path / "store", lm, *logs) as store:
        found = traces(store)
        monkeypatch.setattr(PrefixCache, "resume", lambda self, context: context)
        alone = traces(store)
    for id, trace in alone.items():
        assert [r.response for r in found[id].rounds] == [r.response for r in trace.rounds]
        assert [r.usage.prefilled for r in found[id].rounds] == [r.usage.prefilled for r in trace.rounds]
    assert sum(trace.usage.reused for trace in alone.values()) == 0
    if name is None:
        assert sum(trace.usage.reused for trace in found.values()) > 0
