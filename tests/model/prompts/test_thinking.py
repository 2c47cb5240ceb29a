"""Models that think: what they reason is no action, ends no generation, and gives no answer when it does not end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lagkit.agent.loop import Agent
from lagkit.logs.encode import Encoder, kept_text
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import (
    REASONING,
    STOP_STRINGS,
    Action,
    answer_span,
    before_action,
    cut,
    last_action_span,
    parse,
    unclosed,
    without_reasoning,
    without_tags,
)
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import POLICIES, Policy
from lagkit.runs.answers import result_row
from lagkit.types import Limits, Question, Trace
from tests.helpers import templates
from tests.helpers.lms import (
    CHAT,
    ScriptedLM,
    new_lm,
    open_store,
    passages_about,
    qa,
    short_prompt,
    tokenizer,
    trace_of,
)

RIVER = qa("Which river?", "Bari")
LETTERS = Question("c", "Which is largest?", ("B",), "choice", ("one", "two"))
STOP = STOP_STRINGS["qa"]
REASONED = "Maybe <ans>Rome</ans>, as in <ans>(A)</ans>, or <keywords>Rome</keywords>."
MARKS = sorted(REASONING.items())


@pytest.mark.parametrize(("start", "end"), MARKS)
def test_a_section_of_reasoning_holds_no_action_wherever_it_stands(start, end):
    action = "So <ans>Bari</ans>"
    for response in (f"{start}{REASONED}{end}{action}", f"It is: {start}\n{REASONED}\n{end}\n\n{action}"):
        assert parse(response, "qa") == Action("answer", "Bari")
        assert response[slice(*answer_span(response))] == "Bari"
        assert response[slice(*last_action_span(response))] == "<ans>Bari</ans>"
        assert cut(f"{response} or <ans>Ulm</ans>", STOP) == response
        assert before_action(response) == response.removesuffix("<ans>Bari</ans>")
    asked = f"{start}{REASONED}{end} <keywords>sea</keywords>"
    assert parse(asked, "qa") == Action("search", "sea")
    assert parse(f"{start}{REASONED}{end} Which sea?", "qa") == Action("search", "Which sea?")


@pytest.mark.parametrize(("start", "end"), MARKS)
def test_reasoning_that_does_not_end_holds_no_answer(start, end):
    response = f"The question is: Which?\n{start}{REASONED}"
    assert parse(response, "qa") == Action("search", "The question is: Which?")
    assert (unclosed(response), answer_span(response), cut(response, STOP)) == (end, None, response)
    assert before_action(response) == response + end
    assert unclosed(f"{response}{end} So <ans>x</ans>") == ""


def test_reasoning_that_the_template_has_opened_ends_with_its_closing_mark():
    for end in ("</think>", "[/THINK]", "</seed:think>"):
        response = f"{REASONED} {end} So <ans>Bari</ans>"
        assert parse(response, "qa") == Action("answer", "Bari")
        assert without_reasoning(response) == "So <ans>Bari</ans>"
    nested = f"<think>a <think>{REASONED}</think> <ans>Ulm</ans> </think> <ans>Bari</ans>"
    assert parse(nested, "qa") == Action("answer", "Bari")


@pytest.mark.parametrize(
    ("response", "action"),
    [
        ("I must finish as in `<ans>(A)</ans>`.", None),
        ("I must finish as in `<ans>(A)</ans>`, so: <ans>(B)</ans>", "(B)"),
        ("`<ans>` and `</ans>` hold the answer: <ans>(B)</ans>", "(B)"),
        ("It goes inside <ans></ans>, such as (A). <ans>(B)</ans>", "(B)"),
        ("I do not use `<think>` here. <ans>(B)</ans>", "(B)"),
        # Nothing but the answer stands on the line: this is no quote.
        ("So:\n`<ans>(B)</ans>`", "(B)"),
        ("```\n<ans>(B)</ans>\n```", "(B)"),
        ("It`s <ans>(B)</ans>", "(B)"),
    ],
)
def test_what_a_sentence_quotes_in_backticks_is_no_action_and_ends_nothing(response, action):
    found = parse(response, "choice")
    assert (found.text if found.kind == "answer" else None) == action
    said = f"{response}\nand on"
    if action:
        assert parse(cut(said, ("</ans>",)), "choice") == Action("answer", action)
    else:
        assert cut(said, ("</ans>",)) == said


@pytest.mark.parametrize("name", ["qa", "qa_examples", "qa_short", "choice", "choice_examples"])
def test_a_reply_that_quotes_the_instructions_answers_nothing_and_goes_on(name):
    prompt = Prompt.load(name)
    for quoted in (prompt.system, f"`{prompt.system}`", *prompt.system.split("\n")):
        assert parse(quoted, prompt.kind).kind == "search"
        assert parse(quoted, prompt.kind).text == quoted.strip()
        reply = f"They say: {quoted}\nSo <ans>(B)</ans>"
        assert cut(f"{reply} <ans>(C)</ans>", STOP_STRINGS[prompt.kind]) == reply
        assert parse(reply, prompt.kind) == Action("answer", "(B)")


def test_a_question_that_spells_marks_of_reasoning_hides_no_answer():
    for mark in (*REASONING, *REASONING.values()):
        opening = without_tags(f"What does {mark} mean?")
        assert parse(f"{opening} It is <ans>Bari</ans>", "qa") == Action("answer", "Bari")


@given(
    st.lists(st.sampled_from([*REASONING, *REASONING.values(), "`", "<ans>", "</ans>", "a", " ", "\n"])).map("".join)
)
def test_whatever_is_put_together_from_marks_spans_and_actions_agree(response):
    action, span = parse(response, "qa"), answer_span(response)
    assert (action.kind == "answer") == (span is not None)
    if span is not None:
        assert action.text in without_reasoning(response)
    assert response.startswith(cut(response, STOP))


# Generation


class _Recites(torch.nn.Module):
    """In the place of a model's last layer: the tokens of a text, one after the other, then the end token."""

    def __init__(self, ids: list[int], end: int) -> None:
        super().__init__()
        self.ids = iter([*ids, end])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*hidden.shape[:2], 600)
        logits[..., next(self.ids)] = 30.0
        return logits


def reciting(text: str, template: str = CHAT) -> LM:
    """A model that says this text, whatever it reads."""
    lm = new_lm(LM, template=template)
    lm.model.lm_head = _Recites(lm.tokenize(text), lm.tokenizer.eos_token_id)
    return lm


def answered(lm: LM, question: Question = RIVER, **settings: object) -> Trace:
    limits = Limits(**{"max_rounds": 1, "max_new_tokens": 200, "passages": 1, **settings})
    embedder = HashEmbedder()
    passages = PassageIndex(passages_about("river"), embedder)
    agent = Agent(lm, prompt=short_prompt(question.kind), embedder=embedder, passages=passages, limits=limits)
    [trace] = agent.run([question])
    return trace


def test_a_stop_string_inside_reasoning_does_not_end_the_generation():
    said = f" <think>\n{REASONED} Hm, hm.\n</think>\n\nIt is <ans>Bari</ans>"
    trace = answered(reciting(f"{said} or <ans>Ulm</ans>"))
    assert (trace.answer, trace.error) == ("Bari", None)
    assert trace.rounds[0].turn == f"Re: Which river?{said}"
    assert trace.confidence == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("template", [templates.QWEN35, templates.DEEPSEEK_R1])
def test_nor_inside_reasoning_that_the_template_has_opened(template):
    said = f" {REASONED} Hm, hm.\n</think>\n\nIt is <ans>Bari</ans>"
    trace = answered(reciting(f"{said} or <ans>Ulm</ans>", template))
    assert (trace.answer, trace.error) == ("Bari", None)
    assert trace.rounds[0].turn == f"<think>\nRe: Which river?{said}"
    assert trace.rounds[0].response == said.strip()


@pytest.mark.parametrize(
    ("text", "template"),
    [(f" <think>{REASONED}", CHAT), (REASONED, templates.QWEN35), (REASONED, templates.DEEPSEEK_R1)],
)
def test_a_budget_that_reasoning_uses_up_is_an_error_and_no_abstention(text, template):
    lm = reciting(f"{text} " + "Hm, hm. " * 40, template)
    trace = answered(lm, max_new_tokens=60)
    assert trace.answer is None
    assert trace.error == (
        "ReasoningTooLong: question 'Which river?': the reasoning of tiny-llama did not end within 60 new tokens: "
        "raise max_new_tokens."
    )
    assert "Rome" in trace.rounds[0].response
    assert trace.usage.generated == 60
    row = result_row(RIVER, trace)
    assert (row["failed"], row["abstained"], row["em"]) == (True, False, 0.0)


def test_an_answer_is_forced_behind_the_reasoning_which_is_closed():
    for template, opened in ((CHAT, " <think>"), (templates.QWEN35, "")):
        lm = new_lm(ScriptedLM, template=template)
        said = f"{opened}Maybe <ans>Rome</ans>, hm"
        trace = answered(lm.play({RIVER.text: [said, "Bari</ans>"]}), force_answer=True)
        assert (trace.answer, trace.error) == ("Bari", None)
        first, forced = (words for _, words in lm.seen[RIVER.text])
        assert forced == f"{first}{said}</think><ans>"


# What comes of it later


def test_what_was_reasoned_is_not_shown_in_the_next_round_nor_searched_for():
    lm = new_lm(ScriptedLM)
    said = [f"<think>{REASONED}</think> Two beats one. <subquestion>Why?</subquestion>", "<ans>(B)</ans>"]
    trace = answered(lm.play({LETTERS.text: said}), LETTERS, max_rounds=2)
    assert trace.answer == "(B)"
    assert trace.rounds[1].query == "Why?"
    assert trace.rounds[1].prompt.startswith("So far:\nTwo beats one. <subquestion>Why?</subquestion>\nQuestion")
    assert trace.rounds[0].response == said[0]  # a trace keeps all that was said


def test_notes_are_shown_without_the_reasoning_behind_them(tmp_path):
    for template, opened in ((CHAT, "<think>"), (templates.QWEN35, "")):
        lm = new_lm(ScriptedLM, template=template)
        log = trace_of("River. <ans>Danube</ans>", question="Which river?")
        for notes, error in (("Rivers end.", None), (None, "ReasoningTooLong")):
            said = f"{opened}{REASONED}" + (f"</think>\n\n{notes}" if notes else "")
            lm.play({RIVER.text: ["<ans>Bari</ans>"]}, notes={RIVER.text: said})
            lm._question = lambda words: RIVER.text
            with open_store(tmp_path / f"{bool(opened)}{notes}", lm, log) as store:
                agent = Agent(
                    lm, prompt=short_prompt(), embedder=HashEmbedder(), policy=POLICIES["cheatsheet"], store=store,
                    passages=PassageIndex(passages_about("river"), HashEmbedder()), limits=Limits(max_rounds=1),
                )  # fmt: skip
                [trace] = agent.run([RIVER])
            if error:
                assert trace.error.startswith(error)
            else:
                assert trace.rounds[0].prompt.startswith(f"Notes:\n{notes}\n\n")


@pytest.mark.parametrize(("start", "end"), [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def test_logs_keep_the_last_action_outside_the_reasoning_even_where_marks_are_special_tokens(start, end):
    spoken = tokenizer()
    spoken.add_special_tokens({"additional_special_tokens": [start, end]})
    lm = new_lm(LM)
    lm.tokenizer = spoken
    log = trace_of(f"{start}Or <ans>Rome</ans> {end} It is so. <ans>Bari</ans> Sure. {start}<ans>Ulm</ans>")
    assert kept_text(log, "last_action") == "<ans>Bari</ans>"
    assert kept_text(log, "last_round") == log.rounds[0].response
    encoder = Encoder(lm, short_prompt())
    for encode in ("conversation", "responses", "kept"):
        reading = encoder.read(log, Policy("kv", "last_action", encode))
        kept = spoken.decode([reading.context.ids[slot - reading.context.injected] for slot in reading.kept])
        assert kept.strip() == "<ans>Bari</ans>"


def test_a_letter_of_the_reasoning_or_of_a_quote_is_scored_as_no_answer():
    for said, flexible in (
        ("<think>The answer is (B). <ans>(B)</ans></think> I give up.", 0.0),
        ("I must write as in `<ans>(B)</ans>`.", 0.0),
        ("<think>The answer is (A).</think> The answer is (B).", 1.0),
    ):
        trace = answered(new_lm(ScriptedLM).play({LETTERS.text: [said]}), LETTERS)
        row = result_row(LETTERS, trace)
        assert (trace.answer, row["abstained"], row["accuracy"]) == (None, True, 0.0)
        assert row["accuracy_flexible"] == flexible
