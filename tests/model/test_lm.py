"""The language model: loading, chats, greedy batches with ragged prefixes, stop strings, what is counted."""

from __future__ import annotations

import re

import pytest
import torch

from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.types import Usage
from lagkit.util.errors import ConfigError, ContextTooLong
from tests.helpers.lms import NO_SYSTEM_CHAT, new_lm, tiny_lm, tokenizer

NEW = 12
SYSTEM, USER = {"role": "system", "content": "S"}, {"role": "user", "content": "U"}


@torch.no_grad()
def read_whole(lm: LM, ids: list[int], new_tokens: int = NEW) -> list[int]:
    """Greedy tokens by plain forward passes over all of the text, without any cache."""
    whole = torch.tensor([ids])
    for _ in range(new_tokens):
        whole = torch.cat([whole, lm.model(whole, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return whole[0, len(ids) :].tolist()


def block(lm: LM, text: str) -> KVBlock:
    ids = tuple(lm.tokenize(text))
    return lm.encode(Context(ids), 0, len(ids))


def context(lm: LM, prompt: str, *blocks: str) -> Context:
    return Context(tuple(lm.tokenize(prompt)), tuple(block(lm, text) for text in blocks))


def ragged(lm: LM) -> list[tuple[list[int], Context]]:
    """ContextBuilder with one, no and several blocks, each with the tokens that its blocks and prompt spell."""
    texts = [
        ("Rome is old. Where?", "The river ends in the sea."),
        ("<s>Which one is it, and of what kind?",),
        ("a", "b"),
    ]
    made = [context(lm, *text) for text in texts]
    return [([i for b in c.blocks for i in b.ids.tolist()] + list(c.ids), c) for c in made]


# Generation


@pytest.mark.parametrize("new_tokens", [1, 4])
def test_each_new_token_of_a_prompt_takes_one_pass(new_tokens):
    """The pass that reads the prompt tells the first: another one would read all weights again."""
    lm = tiny_lm("llama")
    asked, passes = context(lm, "Where?", "Rome is old."), []
    lm.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    [said] = lm.generate([asked], new_tokens)
    assert len(passes) == len(said.ids) == new_tokens


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "gpt_neox"])
def test_ragged_batches_say_what_reading_the_whole_text_says(family, batch_size):
    lm = tiny_lm(family)
    spelled, contexts = zip(*ragged(lm), strict=True)
    said = lm.generate(contexts, NEW, batch_size=batch_size)
    for ids, found in zip(spelled, said, strict=True):
        expected = read_whole(lm, ids)
        if 2 in expected:
            expected = expected[: expected.index(2) + 1]
        assert list(found.ids) == expected


def test_tokens_are_counted_by_origin():
    lm = tiny_lm()
    contexts = [context(lm, "Where does it end?", "The river", "ends here"), context(lm, "Who?")]
    for asked, said in zip(contexts, lm.generate(contexts, NEW), strict=True):
        injected = sum(len(b) for b in asked.blocks)
        assert (
            (said.usage.prefilled, said.usage.injected)
            == (len(asked.ids), injected)
            == (len(asked.ids), asked.injected)
        )
        assert said.usage.generated == len(said.ids) == NEW
        assert said.usage.seconds > 0
    assert sum((Usage(1, 2, 3, 0.5), Usage(1, 1, 1, 1.0)), Usage()) == Usage(2, 3, 4, 1.5)


def test_a_prompt_of_one_token_is_enough():
    lm = tiny_lm()
    contexts = [Context((1,)), Context((1,), (block(lm, "The river"),))]
    said = lm.generate(contexts, NEW)
    assert list(said[0].ids) == read_whole(lm, [1])
    assert list(said[1].ids) == read_whole(lm, [*lm.tokenize("The river"), 1])
    assert lm.generate(contexts[:1], NEW)[0].ids == said[0].ids


def test_no_contexts_give_no_generations():
    assert tiny_lm().generate([], NEW) == []


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_rows_that_end_early_leave_the_others_as_they_are(family):
    lm = tiny_lm(family)
    words = ["Who?", "Where does the river end, and why?", "It was", "<s>Which of them is it", "Rome", "a b c"]
    contexts = [context(lm, text, *(["The river ends in the sea."] if i % 2 else [])) for i, text in enumerate(words)]
    stop = ("is", "at")
    singly = [lm.generate([c], 40, stop=stop)[0] for c in contexts]
    together = lm.generate(contexts, 40, stop=stop)
    assert [g.ids for g in together] == [g.ids for g in singly]
    assert [g.text for g in together] == [g.text for g in singly]
    assert len({len(g.ids) for g in together}) >= 4


def test_a_stop_string_ends_its_row_and_no_other():
    lm = tiny_lm()
    contexts = [context(lm, "Where does it end?"), context(lm, "<s>Who was it, then?", "The river")]
    free = lm.generate(contexts, 24)
    stop = free[0].text[7:12]
    assert stop not in free[1].text
    stopped = lm.generate(contexts, 24, stop=("never said", stop))
    assert stopped[0].text == free[0].text[: free[0].text.index(stop) + len(stop)]
    # The fewest tokens that say it, and none of the padding behind.
    assert (
        len(lm.tokenizer.decode(stopped[0].ids[:-1])) < len(stopped[0].text) <= len(lm.tokenizer.decode(stopped[0].ids))
    )
    assert stopped[0].usage.generated == len(stopped[0].ids) < 24
    assert stopped[1].text == free[1].text


def test_special_tokens_are_not_said_unless_they_spell_a_tag_or_a_mark_of_reasoning(monkeypatch):
    lm = new_lm(LM)
    lm.tokenizer.add_special_tokens({"additional_special_tokens": ["<ans>", "<|channel|>"]})
    words = "<|channel|>analysis<|message|>x<|end|> It is<pad> <ans>Ro<|user|>me</ans>"
    made = [(id, -1.0) for id in lm.tokenize(f"{words} and<pad> more</s>")]
    monkeypatch.setattr(LM, "_decode", lambda *_: [made])
    [said] = lm.generate([context(lm, "Where?")], 60, stop=("</ans>",))
    assert said.text == words.replace("<pad>", "").replace("<|user|>", "")
    assert list(said.ids) == lm.tokenize(words)
    assert lm.confidence(said, said.text.index("Rome"), len(said.text)) == -1
    assert lm._has_ended(made[: len(said.ids)], ("</ans>",), "")


def test_the_earliest_stop_string_counts_wherever_it_stands_in_the_list():
    lm = tiny_lm()
    asked = [context(lm, "Where does it end?")]
    text = lm.generate(asked, 24)[0].text
    early, late = text[4:8], text[12:16]
    for stop in ((early, late), (late, early)):
        assert lm.generate(asked, 24, stop=stop)[0].text == text[: text.index(early) + len(early)]


def test_decoding_ends_with_the_stop_string_and_not_with_the_limit(monkeypatch):
    lm = tiny_lm()
    asked = [context(lm, "Where does it end?")]
    stop = lm.generate(asked, 24)[0].text[4:8]
    steps = []
    forward = type(lm.model).forward
    monkeypatch.setattr(type(lm.model), "forward", lambda *args, **kw: steps.append(1) or forward(*args, **kw))
    said = lm.generate(asked, 400, stop=(stop,))[0]
    assert len(steps) == len(said.ids) < 24


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_that_have_ended_leave_the_batch_and_the_others_go_on(family, monkeypatch):
    lm = tiny_lm(family)
    _, contexts = zip(*ragged(lm), strict=True)
    alone = [lm.generate([c], 40)[0] for c in contexts]
    stop = alone[1].text[4:9]
    assert not any(stop in said.text for said in (alone[0], alone[2]))
    sizes = []
    forward = type(lm.model).forward

    def counted(*args, **inputs):
        sizes.append(len(inputs["input_ids"]))
        return forward(*args, **inputs)

    monkeypatch.setattr(type(lm.model), "forward", counted)
    # Two rows that are the same end together, and are half of the batch.
    said = lm.generate([*contexts, contexts[1]], 40, stop=(stop,))
    assert [said[0].ids, said[2].ids] == [alone[0].ids, alone[2].ids]
    assert said[1].text == alone[1].text[: alone[1].text.index(stop) + len(stop)]
    assert said[3].ids == said[1].ids
    assert sizes == [4] * len(said[1].ids) + [2] * (40 - len(said[1].ids))


@pytest.mark.parametrize("where", ["tokenizer", "generation config"])
def test_an_end_token_ends_the_text_and_is_counted_but_not_shown(where):
    free = tiny_lm().generate([context(tiny_lm(), "Where does it end?")], NEW)[0]
    at = next(i for i in range(3, NEW) if free.ids[i] not in free.ids[:i])
    lm = new_lm(LM)
    if where == "tokenizer":
        lm.tokenizer.eos_token = lm.tokenizer.convert_ids_to_tokens(free.ids[at])
    else:
        lm.model.generation_config.eos_token_id = [599, free.ids[at]]
    said, other = lm.generate([context(lm, "Where does it end?"), context(lm, "<s>Who?")], NEW)
    assert said.ids == free.ids[: at + 1]
    assert said.text == lm.tokenizer.decode(free.ids[:at])
    assert said.usage.generated == at + 1
    assert other.text == lm.generate([context(lm, "<s>Who?")], NEW)[0].text


def test_a_model_without_any_end_token_speaks_to_the_limit():
    lm = LM(tiny_lm().model, tokenizer(eos_token=None), "endless")
    assert lm.generate([context(lm, "Who?")], NEW)[0].usage.generated == NEW


def test_too_long_a_context_is_refused_before_anything_is_computed(monkeypatch):
    lm = new_lm(LM, max_position_embeddings=64)
    contexts = [context(lm, "Who?"), context(lm, "Who?", "The river ends.")]
    n = contexts[1].injected
    room = 64 - n - len(contexts[1].ids)
    assert lm.generate(contexts, room)[1].usage.generated == room
    monkeypatch.setattr(lm, "_generate_batch", pytest.fail)
    said = f"{n} injected + {len(contexts[1].ids)} prompt + {room + 1} new tokens are 65, and tiny-llama holds 64"
    with pytest.raises(ContextTooLong, match=re.escape(said)):
        lm.generate(contexts, room + 1)


@pytest.mark.parametrize(("family", "holds"), [("llama", 4096), ("llama_longrope", 128), ("llama_dynamic", 128)])
def test_context_length_ends_with_the_frequency_regime(family, holds):
    config = {"max_position_embeddings": 128} if family == "llama_dynamic" else {}
    assert new_lm(LM, family, **config).context_length == holds


# Reading


def test_logits_behind_blocks_are_those_of_the_whole_text():
    lm = tiny_lm()
    ids, asked = ragged(lm)[0]
    with torch.no_grad():
        whole = lm.model(torch.tensor([ids])).logits[0, asked.injected :]
    assert torch.allclose(lm.logits(asked), whole, atol=1e-5)


def test_encoding_counts_from_the_first_injected_token():
    lm = tiny_lm()
    first, rest = block(lm, "The river ends"), tuple(lm.tokenize(" in the sea."))
    both = lm.encode(Context(rest, (first,)), 0, len(first) + len(rest))
    assert both.ids.tolist() == [*first.ids.tolist(), *rest]
    tail = lm.encode(Context(rest, (first,)), len(first) + 1, len(first) + 3)
    assert tail.ids.tolist() == list(rest[1:3])
    assert torch.allclose(
        tail.keys, block(lm, "The river ends in the sea.").slice(len(first) + 1, len(first) + 3).keys, atol=1e-5
    )
    with pytest.raises(ContextTooLong, match=r"0 new tokens are 5000"):
        lm.encode(Context((5,) * 5000), 0, 1)
    with pytest.raises(ContextTooLong, match=r"0 new tokens are 5000"):
        lm.logits(Context((5,) * 5000))


def test_a_shared_head_is_prefilled_once(monkeypatch):
    lm = new_lm(LM)
    ids = lm.tokenize("<s><|system|>\nBe brief.</s>\n")
    head = lm.head_block(ids)
    assert head.ids.tolist() == ids
    monkeypatch.setattr(lm, "encode", pytest.fail)
    assert lm.head_block(tuple(ids)) is head


def test_tokenize_reads_special_tokens_and_adds_none():
    assert tiny_lm().tokenize("<s>") == [1]
    assert tiny_lm().tokenize("") == []
    assert 1 not in tiny_lm().tokenize("Who?")


# Chats


def test_a_chat_goes_through_the_model_s_own_template():
    lm = tiny_lm()
    assert lm.chat([SYSTEM, USER], open_turn=False) == "<s><|system|>\nS</s>\n<|user|>\nU</s>\n"
    assert lm.chat([SYSTEM, USER], open_turn=True).endswith("<|user|>\nU</s>\n<|assistant|>\n")


def test_system_words_go_into_the_first_user_turn_where_the_template_has_no_place_for_them():
    lm = tiny_lm(template=NO_SYSTEM_CHAT)
    said = {"role": "assistant", "content": "A"}
    assert lm.chat([SYSTEM, USER, said], open_turn=False) == "<s><|user|>\nS\n\nU</s>\n<|assistant|>\nA</s>\n"
    assert lm.chat([USER], open_turn=True) == "<s><|user|>\nU</s>\n<|assistant|>\n"
    with pytest.raises(ConfigError, match="template of tiny-llama refuses a conversation: no system messages, please"):
        lm.chat([USER, SYSTEM], open_turn=True)
