"""Prompts: templates filled in, worked examples, and the head that every question shares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.datasets.loaders import load as load_dataset
from lagkit.logs.encode import Encoder
from lagkit.model.prompts.actions import parse
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.types import Passage, Question
from lagkit.util.errors import ConfigError
from tests.helpers.lms import CHAT, FORGETFUL_CHAT, NO_SYSTEM_CHAT, SAMPLE, qa, short_prompt, tiny_lm

RESULTS = Path(__file__).parents[3] / "docs" / "results"
NAMES = ["qa", "qa_examples", "choice", "choice_examples"]
RIVER = qa("Where does the Vistula end?")
PASSAGES = [Passage("a", "Vistula", "It is long."), Passage("b", "Danube", "It is longer.")]
LETTERS = Question("c", "Which is largest?", ("B",), "choice", ("one", "three", "two"))


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_loads_and_names_its_kind(name):
    prompt = Prompt.load(name)
    assert (prompt.name, prompt.kind) == (name, name.split("_")[0])
    assert bool(prompt.examples) == name.endswith("_examples")
    assert "<ans>" in prompt.system


def test_an_unknown_prompt_is_refused_by_name():
    with pytest.raises(
        ConfigError, match="Unknown prompt 'qa_long': there are choice, choice_examples, choice_paper, qa, qa_e"
    ):
        Prompt.load("qa_long")


@pytest.mark.parametrize("notes", ["{shwon: $notes}", "$notes"])
def test_a_key_that_a_group_of_templates_does_not_have_is_refused(tmp_path, monkeypatch, notes):
    (tmp_path / "qa_wrong.yaml").write_text(f"kind: qa\nsystem: ''\nuser: $question\nnotes: {notes}\n")
    monkeypatch.setattr("lagkit.model.prompts.prompt.files", lambda _: tmp_path)
    with pytest.raises(ConfigError, match=r"Prompt qa_wrong\.yaml has a wrong key"):
        Prompt.load("qa_wrong")


def test_runs_that_were_committed_can_be_gone_on_with():
    for name in ("own", "wikihop", "mmlupro"):
        said = json.loads((RESULTS / "real" / name / "manifest.json").read_text(encoding="utf-8"))["prompt"]
        assert Prompt.load(said["name"]).hash == said["hash"]


def test_hash_tells_wordings_apart():
    hashes = {Prompt.load(name).hash for name in NAMES}
    assert len(hashes) == 4
    prompt = Prompt.load("qa")
    assert replace(prompt, opening=prompt.opening + ".").hash not in hashes
    assert replace(prompt).hash == prompt.hash


@pytest.mark.parametrize("name", ["qa_examples", "choice_examples"])
def test_worked_examples_show_whole_actions_and_both_kinds_of_them(name):
    prompt = Prompt.load(name)
    actions = [parse(raw["response"], prompt.kind) for raw in prompt.examples]
    assert {action.kind for action in actions} == {"answer", "search"}
    for raw, action in zip(prompt.examples, actions, strict=True):
        assert action.text != raw["response"]
        assert raw["response"].endswith((f"{action.text}</ans>", f"{action.text}</keywords>", "</subquestion>"))


def test_worked_answers_to_multiple_choice_are_letters_of_their_choices():
    for raw in Prompt.load("choice_examples").examples:
        action = parse(raw["response"], "choice")
        if action.kind == "answer":
            assert action.text in [f"({letter})" for letter in "ABCD"[: len(raw["choices"])]]


def test_user_turn_of_question_answering():
    turn = short_prompt().user_turn(RIVER, PASSAGES)
    assert turn == "[1] Vistula: It is long.\n[2] Danube: It is longer.\n\nQuestion: Where does the Vistula end?"
    assert short_prompt().user_turn(RIVER, []) == "Question: Where does the Vistula end?"


def test_notes_stand_in_front_of_the_passages():
    plain, noted = (short_prompt().user_turn(RIVER, PASSAGES, notes=notes) for notes in ("", "It ends in a sea."))
    assert noted == f"Notes:\nIt ends in a sea.\n\n{plain}"


def test_user_turn_of_multiple_choice_shows_letters_and_what_was_said_before():
    prompt = short_prompt("choice")
    first = prompt.user_turn(LETTERS, [])
    assert first == "Question: Which is largest?\n(A) one\n(B) three\n(C) two"
    assert prompt.user_turn(LETTERS, [], previous="Three beats two.") == f"So far:\nThree beats two.\n{first}"


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_shows_all_it_is_given(name):
    prompt = Prompt.load(name)
    asked = RIVER if prompt.kind == "qa" else LETTERS
    turn = prompt.user_turn(asked, PASSAGES, previous="PREVIOUS", notes="NOTES")
    assert turn.index("NOTES") < turn.index(asked.text)
    shown = ["Danube", "It is longer."] if prompt.kind == "qa" else ["(C) two", "PREVIOUS"]
    assert all(turn.count(words) == 1 for words in shown)


@pytest.mark.parametrize("name", ["qa", "qa_examples"])
def test_the_assistant_turn_opens_with_the_question(name):
    assert RIVER.text in Prompt.load(name).open_turn(RIVER)
    assert Prompt.load("choice").open_turn(LETTERS) == ""


def test_dollars_in_texts_are_left_alone():
    money = qa("What costs $question or $5?")
    prompt = short_prompt()
    turn = prompt.user_turn(money, [Passage("p", "$title", "$$ and ${text}")], notes="$notes")
    assert all(words in turn for words in ("What costs $question or $5?", "[1] $title: $$ and ${text}", "\n$notes\n"))
    assert "$5" in prompt.open_turn(money)
    assert "$1 $logs" in prompt.distil_turn(money, "$1 $logs")


def test_distilling_shows_logs_and_the_coming_question():
    turn = Prompt.load("qa").distil_turn(RIVER, "LOG ONE\n\nLOG TWO")
    assert turn.index("LOG ONE\n\nLOG TWO") < turn.index(RIVER.text)


def test_head_is_the_system_message_and_the_worked_turns():
    assert Prompt.load("qa").head() == [{"role": "system", "content": Prompt.load("qa").system}]
    prompt = Prompt.load("qa_examples")
    head = prompt.head()
    assert [m["role"] for m in head] == ["system"] + ["user", "assistant"] * len(prompt.examples)
    # Worked responses look as the model's own will: the opening, then what it adds.
    for message, raw in zip(head[2::2], prompt.examples, strict=True):
        assert message["content"] == f"{prompt.open_turn(qa(raw['question']))} {raw['response']}"


CHATS = {"chat": CHAT, "no_system": NO_SYSTEM_CHAT, "forgetful": FORGETFUL_CHAT, "none": None}


@pytest.mark.parametrize("template", CHATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_falls_into_a_shared_head_and_the_rest(name, template):
    lm, prompt = tiny_lm(template=CHATS[template]), Prompt.load(name)
    heads = set()
    for words in ("Who?", "<|user|>\n", ""):
        turns = [{"role": "user", "content": words}]
        head, rest = split_chat(lm, prompt.head(), turns)
        assert head + rest == lm.chat([*prompt.head(), *turns], open_turn=True)
        heads.add(head)
    [head] = heads
    assert head.startswith("<s>")
    if template == "no_system" and not prompt.examples:
        # The system message has moved into the first user turn, which no two questions share.
        assert head == "<s>"
    else:
        assert prompt.system in head
        assert all(raw["question"] in head for raw in prompt.examples)


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (CHAT, ("<s><|system|>\nS</s>\n", "<|user|>\nU</s>\n<|assistant|>\n")),
        (NO_SYSTEM_CHAT, ("<s>", "<|user|>\nS\n\nU</s>\n<|assistant|>\n")),
        (None, ("<s>system: S\n\n", "user: U\n\nassistant: ")),
    ],
    ids=["chat", "no_system", "none"],
)
def test_split_of_a_simple_chat_word_by_word(template, parts):
    head, turn = ([{"role": role, "content": word}] for role, word in (("system", "S"), ("user", "U")))
    assert split_chat(tiny_lm(template=template), head, turn) == parts


# As Llama 3's: the date in the system turn, which is the head's.
DATED_CHAT = "{{ bos_token }}{% set today = strftime_now('%d %b %Y') %}<|system|>\nToday Date: {{ today }}\n" + CHAT


def test_a_template_that_asks_for_the_date_gets_the_same_one_every_day(monkeypatch):
    lm, prompt = tiny_lm(template=DATED_CHAT), Prompt.load("qa")
    turn = [{"role": "user", "content": "Who?"}]
    heads = []
    for day in (3, 4):
        clock = SimpleNamespace(now=lambda day=day: datetime(2026, 11, day, 23, 59))
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", clock)
        heads.append((split_chat(lm, prompt.head(), turn), Encoder(lm, prompt).head_hash))
    assert heads[0] == heads[1]
    assert "Today Date: 26 Jul 2024\n" in heads[0][0][0]
    # It is part of what KV depends on, and stands in manifests and stores; of other models nothing changes.
    assert lm.fingerprint["date"] == "2024-07-26"
    assert "date" not in tiny_lm().fingerprint


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_head_does_not_depend_on_the_question(one, other):
    lm, prompt = tiny_lm(), Prompt.load("qa")
    turns = ([{"role": "user", "content": prompt.user_turn(qa(text), [])}] for text in (one, other))
    assert len({split_chat(lm, prompt.head(), turn)[0] for turn in turns}) == 1


def last_answers(name: str, ids: Sequence[str]) -> Counter[str]:
    """How often each form of action stands last in the heads of these questions."""
    prompt, forms = Prompt.load(name), Counter[str]()
    for id in ids:
        action = parse(prompt.for_question(id).head()[-1]["content"], prompt.kind)
        forms[action.text if prompt.kind == "choice" or action.text in ("yes", "no") else action.kind] += 1
    return forms


def test_no_form_of_answer_stands_last_by_chance_on_the_sample():
    data = load_dataset(SAMPLE, "musique")
    found = last_answers("qa_examples", [question.id for question in (*data.seen, *data.unseen)])
    assert set(found) == {"answer", "search", "yes", "no"}
    # With a fixed order all would end in `no`.
    assert max(found["yes"], found["no"]) <= 0.4 * found.total()
    many = last_answers("qa_examples", [f"2hop__{i}_{i + 7}" for i in range(1000)])
    assert {form: round(5 * n / 1000) for form, n in many.items()} == {"answer": 2, "search": 1, "yes": 1, "no": 1}


def test_each_letter_ends_the_worked_choices_alike():
    found = last_answers("choice_examples", [f"gpqa-{i}" for i in range(1000)])
    assert set(found) == {"(A)", "(B)", "(C)", "(D)"}
    assert all(200 < n < 300 for n in found.values())


def test_rotations_keep_rounds_of_one_task_together_and_in_order():
    prompt = Prompt.load("qa_examples")
    heads = [rotation.head() for rotation in prompt.rotations]
    assert len(heads) == 5
    assert heads[0] == prompt.head()
    for head in heads:
        assert sorted(map(str, head)) == sorted(map(str, prompt.head()))
        first = next(i for i, m in enumerate(head) if "Marta Ostby country of birth" in m["content"])
        assert "<ans>Denmark</ans>" in head[first + 2]["content"]
    assert {rotation.hash for rotation in Prompt.load("qa").rotations} == {Prompt.load("qa").hash}


@pytest.mark.parametrize("template", [CHAT, NO_SYSTEM_CHAT, None])
def test_the_published_prompt_is_one_user_turn_behind_bos(template):
    lm, prompt = tiny_lm(template=template), Prompt.load("qa_paper")
    assert prompt.head() == []
    turn = [{"role": "user", "content": prompt.user_turn(RIVER, PASSAGES)}]
    head, rest = split_chat(lm, prompt.head(), turn)
    assert (head, head + rest) == ("<s>", lm.chat(turn, open_turn=True))
    assert prompt.embedded(PASSAGES[0]) == "title: Vistula\ncontent: It is long."
    assert (prompt.stops, prompt.grouped, prompt.notes.tokens) == (False, True, 512)
