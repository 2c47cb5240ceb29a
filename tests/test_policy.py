"""Policies: the five choices, their names, and what a store keeps blocks under."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from lagkit.policy import POLICIES, Before, Encode, Inject, Keep, Place, Policy, get_policy
from lagkit.util.errors import ConfigError

GRID = list(product(get_args(Inject), get_args(Keep), get_args(Encode), get_args(Place)))


def is_legal(inject: str, keep: str, encode: str, place: str) -> bool:
    copied = (keep, encode, place) == ("last_round", "responses", "front")
    return {"kv": place != "user_turn", "text": True, "cheatsheet": place != "prefix", "copy": copied}[inject]


def test_names_are_those_that_papers_use():
    fields = {name: p and (p.inject, p.keep, p.encode, p.place) for name, p in POLICIES.items()}
    assert fields == {
        "no_logs": None,
        "text_last_round": ("text", "last_round", "responses", "front"),
        "text_all_rounds": ("text", "all_rounds", "responses", "front"),
        "text_last_round_user_turn": ("text", "last_round", "responses", "user_turn"),
        "text_all_rounds_user_turn": ("text", "all_rounds", "responses", "user_turn"),
        "kv_last_action": ("kv", "last_action", "responses", "front"),
        "kv_last_round": ("kv", "last_round", "responses", "front"),
        "kv_last_two_rounds": ("kv", "last_two_rounds", "responses", "front"),
        "kv_all_rounds": ("kv", "all_rounds", "responses", "front"),
        "kv_block": ("kv", "last_round", "kept", "front"),
        "kv_stranger": ("kv", "last_round", "stranger", "front"),
        "kv_filler": ("kv", "last_round", "filler", "front"),
        "kv_last_round_prefix": ("kv", "last_round", "responses", "prefix"),
        "cheatsheet": ("cheatsheet", "last_round", "responses", "user_turn"),
        "authors_kv_last_round": ("kv", "last_round", "responses", "front"),
        "authors_kv_last_action": ("kv", "last_action", "responses", "front"),
        "authors_text_last_round": ("text", "last_round", "responses", "front"),
        "authors_text_all_rounds": ("text", "all_rounds", "responses", "front"),
        "authors_block": ("kv", "last_round", "kept", "front"),
        "authors_cheatsheet": ("cheatsheet", "last_round", "responses", "front"),
        "text_step": ("text", "step", "responses", "front"),
        "kv_step": ("kv", "step", "responses", "front"),
        "copy_nearest": ("copy", "last_round", "responses", "front"),
    }


def test_every_combination_is_a_policy_or_refused():
    legal = 0
    for inject, keep, encode, place in GRID:
        if is_legal(inject, keep, encode, place):
            policy = Policy(inject, keep, encode, place)
            assert get_policy(str(policy)) == policy
            legal += 1
        else:
            with pytest.raises(ConfigError, match=r"user turn|shows the model nothing of a log"):
                Policy(inject, keep, encode, place)
    assert (legal, len(GRID)) == (5 * 5 * (2 + 3 + 2) + 1, 300)


@pytest.mark.parametrize("before", ["nothing", "bos", "head"])
def test_what_stands_before_is_spelled_out_last_and_for_kv_only(before):
    for keep, encode, place in product(get_args(Keep), get_args(Encode), ("front", "prefix")):
        policy = Policy("kv", keep, encode, place, before)
        assert str(policy) == f"kv/{keep}/{encode}/{place}/{before}"
        assert get_policy(str(policy)) == policy
        assert policy.reads_first == before
    for inject, place in (("text", "prefix"), ("cheatsheet", "user_turn"), ("copy", "front")):
        with pytest.raises(ConfigError, match="Only KV is encoded ahead of its use"):
            Policy(inject, place=place, before=before)


def test_what_is_usual_behind_the_place_is_left_out():
    assert str(POLICIES["authors_text_all_rounds"]) == "text/all_rounds/responses/front/usual/around/all_responses"
    assert str(POLICIES["authors_block"]) == "kv/last_round/kept/front/usual/around"
    for name, policy in POLICIES.items():
        assert policy is None or get_policy(str(policy)) == policy, name


def test_blank_lines_stand_around_responses_ahead_of_the_prompt_alone():
    for parts in (("kv", "last_round", "conversation"), ("text", "last_round", "responses", "user_turn"), ("copy",)):
        with pytest.raises(ConfigError, match="choose blanks between"):
            Policy(*parts, blanks="around")
    around, between = POLICIES["authors_kv_last_round"], POLICIES["kv_last_round"]
    assert around.block_key("h") == f"{between.block_key('h')}.around"


def test_usually_the_head_stands_before_what_was_said_or_will_stand_behind_it():
    usual = {str(p): p.reads_first for p in (Policy("kv", *rest) for i, *rest in GRID if is_legal("kv", *rest))}
    assert {name for name, before in usual.items() if before == "head"} == {
        name for name in usual if "conversation" in name or "prefix" in name
    }
    assert set(usual.values()) == {"head", "nothing"}


def test_only_steps_are_logs_of_another_unit():
    assert {name for name, policy in POLICIES.items() if policy and policy.unit == "step"} == {"text_step", "kv_step"}


@pytest.mark.parametrize("name", ["no_logs", "kv_block"])
def test_a_name_gives_its_policy(name):
    assert get_policy(name) is POLICIES[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kv_last_rond", r"Unknown policy 'kv_last_rond': use one of no_logs, .*, copy_nearest, or spell it out as"),
        ("kv/last_round/responses", "Unknown policy"),
        ("", "Unknown policy ''"),
        ("kv/last_word/responses/front", "keep is one of last_action, last_round, .*; 'last_word' is not"),
        ("kv/last_round/all/front", "encode is one of conversation, responses, kept, stranger, filler; 'all' is not"),
        ("kvs/last_round/kept/front", "inject is one of kv, text, cheatsheet, copy; 'kvs' is not"),
        ("kv/last_round/kept/front/eos", "before is one of usual, nothing, bos, head; 'eos' is not"),
        ("kv/last_round/kept/front/bos/bos", "blanks is one of between, around; 'bos' is not"),
        ("kv/last_round/kept/front/bos/around/key", "found_by is one of last_response, all_responses; 'key' is not"),
        ("kv/last_round/kept/front/bos/around/all_responses/more", "Unknown policy"),
        ("kv/last_round/kept/back", "place is one of front, prefix, user_turn; 'back' is not"),
    ],
)
def test_unknown_names_and_values_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        get_policy(name)


def test_blocks_are_shared_exactly_where_the_same_text_was_read():
    keys = {str(p): p.block_key("h1") for p in (Policy("kv", *rest) for i, *rest in GRID if is_legal("kv", *rest))}
    assert len(keys) == 5 * 5 * 2
    # What reads the head depends on it; a conversation is the same wherever it is put.
    assert keys["kv/last_round/conversation/front"] == keys["kv/last_round/conversation/prefix"]
    assert keys["kv/last_round/responses/front"] == "responses.last_round.bare"
    assert keys["kv/last_round/responses/prefix"] == "responses.last_round.h1"
    assert keys["kv/all_rounds/kept/prefix"] == "kept.all_rounds.h1"
    assert len(set(keys.values())) == 50 - 5
    other = {p: get_policy(p).block_key("h2") for p in keys}
    assert {p for p in keys if other[p] == keys[p]} == {
        f"kv/{keep}/{encode}/front"
        for keep in get_args(Keep)
        for encode in get_args(Encode)
        if encode != "conversation"
    }


def test_blocks_tell_apart_what_stood_before_and_share_what_is_the_same_computation():
    for keep, encode in product(get_args(Keep), get_args(Encode)):
        keys = {
            (place, before): Policy("kv", keep, encode, place, before).block_key("h1")
            for place, before in product(("front", "prefix"), get_args(Before))
        }
        assert {key for (_, before), key in keys.items() if before == "nothing"} == {f"{encode}.{keep}.bare"}
        assert {key for (_, before), key in keys.items() if before == "bos"} == {f"{encode}.{keep}.bos"}
        assert {key for (_, before), key in keys.items() if before == "head"} == {f"{encode}.{keep}.h1"}
        assert keys["prefix", "usual"] == keys["front", "head"]
        assert keys["front", "usual"] == keys["front", "head" if encode == "conversation" else "nothing"]
