"""Variants beyond a policy: changed limits, forced and copied answers, steps as logs, and how sure an answer is."""

from __future__ import annotations

import math

import pytest
import torch

from lagkit.agent.loop import Agent
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import answer_span, before_action
from lagkit.policy import POLICIES, Variant
from lagkit.types import Limits
from lagkit.util.errors import ConfigError
from tests.agent.test_loop import IDS, LOGS, PASSAGES, RIVER, agent
from tests.helpers.lms import ActingLM, ScriptedLM, new_lm, open_store, qa, short_prompt, small_run, tiny_lm, trace_of

SEARCH = " Unknown. <keywords>river</keywords>"


@pytest.fixture(scope="module")
def lm() -> ScriptedLM:
    return new_lm(ScriptedLM)


@pytest.fixture
def store(tmp_path, lm):
    with open_store(tmp_path / "store", lm, *LOGS) as store:
        yield store


# Names


def test_a_variant_is_a_policy_and_what_it_changes_of_the_limits():
    variant = Variant.parse("kv_last_round+min_similarity=0.25+max_rounds=8+force_answer=true+best_log=last")
    assert variant.policy == POLICIES["kv_last_round"]
    expected = Limits(passages=7, min_similarity=0.25, max_rounds=8, force_answer=True, best_log="last")
    assert variant.limits(Limits(passages=7)) == expected
    plain = Variant.parse("no_logs")
    assert (plain.policy, plain.limits(Limits(logs=5))) == (None, Limits(logs=5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kv_lost+logs=2", "Unknown policy 'kv_lost'"),
        ("no_logs+rounds=2", r"changes 'rounds=2': write NAME=VALUE, where NAME is one of batch_size, best_log, "),
        ("no_logs+passages", r"changes 'passages': write NAME=VALUE"),
        ("no_logs+passages=0", r"'no_logs\+passages=0' is wrong: passages: Input should be greater than 0"),
        ("no_logs+min_similarity=2", "min_similarity: Input should be less than or equal to 1"),
        ("no_logs+best_log=middle", "best_log: Input should be 'first' or 'last'"),
    ],
)
def test_what_a_variant_cannot_change_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        Variant.parse(name)


# Forced and copied answers, the order of logs


@pytest.mark.parametrize(
    ("response", "before"),
    [
        ("A. <keywords>b</keywords>", "A. "),
        ("A. <keywords>b</keywords> c <keywords>d", "A. <keywords>b</keywords> c "),
        ("No tag", "No tag"),
        ("A <ans> </ans>", "A "),
    ],
)
def test_an_answer_is_begun_in_place_of_the_last_action(response, before):
    assert before_action(response) == before


def test_a_question_without_answer_has_to_be_answered_in_its_last_round(lm):
    lm.play({RIVER.text: [SEARCH, SEARCH, "Danube</ans>"]})
    [trace] = agent(lm, max_rounds=2, force_answer=True).run([RIVER])
    assert trace.answer == "Danube"
    assert [r.response for r in trace.rounds] == [
        "Unknown. <keywords>river</keywords>",
        "Unknown. <ans>Danube</ans>",
    ]
    (_, second), (_, forced) = lm.seen[RIVER.text][1:]
    assert forced == second + " Unknown. <ans>"
    assert trace.rounds[1].usage.prefilled == len(lm.tokenize(second)) + len(lm.tokenize(forced))


def test_an_answer_that_does_not_end_is_closed(lm):
    lm.play({RIVER.text: [SEARCH, "Danube and"]})
    [trace] = agent(lm, max_rounds=1, force_answer=True).run([RIVER])
    assert trace.answer == "Danube and"


def test_who_answers_in_time_is_not_forced(lm):
    lm.play({RIVER.text: [SEARCH, " <ans>Rhine</ans>"]})
    [trace] = agent(lm, max_rounds=2, force_answer=True).run([RIVER])
    assert (trace.answer, len(lm.seen[RIVER.text])) == ("Rhine", 2)


def test_a_forced_answer_that_fails_fails_alone(lm):
    other = qa("Which town?")
    script = {RIVER.text: [SEARCH, RuntimeError("no memory")], other.text: [" <ans>Ulm</ans>"]}
    traces = {t.question_id: t for t in agent(lm.play(script), max_rounds=1, force_answer=True).run([RIVER, other])}
    assert "no memory" in traces[RIVER.id].error
    assert traces[other.id].answer == "Ulm"


def test_the_answer_of_the_most_similar_log_is_copied_without_the_model(lm, store):
    lm.play({})
    [trace] = agent(lm, policy=POLICIES["copy_nearest"], store=store).run([RIVER])
    assert (trace.answer, trace.usage.generated, lm.batches) == ("Log0", 0, [])
    assert [hit.id for hit in trace.rounds[0].logs] == IDS[:3]


@pytest.mark.parametrize("said", ["<keywords>lost</keywords>", "no tag"])
def test_a_log_without_an_answer_gives_none(tmp_path, lm, said):
    with open_store(tmp_path / "s", lm, trace_of(said, question="river")) as store:
        [trace] = agent(lm, policy=POLICIES["copy_nearest"], store=store).run([RIVER])
    assert (trace.answer, trace.error) == (None, None)


def test_no_log_that_is_similar_enough_gives_no_answer(lm, store):
    [trace] = agent(lm, policy=POLICIES["copy_nearest"], store=store, min_similarity=1).run([RIVER])
    assert trace.answer is None


def test_the_best_log_may_stand_last(lm, store):
    for best, order in (("first", "012"), ("last", "210")):
        lm.play({RIVER.text: [" <ans>x</ans>"]})
        list(agent(lm, policy=POLICIES["kv_last_round"], store=store, best_log=best).run([RIVER]))
        assert lm.seen[RIVER.text][0][0] == "".join(f"<ans>Log{i}</ans>" for i in order)


# How sure


def test_log_probabilities_are_those_of_a_plain_forward_pass():
    lm = tiny_lm()
    contexts = [Context(tuple(lm.tokenize(text))) for text in ("The river", "A town by the sea, and")]
    for context, said in zip(contexts, lm.generate(contexts, 9), strict=True):
        logits = lm.logits(Context((*context.ids, *said.ids)))[len(context.ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(said.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(said.logprobs), expected, rtol=0, atol=1e-4)


def test_confidence_is_the_mean_over_the_tokens_of_the_words_alone():
    lm: LM = tiny_lm()
    [said] = lm.generate([Context(tuple(lm.tokenize("The river")))], 12)
    ends = [len(lm.tokenizer.decode(said.ids[:n])) for n in range(len(said.ids) + 1)]
    start, stop = ends[4], ends[7]
    assert lm.confidence(said, start, stop) == pytest.approx(sum(said.logprobs[4:7]) / 3)
    assert lm.confidence(said, 0, len(said.text)) == pytest.approx(sum(said.logprobs) / len(said.logprobs))
    assert lm.confidence(said, 3, 3) is None


def test_the_span_of_an_answer_is_the_one_that_counts():
    said = "<ans>a</ans> <ans> Black Sea </ans> <ans> </ans>"
    start, stop = answer_span(said)
    assert said[start:stop] == " Black Sea "
    assert answer_span("<keywords>a</keywords>") is None


def test_traces_tell_how_sure_the_model_was_of_an_answer(tmp_path):
    lm = new_lm(ActingLM)
    index = PassageIndex(PASSAGES, HashEmbedder())
    limits = Limits(max_new_tokens=6, max_rounds=1, force_answer=True)
    asked = [qa(f"Which {word}?") for word in ("river", "town", "sea", "hill", "lake", "road")]
    for trace in Agent(lm, prompt=short_prompt(), embedder=HashEmbedder(), passages=index, limits=limits).run(asked):
        assert trace.answer
        assert trace.confidence is None or (math.isfinite(trace.confidence) and trace.confidence < 0)


# Steps


def test_a_step_is_the_last_round_of_a_log_of_its_own():
    log = trace_of("Danube. <keywords>Danube</keywords>", "Sea: <ans>Black Sea</ans>")
    first, second = log.steps
    assert (first.rounds, second.rounds) == (log.rounds[:1], log.rounds)
    assert (first.answer, second.answer) == (None, log.answer)
    assert len({first.id, second.id, log.id}) == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    policies = ("no_logs", "kv_last_round", "kv_step", "text_step", "copy_nearest", "no_logs+max_rounds=1")
    experiment = small_run(tmp_path_factory.mktemp("run"), new_lm(ActingLM), policies=policies, splits=("unseen",))
    return experiment, experiment.run()


def test_a_run_keeps_steps_in_a_store_of_their_own(run):
    experiment, _ = run
    logs = {trace.id: trace for trace in experiment.logs}
    with experiment.store() as store, experiment.store("step") as steps:
        assert set(store.ids) == set(logs)
        assert set(steps.ids) == {step.id for trace in logs.values() for step in trace.steps}
        assert [list(steps.block_keys(step)) for step in steps] == [["responses.step.bare"]] * len(steps)
        longest = max(logs.values(), key=lambda trace: len(trace.rounds))
        assert len(longest.rounds) == 2
        # Of its last step is kept what is kept of its last round.
        kept = store.block(longest.id, "responses.last_round.bare")
        assert torch.equal(steps.block(longest.steps[-1].id, "responses.step.bare").keys, kept.keys)


def test_steps_are_what_questions_find(run):
    experiment, results = run
    with experiment.store("step") as steps:
        for name in ("kv_step", "text_step"):
            traces = experiment.journal(f"{name}.unseen").traces()
            found = {hit.id for trace in traces for r in trace.rounds for hit in r.logs}
            assert found
            assert found <= set(steps.ids)
    assert results.groupby("policy")["injected"].sum()["kv_step"] > 0


def test_changed_limits_hold_for_their_variant_alone(run):
    _, results = run
    rounds = results.groupby("policy")["rounds"].max()
    assert (rounds["no_logs+max_rounds=1"], rounds["no_logs"]) == (1, 2)


def test_nothing_is_read_or_said_where_an_answer_is_copied(run):
    experiment, results = run
    copied = results[results["policy"] == "copy_nearest"]
    assert copied[["prefilled", "injected", "generated"]].to_numpy().sum() == 0
    answers = {trace.answer for trace in experiment.logs}
    assert set(copied["answer"].dropna()) <= answers
