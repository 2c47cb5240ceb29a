"""Attention token by token is that of the study, adds up to all there is, and belongs to the words that are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.policy import POLICIES, Policy
from lagkit.studies import early, tokens
from lagkit.studies.attention import mass
from lagkit.studies.examples import Case
from lagkit.util.errors import ConfigError, DataError
from tests.helpers.lms import qa, short_prompt, small_run, tiny_lm, trace_of

PROMPT = short_prompt()
LOG = trace_of("The river starts in the hills.", "It passes the old town. 🏔é", "It ends in the <ans>Black Sea</ans>")
QUESTION = qa("Where does the river end?", "Black Sea")
TURN = "Passage. Question: Where does the river end?"
KV = POLICIES["kv_last_round"]
PREFIX = POLICIES["kv_last_round_prefix"]


def encoding(policy: Policy = KV, log=LOG) -> tokens.TokenAttention:
    return tokens.encoding(Encoder(tiny_lm(), PROMPT), log, policy)


def using(policy: Policy, logs=(LOG,), said: str = " It is the Black Sea.") -> tokens.TokenAttention:
    return tokens.using(KVContextBuilder(tiny_lm(), PROMPT, policy), QUESTION, TURN, logs, said)


def text_of(found: tokens.TokenAttention) -> str:
    return "".join(piece.before + piece.text for piece in found.pieces)


def test_shares_are_those_of_the_attention_study(tmp_path):
    run = small_run(tmp_path, tiny_lm())
    study = early.to_rounds(run, [Case(QUESTION, TURN, LOG, LOG)], KV)
    shares = tokens.encoding(Encoder(run.local_lm, run.prompt), LOG, KV).table()
    for back, part in ((1, "round 2"), (2, "round 1")):
        own = study[study["back"] == back].set_index(["layer", "head"])
        view = shares[shares["part"] == part].set_index(["layer", "head"])
        assert view["share"].to_dict() == pytest.approx(own["mass"].to_dict(), abs=1e-5)
        assert view["even"].to_dict() == pytest.approx(own["uniform"].to_dict(), abs=1e-6)


@pytest.mark.parametrize("found", [encoding(), encoding(PREFIX), using(KV), using(PREFIX)])
def test_all_attention_is_there_and_each_token_counts_once(found):
    ones = torch.ones(found.rows.shape[:3])
    torch.testing.assert_close(found.rows.sum(-1), ones, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.shares.sum(-1), ones, atol=1e-5, rtol=0)
    assert found.by_part()["share"].sum() == pytest.approx(1)
    assert found.by_part()["even"].sum() == pytest.approx(1)
    slots = [slot for piece in found.pieces for slot in piece.slots]
    assert slots == list(range(len(slots)))
    assert found.rows.std() > 0.01


@pytest.mark.parametrize("policy", [KV, Policy("kv", keep="last_two_rounds")])
def test_the_text_is_what_is_read_and_the_kept_tokens_ask(policy):
    found, reading = encoding(policy), Encoder(tiny_lm(), PROMPT).read(LOG, policy)
    assert text_of(found) == reading.text
    assert "🏔é" in text_of(found)
    asked = {slot for i in found.asking for slot in found.pieces[i].slots}
    assert asked == set(reading.kept)
    assert found.parts == ["first token", "round 1", "round 2", "round 3", "other text"]


def test_another_log_s_context_is_no_round_of_this_log():
    found = encoding(POLICIES["kv_filler"])
    assert found.parts == ["first token", "round 3", "other text"]
    assert text_of(found).endswith("It ends in the <ans>Black Sea</ans>")


@pytest.mark.parametrize("policy", [KV, PREFIX])
def test_generated_words_attend_to_the_log_that_is_injected(policy):
    lm, said = tiny_lm(), " It is the Black Sea."
    builder = KVContextBuilder(lm, PROMPT, policy)
    found, block = using(policy, said=said), builder.encoder.encode(LOG, policy)
    context = builder.build(QUESTION, TURN, (block,))
    ids = lm.tokenize(said)
    whole = replace(context, ids=(*context.ids, *ids))
    end = whole.injected + len(whole.ids)
    at = sum(map(len, context.blocks)) - len(block)
    log = [slot for slot in range(at, at + len(block)) if slot]
    expected = mass(lm, whole, range(end - len(ids), end), {"log": log})[..., 0]
    torch.testing.assert_close(found.shares[:, :, 0, found.parts.index("log 1")], expected, atol=1e-5, rtol=0)
    shown = text_of(found)
    assert LOG.rounds[-1].response in shown
    assert TURN in shown
    assert "".join(found.pieces[i].before + found.pieces[i].text for i in found.asking).strip() == said.strip()


def test_several_logs_are_told_apart():
    other = trace_of("It ends in the North Sea.", id="q2")
    found = using(KV, (LOG, other))
    assert {"log 1", "log 2"} <= set(found.parts)
    words = ["".join(p.before + p.text for p in found.pieces if p.part == f"log {n}") for n in (1, 2)]
    assert words[1] == "It ends in the North Sea."
    assert words[0] in LOG.rounds[-1].response  # but for the very first token


def test_what_has_no_tokens_to_show_is_refused():
    with pytest.raises(ConfigError, match="keeps no KV of a log"):
        encoding(POLICIES["text_last_round"])
    with pytest.raises(DataError, match="keeps nothing of the log"):
        encoding(log=trace_of())
    with pytest.raises(ConfigError, match="choose a policy that injects kv"):
        using(POLICIES["text_last_round"])
    with pytest.raises(DataError, match="The model said nothing"):
        using(KV, said="")
