"""The seed experiment on tiny random models: batches against single runs, and failures that are what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.logs.retrieve import HashEmbedder
from lagkit.model.context import Context
from lagkit.model.families import tiny
from lagkit.model.lm import LM
from lagkit.policy import POLICIES, Policy
from lagkit.studies import sanity
from lagkit.studies.sanity import Fact, Measurement
from tests.helpers.lms import tiny_lm, tokenizer

FACTS = [
    Fact("What is the code of the tower?", "Which code opens the tower?", "7264", "1935"),
    Fact("Who keeps the lighthouse?", "Which person keeps the lighthouse?", "Mira Tolland", "Jonas Weir"),
    Fact("On which river is Drosk?", "Drosk is on which river?", "Selva", "Aruna"),
]
ANSWERS = [fact.answer for fact in FACTS]
KV, TEXT = POLICIES["kv_last_round_prefix"], Policy("text", place="prefix")


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny_lm()


@pytest.fixture(scope="module")
def store(lm, tmp_path_factory):
    traces = [fact.trace() for fact in FACTS]
    policies = [KV, POLICIES["kv_last_round"]]
    with sanity.remember(tmp_path_factory.mktemp("logs") / "store", traces, lm, HashEmbedder(), policies) as store:
        yield store


@pytest.fixture(scope="module")
def kv(lm, store):
    return sanity.contexts(lm, FACTS, KV, store, store.ids)


def read(lm, contexts, **settings):
    """A single condition's reading."""
    answers = ANSWERS[: len(contexts)]
    return sanity.read(lm, {"only": contexts}, answers, **settings)["only"]


def one_by_one(lm, contexts):
    """The same as `sanity.read`, by the way that runs take: first logits, scores of the answers, texts."""
    logits, scores = [], []
    for context, answer in zip(contexts, ANSWERS, strict=True):
        gold = lm.tokenize(f" {answer}")
        found = lm.logits(replace(context, ids=(*context.ids, *gold[:-1])))[-len(gold) :]
        logits.append(found[0])
        scores.append(found.log_softmax(-1)[range(len(gold)), gold].mean())
    texts = [g.text.strip().partition("\n")[0] for g in lm.generate(contexts, 5)]
    return torch.stack(logits), torch.stack(scores), texts


def test_a_log_restates_the_earlier_question_and_answers_it():
    trace = FACTS[0].trace()
    assert trace.rounds[0].response == "Question: What is the code of the tower?\nAnswer: 7264."
    assert trace.question == FACTS[0].earlier
    assert FACTS[0].trace(wrong=True).rounds[0].response.endswith("Answer: 1935.")
    assert FACTS[0].question.answers == ("7264",)


def test_stored_logs_are_found_by_meaning_and_hold_a_block_for_each_policy(store):
    hits = store.search(HashEmbedder().queries([fact.asked for fact in FACTS]), 1)
    assert [store.get(found[0].id).question for found in hits] == [fact.earlier for fact in FACTS]
    assert list(store.summary()["logs"]) == [3, 3]
    assert len(store.block_keys(store.ids[0])) == 2


@pytest.mark.parametrize("family", ["llama", "phi", "cohere"])
def test_a_batch_reads_what_single_runs_read(family, tmp_path):
    lm = tiny_lm(family)
    with sanity.remember(tmp_path / "store", [f.trace() for f in FACTS], lm, HashEmbedder(), [KV]) as store:
        contexts = sanity.contexts(lm, FACTS, KV, store, store.ids)
    # Ragged on purpose: other prompts' lengths, and a row without any injected tokens.
    contexts[2] = replace(contexts[2], parts=())
    logits, scores, texts = one_by_one(lm, contexts)
    found = read(lm, contexts, new_tokens=5)
    torch.testing.assert_close(found.first, logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.gold, scores, atol=2e-5, rtol=1e-5)
    assert found.texts == texts


def test_conditions_of_one_batch_are_those_of_single_batches(lm, store, kv):
    conditions = {
        "none": sanity.contexts(lm, FACTS),
        "kv": kv,
        "text": sanity.contexts(lm, FACTS, TEXT, store, store.ids),
    }
    together = sanity.read(lm, conditions, ANSWERS)
    assert list(together) == ["none", "kv", "text"]
    for name, contexts in conditions.items():
        alone = read(lm, contexts)
        assert together[name].texts == alone.texts
        torch.testing.assert_close(together[name].gold, alone.gold, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(together[name].first, alone.first, atol=2e-5, rtol=1e-5)


def test_no_row_needs_an_injected_token(lm, kv):
    bare = [replace(context, parts=()) for context in kv]
    logits, scores, texts = one_by_one(lm, bare)
    found = read(lm, bare, new_tokens=5)
    torch.testing.assert_close(found.first, logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.gold, scores, atol=2e-5, rtol=1e-5)
    assert found.texts == texts


def test_scoring_alone_says_nothing_and_scores_the_same(lm, kv):
    spoken, scored = (read(lm, kv, new_tokens=n) for n in (1, 0))
    assert scored.texts == ["", "", ""]
    assert torch.equal(spoken.gold, scored.gold)
    assert spoken.texts == [lm.tokenizer.decode([int(row.argmax())]).strip() for row in spoken.first]


def test_text_in_front_reads_like_injected_kv(lm, store, kv):
    text = sanity.contexts(lm, FACTS, TEXT, store, store.ids)
    assert [context.injected for context in text] < [context.injected for context in kv]
    as_text, as_kv = (read(lm, contexts, new_tokens=0) for contexts in (text, kv))
    assert (as_text.first - as_kv.first).abs().max() < 1e-5


def test_a_masked_log_is_no_log(lm, kv):
    masked = read(lm, kv, hide_log=True)
    none = read(lm, sanity.contexts(lm, FACTS))
    seen = read(lm, kv)
    assert (masked.first - none.first).abs().max() < 1e-5
    assert masked.texts == none.texts
    assert (seen.first - none.first).abs().max() > 0.01


@settings(max_examples=15, deadline=None)
@given(shift=st.integers(0, 3000), factor=st.integers(0, 3))
def test_displaced_keys_end_where_they_are_sent(shift, factor):
    lm = tiny_lm()
    head, log = (lm.head_block(lm.tokenize(words)) for words in ("Be brief.", "The Danube runs through Vienna."))
    context = Context((1, 2), (head, log))
    moved = sanity.displaced(lm, context, lambda positions: factor * positions + shift)
    right = torch.arange(len(head), len(head) + len(log))
    expected = lm.realigner.rotate(log.keys, factor * right + shift)
    torch.testing.assert_close(lm.realigner.rotate(moved.blocks[1].keys, right), expected, atol=2e-3, rtol=1e-3)
    assert moved.blocks[0] is head
    assert moved.blocks[1].values is log.values
    assert moved.ids == context.ids


def test_a_log_that_stays_where_it_was_reads_the_same_and_another_place_does_not(lm, kv):
    def first(move):
        return read(lm, [sanity.displaced(lm, c, move) for c in kv], new_tokens=0).first

    right = read(lm, kv, new_tokens=0).first
    assert (first(lambda positions: positions) - right).abs().max() < 1e-5
    for wrong in (lambda p: p * 0, lambda p: p * 2, lambda p: p + 500):
        assert (first(wrong) - right).abs().max() > 1e-3


def test_an_answer_ends_at_the_first_special_token(lm, kv):
    long = read(lm, kv[:1], new_tokens=6)
    context = kv[0]
    ids = lm.generate([context], 6)[0].ids
    stops = LM(tiny("llama", vocab_size=600, max_position_embeddings=4096), tokenizer(), "stops")
    stops.tokenizer.add_special_tokens({"additional_special_tokens": [lm.tokenizer.convert_ids_to_tokens(ids[3])]})
    short = read(stops, kv[:1], new_tokens=6)
    assert ids[3] not in ids[:3]
    assert short.texts == [lm.tokenizer.decode(ids[:3]).strip().partition("\n")[0]]
    assert short.texts != long.texts


def test_scores_are_counted_by_hand():
    certain = torch.tensor([[0.5, 0.25, 0.25]]).log()
    other = torch.tensor([[0.25, 0.25, 0.5]]).log()
    readings = {
        "good": Measurement(["7264."], torch.tensor([-0.5]), certain),
        "bad": Measurement(["the 1935"], torch.tensor([-4.0]), other + 3),
        "none": Measurement(["no idea"], torch.tensor([-9.0]), certain),
    }
    table = sanity.score(readings, FACTS[:1], {"kl": "good", "far": "bad"}).set_index("condition")
    assert list(table.index) == ["good", "bad", "none"]
    assert list(table["right"]) == [1.0, 0.0, 0.0]
    assert list(table["misled"]) == [0.0, 1.0, 0.0]
    assert list(table["logprob"]) == [-0.5, -4.0, -9.0]
    # 0.5 ln 2 + 0.25 ln 0.5 = 0.25 ln 2, the same both ways round here.
    assert table["kl"].tolist() == pytest.approx([0.0, 0.173287, 0.0], abs=1e-6)
    assert table["far"].tolist() == pytest.approx([0.173287, 0.0, 0.173287], abs=1e-6)
    assert list(table["asked"]) == [FACTS[0].asked] * 3
