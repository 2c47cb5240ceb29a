"""Worked examples turn with the question: which head a log has read, and what that means for its blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.model.context import Context
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.policy import Policy, get_policy
from lagkit.types import Question
from tests.helpers.lms import open_store, qa, short_prompt, tiny_lm, trace_of
from tests.helpers.stores import same

ROME, USER = "Rome. <ans>Rome</ans>", [{"role": "user", "content": "USER"}]
EXAMPLES = Prompt.load("qa_examples")


def of_rotation(first: int) -> Question:
    """A question before which the worked tasks begin with this one."""
    return next(q for i in range(99) if EXAMPLES.for_question((q := qa(f"Who is {i}?")).id).first == first)


@pytest.mark.parametrize("name", ["kv_last_round_prefix", "kv/last_round/kept/prefix"])
def test_a_log_behind_the_head_has_read_the_examples_in_the_order_of_the_question_that_uses_it(tmp_path, name):
    """One log, read and injected at its own place: the logits of the same words read in one go."""
    lm, log = tiny_lm(), trace_of("Rome. <ans>Rome</ans>", question="Which town?", id="q2")
    with open_store(tmp_path, lm, log) as store:
        kv = KVContextBuilder(lm, EXAMPLES, get_policy(name), store)
        for first in (0, 3):
            question = of_rotation(first)
            context = kv.context(question, "USER", [log.id])
            head = lm.tokenize(split_chat(lm, EXAMPLES.for_question(question.id).head(), USER)[0])
            whole = Context((*head, *lm.tokenize(ROME), *context.ids))
            torch.testing.assert_close(lm.logits(context), lm.logits(whole)[-len(context.ids) :], rtol=0, atol=1e-3)
        assert len(store.block_keys(log.id)) == 2
        assert set(store.block_keys(log.id)) < set(kv.encoder.keyed(get_policy(name)))
        assert len(kv.encoder.keyed(get_policy(name))) == 5


def test_what_reads_no_head_or_that_of_its_own_question_has_one_block(tmp_path):
    lm = tiny_lm()
    encoder = Encoder(lm, EXAMPLES)
    for name in ("kv_last_round", "kv/last_round/responses/front/bos", "kv/last_round/conversation/front"):
        assert len(encoder.keyed(get_policy(name))) == 1
    policy = get_policy("kv/last_round/conversation/prefix")
    log = replace(trace_of("Rome. <ans>Rome</ans>", question="Which town?"), question_id=of_rotation(3).id)
    one, other = (Encoder(lm, EXAMPLES.rotations[first]).encode(log, policy) for first in (1, 3))
    assert same(one, other)
    assert not torch.equal(one.keys, encoder.encode(replace(log, question_id=of_rotation(0).id), policy).keys)


def test_a_conversation_has_the_words_that_opened_a_turn_and_keeps_none_of_them():
    log = trace_of("Sea: <ans>Black Sea</ans>")
    log = replace(log, rounds=tuple(replace(r, opening="Re: Where? ") for r in log.rounds))
    reading = Encoder(tiny_lm(), short_prompt()).read(log, Policy("kv", encode="conversation"))
    assert reading.text.endswith("<|assistant|>\nRe: Where? Sea: <ans>Black Sea</ans>")
    kept = [reading.context.ids[slot - reading.context.injected] for slot in reading.kept]
    assert tiny_lm().tokenizer.decode(kept).strip() == "Sea: <ans>Black Sea</ans>"
