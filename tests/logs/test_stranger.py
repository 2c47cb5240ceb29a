"""The controls `encode=stranger` and `encode=filler` against dense passes put together by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

import lagkit as lag
from lagkit.logs import stranger
from lagkit.logs.encode import Encoder, context_length, logs_to_encode
from lagkit.logs.store import Store
from lagkit.model.context import Context
from lagkit.policy import KEEPS, Policy, get_policy
from lagkit.types import Hit, Trace
from lagkit.util.errors import ConfigError, NoStranger
from tests.helpers.blocks import close, plain_kv, same
from tests.helpers.lms import ActingLM, new_lm, open_store, short_prompt, small_run, tiny_lm, trace_of

PROMPT = short_prompt()
OWN = trace_of("First the Danube. <keywords>Danube</keywords>", "It ends in the <ans>Black Sea</ans>", id="own")
LONG = "A painter of the north who never saw the sea, or so it is told there. <keywords>painter</keywords>"
OTHER = trace_of(LONG, "He died in <ans>Rome</ans>", question="Where did he die?", id="other")
SHORT = trace_of("Hm.", "It is <ans>ice</ans>", question="What is cold?", id="short")
ONE_ROUND = trace_of("It is <ans>Oslo</ans>", question="Which town?", id="one")
STRANGER, BLOCK = Policy("kv", encode="stranger"), Policy("kv", encode="kept")
PLACES = {"front": "", "prefix": "<s><|system|>\nBe brief.</s>\n"}


def encoder(*others: Trace) -> Encoder:
    return Encoder(tiny_lm(), PROMPT, {log.id: log for log in (OWN, *others)})


def by_hand(policy: Policy, context: list[int], head: str) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Ids, keys before RoPE and values of the log's last response behind the head and a context."""
    lm = tiny_lm()
    read = lm.tokenize("\n\n".join(r.response for r in OWN.rounds))
    own = Encoder(lm, PROMPT).read(OWN, replace(policy, encode="responses"))
    kept = [read[slot - own.context.injected] for slot in own.kept]
    before = [*lm.tokenize(head), *context[-(len(read) - len(kept)) :]]
    keys, values = plain_kv(lm, [*before, *kept])
    return kept, keys[:, :, len(before) :], values[:, :, len(before) :]


@pytest.mark.parametrize("place", PLACES)
def test_kept_tokens_have_read_the_end_of_another_logs_context(place):
    policy = replace(STRANGER, place=place)
    block = encoder(OTHER).encode(OWN, policy)
    ids, keys, values = by_hand(policy, tiny_lm().tokenize(LONG + "\n\n"), PLACES[place])
    assert block.ids.tolist() == ids
    assert close(block.keys, keys)
    assert close(block.values, values)


def test_a_short_context_is_repeated_and_so_is_filler():
    lm = tiny_lm()
    for policy, words in ((STRANGER, "Hm.\n\n"), (Policy("kv", encode="filler"), stranger.FILLER)):
        block = encoder(SHORT).encode(OWN, policy)
        _, keys, values = by_hand(policy, lm.tokenize(words) * 20, "")
        assert close(block.keys, keys)
        assert close(block.values, values)


def test_injected_it_is_a_dense_pass_with_the_context_dropped_and_positions_moved_up():
    lm, block = tiny_lm(), encoder(OTHER).encode(OWN, STRANGER)
    asked = lm.tokenize("Where does it end?")
    _, keys, values = by_hand(STRANGER, lm.tokenize(LONG + "\n\n"), "")
    cache, positions = DynamicCache(config=lm.model.config), torch.arange(len(block))[None]
    cos, sin = lm.model.model.rotary_emb(keys, positions)
    first, second = keys.chunk(2, dim=-1)
    turned = keys * cos + torch.cat([-second, first], dim=-1) * sin
    for layer in range(len(keys)):
        cache.update(turned[None, layer], values[None, layer], layer)
    with torch.no_grad():
        places = torch.arange(len(block), len(block) + len(asked))[None]
        expected = lm.model(torch.tensor([asked]), past_key_values=cache, position_ids=places).logits[0]
    assert close(lm.logits(Context(tuple(asked), (block,))), expected)


def test_what_is_shown_of_a_reading_is_what_is_read():
    for policy in (STRANGER, Policy("kv", encode="filler"), Policy("kv", "last_action", "stranger")):
        reading = encoder(OTHER).read(OWN, policy)
        first = reading.kept[0]
        kept = "<ans>Black Sea</ans>" if policy.keep == "last_action" else OWN.rounds[-1].response
        assert reading.text[reading.spans[first][0] :].lstrip() == kept
        assert "Danube" not in reading.text
        assert [slot for own in reading.rounds for slot in own] == list(reading.kept)
        assert tiny_lm().tokenize(reading.text[reading.spans[first][0] :]) == list(reading.context.ids[first:])
        own = Encoder(tiny_lm(), PROMPT).read(OWN, replace(policy, encode="responses"))
        assert (len(reading.context.ids), reading.kept) == (len(own.context.ids), own.kept)


@pytest.mark.parametrize("encode", ["stranger", "filler"])
def test_a_log_of_one_round_has_no_context_and_equals_its_block(encode):
    alone = Encoder(tiny_lm(), PROMPT)  # no other logs are needed
    assert same(alone.encode(ONE_ROUND, Policy("kv", encode=encode)), alone.encode(ONE_ROUND, BLOCK))
    everything = Policy("kv", "all_rounds", encode)
    assert same(alone.encode(OWN, everything), alone.encode(OWN, replace(everything, encode="kept")))
    assert len(alone.encode(trace_of(""), Policy("kv", encode=encode))) == 0


def alike(how: str) -> Trace:
    """A long log that has one thing in common with `OWN`, as `related` has it."""
    first, last = OTHER.rounds
    changed = {
        "question": {"question_id": OWN.question_id},
        "words": {"question": OWN.question.upper()},
        "search": {"rounds": (first, replace(last, query="the  Danube"))},
        "passage": {"rounds": (replace(first, passages=(Hit("p7", 0.1),)), last)},
        "log": {"rounds": (replace(first, logs=(Hit("l7", 0.1),)), last)},
        "answer": {"answer": "black sea"},
    }
    return replace(OTHER, **changed[how])


def related() -> Trace:
    first, last = OWN.rounds
    found = replace(first, passages=(Hit("p7", 0.9),), logs=(Hit("l7", 0.9),))
    return replace(OWN, rounds=(found, replace(last, query="The Danube")), answer="Black Sea")


@pytest.mark.parametrize("how", ["question", "words", "search", "passage", "log", "answer"])
def test_a_log_that_shares_a_step_never_lends_its_context(how):
    own, length = related(), lambda log: context_length(log, STRANGER)
    for log in (alike(how), ONE_ROUND, own):
        with pytest.raises(NoStranger, match=rf"No other log can lend its context to log {own.id}: .* encode=filler"):
            stranger.find(own, {log.id: log}, length)
    logs = {log.id: log for log in (alike(how), ONE_ROUND, SHORT, own)}
    assert stranger.find(own, logs, length) == SHORT


def test_the_draw_depends_on_the_log_alone_and_not_on_the_order_of_others():
    many = [trace_of(f"{LONG} {i}", f"<ans>{i}</ans>", question=f"What is {i}?", id=f"q{i}") for i in range(40)]
    logs = {log.id: log for log in many}
    drawn = {log.id: [*logs_to_encode(log.id, logs, STRANGER)][1] for log in many}
    turned = dict(reversed(logs.items()))
    assert {log: [*logs_to_encode(log, turned, STRANGER)][1] for log in logs} == drawn
    assert len({*drawn.values()}) > 15
    taken = drawn[many[0].id]
    fewer = {id: log for id, log in logs.items() if id in (many[0].id, taken, many[1].id, many[2].id)}
    assert [*logs_to_encode(many[0].id, fewer, STRANGER)] == [many[0].id, taken]


def test_a_context_that_is_long_enough_is_preferred():
    logs = [trace_of("Hm.", f"<ans>{i}</ans>", question=f"What is {i}?", id=f"q{i}") for i in range(20)]
    for others, found in (((*logs, OTHER), OTHER), ((*logs, replace(SHORT, rounds=SHORT.rounds[:1])), None)):
        [_, other] = logs_to_encode(OWN.id, {log.id: log for log in (OWN, *others)}, STRANGER).values()
        assert other == found or (found is None and other in logs)


def test_without_other_logs_it_is_refused():
    with pytest.raises(ConfigError, match="encode=stranger reads another log's context: give the other logs"):
        lag.encode(tiny_lm(), OWN, "kv_stranger")
    with pytest.raises(NoStranger):
        lag.encode(tiny_lm(), OWN, "kv_stranger", logs={OWN.id: OWN})
    block = lag.encode(tiny_lm(), OWN, "kv_stranger", logs={OTHER.id: OTHER}, prompt=PROMPT)
    assert same(block, encoder(OTHER).encode(OWN, STRANGER))


def test_gaps_in_what_is_kept_are_refused(monkeypatch):
    monkeypatch.setitem(KEEPS, "ends", lambda trace: [[] for _ in trace.rounds[1:]] + [[(0, 2), (9, 20)]])
    with pytest.raises(ConfigError, match="asks for a keep without gaps, which 'ends' is not"):
        encoder(OTHER).read(OWN, get_policy("kv/ends/stranger/front"))


def test_blocks_are_stored_beside_the_others_and_outlast_the_store(tmp_path):
    lm, policies = tiny_lm(), [get_policy(name) for name in ("kv_last_round", "kv_stranger", "kv_filler", "kv_block")]
    with open_store(tmp_path / "s", lm, OWN, OTHER) as store:
        made = Encoder(lm, PROMPT, store)
        blocks = {made.key(policy): made.encode(OWN, policy) for policy in policies}
        assert [*blocks] == [f"{e}.last_round.bare" for e in ("responses", "stranger", "filler", "kept")]
        for key, block in blocks.items():
            store.put_block(OWN.id, key, block)
    with Store.open(tmp_path / "s", lm) as store:
        assert store.block_keys(OWN.id) == sorted(blocks)
        assert all(same(store.block(OWN.id, key), block) for key, block in blocks.items())
        assert store.verify().empty
    assert len({block.values.sum().item() for block in blocks.values()}) == 4


def test_a_run_answers_behind_the_contexts_of_strangers(tmp_path):
    policies = ("no_logs", "kv_last_round", "kv_stranger", "kv_filler")
    run = small_run(tmp_path, new_lm(ActingLM), policies=policies, splits=("unseen",), log_questions=8)
    results = run.run()
    assert results.groupby("policy")["injected"].sum()[["kv_stranger", "kv_filler"]].min() > 0
    assert results["error"].isna().all()
    with run.store() as store:
        made = Encoder(run.lm, run.prompt, store)
        for log in store.traces():
            for name in ("kv_stranger", "kv_filler"):
                key = made.key(get_policy(name))
                assert same(store.block(log.id, key), made.encode(log, get_policy(name)))
