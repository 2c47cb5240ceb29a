"""Every way to encode a log against a slow reference: plain forward passes, and tokens picked by counting bytes."""

from __future__ import annotations

from itertools import combinations, product
from typing import get_args

import pytest
import torch

from lagkit.logs.encode import Encoder, kept_text
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.policy import Encode, Keep, Policy
from lagkit.util.errors import ConfigError, ContextTooLong
from tests.helpers.blocks import close, plain_kv
from tests.helpers.lms import FORGETFUL_CHAT, NO_SYSTEM_CHAT, new_lm, short_prompt, tiny_lm, tokenizer, trace_of

PROMPT = short_prompt()
KEEPS = get_args(Keep)
ENCODES = [encode for encode in get_args(Encode) if encode not in ("stranger", "filler")]  # those: test_stranger.py
COMBINATIONS = list(product(ENCODES, KEEPS, ("front", "prefix")))

# Responses by round; the last action of each, or all of it where it has none, stands between brackets by hand.
MARKED = {
    "one round": ["The Vistula ends in the [<ans>Baltic Sea</ans>]"],
    "three rounds": [
        "Known so far. [<keywords>Danube mouth</keywords>]",
        "[No tag: it could be anything, naïvely 🙂.]",
        "Sea? <keywords>Black Sea</keywords> I am sure: [<ans>Black Sea</ans>]",
    ],
    "action twice": ["It is <ans>Łódź</ans>, and I say [<ans>Łódź</ans>] once more: <ans>Łódź"],
    "glued action": ["x[<ans>y</ans>]z", "word[<keywords>ß</keywords>]s"],
    "empty between": ["First. [<keywords>a</keywords>]", "", "[Second.]"],
    "empty last": ["Only this: [<ans>x</ans>]", ""],
    "empty": [""],
    "no round": [],
}


def trace(name: str):
    return trace_of(*(said.replace("[", "").replace("]", "") for said in MARKED[name]))


def pieces(name: str, encode: str, keep: str) -> list[tuple[str, bool]]:
    """The text behind the head in pieces, each with whether it is kept."""
    prompts = [r.prompt for r, said in zip(trace(name).rounds, MARKED[name], strict=True) if said]
    marked = [said for said in MARKED[name] if said]
    first = len(marked) - {"last_two_rounds": 2, "all_rounds": 99}.get(keep, 1)
    found: list[tuple[str, bool]] = []
    for i, (prompt, said) in enumerate(zip(prompts, marked, strict=True)):
        kept = i >= first
        before, action, after = said.replace("]", "[").split("[")
        spoken = [(before, kept and keep != "last_action"), (action, kept), (after, kept and keep != "last_action")]
        if encode == "conversation":
            found += [("</s>\n" if i else "", False), (f"<|user|>\n{prompt}</s>\n<|assistant|>\n", False), *spoken]
        elif encode == "responses":
            found += [("\n\n" if i else "", i > first), *spoken]
        else:
            found += [
                ("\n\n" if i > max(first, 0) else "", True),
                *((text, True) for text, is_kept in spoken if is_kept),
            ]
    return found


def picked(lm: LM, parts: list[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
    """Tokens of the joined parts, and whether any byte of each is kept: a token's name has one letter a byte."""
    ids = lm.tokenize("".join(text for text, _ in parts))
    bytes_kept = [kept for text, kept in parts for _ in text.encode()]
    ends = torch.tensor([len(name) for name in lm.tokenizer.convert_ids_to_tokens(ids)]).cumsum(0).tolist()
    assert (ends or [0])[-1] == len(bytes_kept)
    return ids, [any(bytes_kept[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize(("encode", "keep", "place"), COMBINATIONS)
def test_every_combination_keeps_what_a_plain_reading_has_there(encode, keep, place, name):
    lm = tiny_lm()
    block = Encoder(lm, PROMPT).encode(trace(name), Policy("kv", keep, encode, place))
    rest, kept = picked(lm, pieces(name, encode, keep))
    reads_head = place == "prefix" or encode == "conversation"
    head = lm.tokenize("<s><|system|>\nBe brief.</s>\n") if reads_head else []
    index = [len(head) + i for i, is_kept in enumerate(kept) if is_kept]
    assert block.ids.tolist() == [(head + rest)[i] for i in index]
    assert bool(index) == any(MARKED[name])
    if index:
        keys, values = plain_kv(lm, head + rest)
        assert close(block.keys, keys[:, :, index])
        assert close(block.values, values[:, :, index])


@pytest.mark.parametrize(
    ("before", "read"), [("nothing", ""), ("bos", "<s>"), ("head", "<s><|system|>\nBe brief.</s>\n")]
)
@pytest.mark.parametrize("encode", ENCODES)
def test_what_stands_before_is_read_and_not_kept(encode, before, read):
    lm = tiny_lm()
    blocks = [
        Encoder(lm, PROMPT).encode(trace("three rounds"), Policy("kv", "last_round", encode, place, before))
        for place in ("front", "prefix")
    ]
    rest, kept = picked(lm, pieces("three rounds", encode, "last_round"))
    head = lm.tokenize(read)
    index = [len(head) + i for i, is_kept in enumerate(kept) if is_kept]
    keys, values = plain_kv(lm, head + rest)
    for block in blocks:  # where it will stand makes no difference
        assert block.ids.tolist() == [(head + rest)[i] for i in index]
        assert close(block.keys, keys[:, :, index])
        assert close(block.values, values[:, :, index])


@pytest.mark.parametrize("encode", ["responses", "kept"])
def test_what_stands_before_makes_other_blocks(encode):
    encoder = Encoder(tiny_lm(), PROMPT)
    blocks = [
        encoder.encode(trace("one round"), Policy("kv", encode=encode, before=b)) for b in ("nothing", "bos", "head")
    ]
    for one, other in combinations(blocks, 2):
        assert one.ids.tolist() == other.ids.tolist()
        # The keys of the first layer have read nothing yet.
        assert close(one.keys[:1], other.keys[:1])
        assert (one.keys[-1] - other.keys[-1]).norm() > 1e-2 * one.keys[-1].norm()


def test_one_log_behind_what_it_has_read_is_dense_prefill():
    """Kept alone and put back behind the same tokens, KV is what a reading of all words in one go has there."""
    lm, log = tiny_lm(), trace("one round")
    tail = lm.tokenize("<|user|>\nWhere?</s>\n<|assistant|>\n")
    for before, read in (("nothing", ""), ("bos", "<s>"), ("head", "<s><|system|>\nBe brief.</s>\n")):
        block = Encoder(lm, PROMPT).encode(log, Policy("kv", encode="kept", place="prefix", before=before))
        head = lm.tokenize(read)
        given = lm.logits(Context(tuple(tail), (*([lm.head_block(head)] if head else []), block)))
        with torch.no_grad():
            dense = lm.model(torch.tensor([[*head, *block.ids.tolist(), *tail]])).logits[0, -len(tail) :]
        assert torch.allclose(given, dense, atol=1e-5)


def test_the_reference_tells_apart_equal_words_in_different_places():
    lm = tiny_lm()
    twice = trace("action twice")
    block = Encoder(lm, PROMPT).encode(twice, Policy("kv", "last_action"))
    first = "It is <ans>Łódź</ans>"
    action = lm.tokenize(" <ans>Łódź</ans>")
    assert block.ids.tolist() == action
    keys, _ = plain_kv(lm, lm.tokenize(first))
    assert not close(block.keys, keys[:, :, -len(action) :])


def test_tokens_that_reach_over_the_edge_of_an_action_are_kept_whole():
    lm = tiny_lm()
    block = Encoder(lm, PROMPT).encode(trace("one round"), Policy("kv", "last_action"))
    assert lm.tokenizer.decode(block.ids.tolist()) == " <ans>Baltic Sea</ans>"


@pytest.mark.parametrize(
    ("name", "keep", "text"),
    [
        ("three rounds", "last_action", "<ans>Black Sea</ans>"),
        ("three rounds", "last_round", "Sea? <keywords>Black Sea</keywords> I am sure: <ans>Black Sea</ans>"),
        ("glued action", "last_two_rounds", "x<ans>y</ans>z\n\nword<keywords>ß</keywords>s"),
        ("empty between", "all_rounds", "First. <keywords>a</keywords>\n\nSecond."),
        ("empty between", "last_two_rounds", "First. <keywords>a</keywords>\n\nSecond."),
        ("empty last", "last_action", "<ans>x</ans>"),
        ("one round", "last_two_rounds", "The Vistula ends in the <ans>Baltic Sea</ans>"),
        ("empty", "all_rounds", ""),
        ("no round", "last_action", ""),
    ],
)
def test_kept_text(name, keep, text):
    assert kept_text(trace(name), keep) == text


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("keep", KEEPS)
def test_kept_text_is_what_the_block_says(keep, name):
    """Wherever no token reaches over an edge: what is read alone has no edges."""
    lm = tiny_lm()
    block = Encoder(lm, PROMPT).encode(trace(name), Policy("kv", keep, "kept"))
    assert lm.tokenizer.decode(block.ids.tolist()) == kept_text(trace(name), keep)


def test_a_template_without_system_messages_puts_them_into_the_first_turn():
    lm = tiny_lm(template=NO_SYSTEM_CHAT)
    log = trace_of("Yes. <ans>a</ans>")
    block = Encoder(lm, PROMPT).encode(log, Policy("kv", encode="conversation"))
    ids = lm.tokenize(f"<s><|user|>\nBe brief.\n\n{log.rounds[0].prompt}</s>\n<|assistant|>\nYes. <ans>a</ans>")
    keys, _ = plain_kv(lm, ids)
    assert block.ids.tolist() == ids[-len(block) :]
    assert lm.tokenizer.decode(block.ids.tolist()) == "Yes. <ans>a</ans>"
    assert close(block.keys, keys[:, :, -len(block) :])


@pytest.mark.parametrize("name", ["three rounds", "empty"])
@pytest.mark.parametrize("encode", ENCODES)
def test_a_chat_without_any_shared_head(encode, name):
    model = tiny_lm().model
    lm = LM(model, tokenizer(NO_SYSTEM_CHAT, bos_token=None), "headless")
    encoder = Encoder(lm, PROMPT)
    front, prefix = (encoder.encode(trace(name), Policy("kv", encode=encode, place=p)) for p in ("front", "prefix"))
    bos = encoder.encode(trace(name), Policy("kv", encode=encode, before="bos"))
    assert torch.equal(front.keys, prefix.keys)
    assert torch.equal(front.keys, bos.keys)
    assert bool(len(front)) == (name == "three rounds")


def test_a_template_that_rewrites_earlier_responses_is_refused_for_conversations_only():
    encoder = Encoder(tiny_lm(template=FORGETFUL_CHAT), PROMPT)
    log = trace_of("I think <keywords>a</keywords>", "It is <ans>b</ans>")
    with pytest.raises(ConfigError, match=r"tiny-llama rewrites earlier responses, .* use encode=responses"):
        encoder.encode(log, Policy("kv", encode="conversation"))
    assert len(encoder.encode(log, Policy("kv", encode="responses"))) > 0


def test_a_log_that_the_model_cannot_hold_is_refused():
    lm = new_lm(LM, max_position_embeddings=48)
    with pytest.raises(
        ContextTooLong, match=r"0 injected \+ \d+ prompt \+ 0 new tokens are \d+, and tiny-llama holds 48"
    ):
        Encoder(lm, PROMPT).encode(trace_of("word " * 60), Policy("kv"))


def test_keys_name_the_head_that_was_read():
    lm = tiny_lm()
    one, other = Encoder(lm, PROMPT), Encoder(lm, short_prompt(system="Be long."))
    assert one.key(Policy("kv")) == other.key(Policy("kv")) == "responses.last_round.bare"
    for policy in (Policy("kv", place="prefix"), Policy("kv", encode="conversation")):
        assert one.key(policy) != other.key(policy)
        assert one.key(policy).endswith(one.head_hash)
    assert Encoder(tiny_lm(template=None), PROMPT).head_hash != one.head_hash
