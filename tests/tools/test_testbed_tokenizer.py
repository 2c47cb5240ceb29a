"""The testbed's tokenizer: names, tags and phrases are one token, text comes back as it was."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.datasets.world.world import language, make_world, name_pool, tell, trivia
from lagkit.model.prompts.prompt import Prompt
from tools.testbed.tokenizer import make_tokenizer

TOKENIZER = make_tokenizer()


def tokens(text: str) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def test_each_name_is_one_token_and_the_same_one_wherever_it_stands():
    for name in name_pool():
        found = [tokens(text) for text in (name, f"Who is {name}'s director?", f"\n{name}: x", f"<ans> {name}</ans>")]
        assert [f"▁{name}" in pieces for pieces in found] == [True] * 4, name


def test_tags_and_what_stands_between_the_names_of_a_fact_are_one_token():
    assert tokens("Velmo") == ["▁", *(f"<0x{byte:02X}>" for byte in b"Velmo")]
    name, other = name_pool()[:2]
    assert tokens(f"{name}'s director is {other}. <ans> {other}</ans>") == [
        f"▁{name}", "'s▁director▁is", f"▁{other}", ".", "▁<ans>", f"▁{other}", "</ans>",
    ]  # fmt: skip
    for relation in (*language().by_name.values(), *language().trivia.values()):
        for wording in relation.says:
            end = wording.split("$o")[1]
            pieces = tokens(wording.replace("$s", name).replace("$o", other))
            assert pieces[0] == f"▁{name}"
            assert pieces[2] == f"▁{other}"
            assert len(pieces) == 4 + len(end.split()) - (end == ".")


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_what_the_testbed_says_comes_back_and_needs_no_bytes(seed):
    world, rng = make_world(seed, 40), random.Random(seed)
    name = rng.choice(list(world.kinds))
    text = " " + tell([*world.of[name].values(), *trivia(name, 2, rng)], rng)
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert not [t for t in TOKENIZER.convert_ids_to_tokens(ids) if t.startswith("<0x")]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\n"), min_size=1))
@settings(deadline=None)
def test_other_text_comes_back_behind_a_space(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids).removeprefix(" ") == text.removeprefix(" ")


def test_the_offsets_of_tokens_are_those_of_their_words():
    text = f"{name_pool()[0]}'s mentor is unknown. <keywords> {name_pool()[0]}'s mentor</keywords>"
    encoded = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True)
    assert "".join(text[a:b] for a, b in encoded["offset_mapping"]) == text


def test_prompts_need_no_bytes():
    prompt = Prompt.of("qa", "short")
    for text in (prompt.system, prompt.notes.system, "Notes from earlier work:\n", "[12] ", "Nothing helps."):
        assert not [t for t in tokens(text) if t.startswith("<0x")]


def test_the_chat_starts_with_bos_and_ends_each_turn():
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    text = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|system|>a<|end|><|user|>b<|end|><|assistant|>"
    assert tokens("<s><|system|><|end|>") == ["<s>", "<|system|>", "<|end|>"]


def test_it_is_the_same_every_time():
    assert make_tokenizer().get_vocab() == TOKENIZER.get_vocab()


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_roles_are_one_token(role):
    assert len(tokens(f"<|{role}|>")) == 1
