"""What the model reads under each policy: which words are injected, which prefilled, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.logs.store import LogStore
from lagkit.model.block_cache import BlockCache
from lagkit.model.lm import LM
from lagkit.policy import POLICIES, Policy
from lagkit.util.errors import DamagedBlock, StoreError
from tests.helpers.lms import NO_SYSTEM_CHAT, NOTES, ScriptedLM, new_lm, qa, short_prompt, tiny_lm, trace_of
from tests.helpers.stores import file_of, same

LOGS = (
    trace_of("Danube. <keywords>Danube</keywords>", "Sea: <ans>Black Sea</ans>", question="Where does it end?"),
    trace_of("Rome. <ans>Rome</ans>", question="Which town?", id="q2"),
    trace_of("", question="Nothing?", id="q3"),
    trace_of("Cold. <keywords>ice</keywords>", "<ans>Snow</ans>", question="What falls?", id="q4"),
)
IDS = [log.id for log in LOGS[:3]]
QUESTION = qa("Where does the Danube end?")
HEAD, TURN = "<s><|system|>\nBe brief.</s>\n", "<|user|>\nUSER</s>\n<|assistant|>\nRe: Where does the Danube end?"
LAST, ROUNDS = "Sea: <ans>Black Sea</ans>", "Danube. <keywords>Danube</keywords>\n\nSea: <ans>Black Sea</ans>"
ROME = "Rome. <ans>Rome</ans>"


def builder(lm: LM, policy: Policy | None, store: LogStore | None = None) -> KVContextBuilder:
    return KVContextBuilder(lm, short_prompt(), policy, store)


# policy -> what is injected and what is prefilled, with logs 0 and 1
READ = {
    "no_logs": (HEAD, TURN),
    "text_last_round": ("", f"{LAST}\n\n{ROME}{HEAD}{TURN}"),
    "text_all_rounds": ("", f"{ROUNDS}\n\n{ROME}{HEAD}{TURN}"),
    "text_last_round_user_turn": (HEAD, TURN),
    "text_all_rounds_user_turn": (HEAD, TURN),
    "kv_last_action": (" <ans>Black Sea</ans> <ans>Rome</ans>", HEAD + TURN),
    "kv_last_round": (LAST + ROME, HEAD + TURN),
    "kv_last_two_rounds": (ROUNDS + ROME, HEAD + TURN),
    "kv_all_rounds": (ROUNDS + ROME, HEAD + TURN),
    "kv_block": (LAST + ROME, HEAD + TURN),
    "kv_stranger": (LAST + ROME, HEAD + TURN),
    "kv_filler": (LAST + ROME, HEAD + TURN),
    "kv_last_round_prefix": (HEAD + LAST + ROME, TURN),
    "cheatsheet": (HEAD, TURN),
    # The code of the authors: a blank line behind each log.
    "authors_kv_last_round": (f"{LAST}\n\n{ROME}\n\n", HEAD + TURN),
    "authors_kv_last_action": (" <ans>Black Sea</ans>\n\n <ans>Rome</ans>\n\n", HEAD + TURN),
    "authors_text_last_round": ("", f"{LAST}\n\n{ROME}\n\n{HEAD}{TURN}"),
    "authors_text_all_rounds": ("", f"{ROUNDS}\n\n{ROME}\n\n{HEAD}{TURN}"),
    "authors_block": (f"{LAST}\n\n{ROME}\n\n", HEAD + TURN),
    "authors_cheatsheet": (HEAD, TURN),  # notes are given apart: see below
    "text_step": ("", f"{LAST}\n\n{ROME}{HEAD}{TURN}"),
    "kv_step": (LAST + ROME, HEAD + TURN),
    "text/last_round/responses/prefix": (HEAD, f"{LAST}\n\n{ROME}{TURN}"),
}


@pytest.mark.parametrize("name", READ)
def test_words_are_injected_or_prefilled_where_the_policy_says(lm, store, name):
    policy = POLICIES[name] if name in POLICIES else Policy(*name.split("/"))
    assert lm.read(builder(lm, policy, store).context(QUESTION, "USER", IDS[:2])) == READ[name]


def test_every_named_policy_is_read():
    assert set(POLICIES) - {"copy_nearest"} <= set(READ)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("logs", [[], IDS[2:]], ids=["none", "one without a response"])
def test_without_words_of_logs_the_model_reads_what_it_reads_without_logs(lm, store, name, logs):
    policy = POLICIES[name] if name in POLICIES else Policy(*name.split("/"))
    injected, prefilled = lm.read(builder(lm, policy, store).context(QUESTION, "USER", logs))
    assert injected + prefilled == HEAD + TURN


def test_logs_stand_in_the_order_given(lm, store):
    kv = builder(lm, Policy("kv"), store)
    assert lm.read(kv.context(QUESTION, "USER", [IDS[1], IDS[2], IDS[0]]))[0] == ROME + LAST
    assert kv.texts([IDS[1], IDS[2], IDS[0]]) == f"{ROME}\n\n{LAST}"


def test_notes_are_for_text_in_the_user_turn_only(lm, store):
    expected = {"text_last_round_user_turn": f"{LAST}\n\n{ROME}", "text_all_rounds_user_turn": f"{ROUNDS}\n\n{ROME}"}
    for name, policy in POLICIES.items():
        assert builder(lm, policy, store).notes(IDS) == expected.get(name, "")
    actions = builder(lm, Policy("text", "last_action", place="user_turn"), store)
    assert actions.notes(IDS) == "<ans>Black Sea</ans>\n\n<ans>Rome</ans>"


def test_distilling_reads_the_logs_and_the_coming_question(lm, store):
    asked = builder(lm, POLICIES["cheatsheet"], store).distil_context(QUESTION, IDS)
    logs = f"Where does it end?\n{LAST}\n\nWhich town?\n{ROME}"
    words = f"Logs:\n{logs}\n\nQuestion: {QUESTION.text}"
    assert lm.read(asked) == ("", f"<s><|system|>\nDistil.</s>\n<|user|>\n{words}</s>\n<|assistant|>\n")


def test_notes_in_front_stand_there_as_text_and_a_prompt_without_system_message_distils_without_one(lm, store):
    asked = builder(lm, POLICIES["authors_cheatsheet"], store)
    assert lm.read(asked.context(QUESTION, "USER", IDS, "NOTES")) == ("", f"NOTES\n\n{HEAD}{TURN}")
    bare = KVContextBuilder(lm, short_prompt(notes=replace(NOTES, system="")), POLICIES["cheatsheet"], store)
    assert lm.read(bare.distil_context(QUESTION, IDS[:1]))[1].startswith("<s><|user|>\nLogs:\n")


def test_a_block_is_encoded_once_and_kept(lm, store, monkeypatch):
    kv = builder(lm, Policy("kv"), store)
    fresh = kv.block(IDS[0], QUESTION)
    assert same(fresh, Encoder(lm, short_prompt()).encode(LOGS[0], Policy("kv")))
    assert store.block_keys(IDS[0]) == ["responses.last_round.bare"]
    monkeypatch.setattr(Encoder, "encode", pytest.fail)
    assert same(kv.block(IDS[0], QUESTION), fresh)


def test_a_store_open_for_reading_gets_no_block(lm, store):
    store.close()
    with LogStore.open(store.path) as reader:
        assert lm.tokenizer.decode(builder(lm, Policy("kv"), reader).block(IDS[1], QUESTION).ids.tolist()) == ROME
        assert reader.block_keys(IDS[1]) == []


def test_a_damaged_block_is_not_taken_for_another(lm, store):
    kv = builder(lm, Policy("kv"), store)
    assert len(kv.context(QUESTION, "USER", IDS).blocks) == 3
    store.close()
    lm.block_cache = BlockCache()  # what is in memory is not read again
    path = file_of(LogStore.open(store.path), IDS[0], "responses.last_round.bare")
    path.write_bytes(path.read_bytes()[:-1])
    with LogStore.open(store.path) as reader:
        again = builder(lm, Policy("kv"), reader)
        with pytest.raises(DamagedBlock, match=path.name):
            lm.read(again.context(QUESTION, "USER", IDS))
        assert lm.read(again.context(QUESTION, "USER", IDS[1:]))[0] == ROME


def test_an_unknown_log_is_named(lm, store):
    for policy in (Policy("kv"), Policy("text")):
        with pytest.raises(StoreError, match="There is no log 'log1-x' in the store"):
            builder(lm, policy, store).context(QUESTION, "USER", ["log1-x"])


def test_the_head_s_kv_is_made_once_for_all_questions(lm, store):
    plain, prefix = builder(lm, None), builder(lm, POLICIES["kv_last_round_prefix"], store)
    heads = [plain.context(qa(text), text, []).blocks[0] for text in ("One?", "Two?")]
    assert heads[0] is heads[1]
    assert prefix.context(QUESTION, "USER", IDS).blocks[0] is heads[0]


def test_logs_behind_the_head_stand_behind_bos_even_without_a_system_message_in_the_template(store):
    other = new_lm(ScriptedLM, template=NO_SYSTEM_CHAT)
    injected, prefilled = other.read(
        builder(other, POLICIES["kv_last_round_prefix"], store).context(QUESTION, "USER", IDS[1:2])
    )
    assert injected == "<s>" + ROME
    assert prefilled.startswith("<|user|>\nBe brief.\n\nUSER</s>")


def test_injected_and_prefilled_tokens_together_are_one_plain_reading(lm):
    """Without logs the cached head must change nothing."""
    asked = builder(lm, None).context(QUESTION, "USER", [])
    ids = tiny_lm().tokenize(HEAD) + tiny_lm().tokenize(TURN)
    with torch.no_grad():
        whole = lm.model(torch.tensor([ids])).logits[0, asked.injected :]
    assert torch.allclose(lm.logits(asked), whole, atol=1e-5)
