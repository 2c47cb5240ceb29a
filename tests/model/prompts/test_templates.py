"""Chat templates as real families have them: what they share between questions, or that they are refused by name."""

from __future__ import annotations

import pytest

from lagkit.agent.context import KVContextBuilder
from lagkit.agent.loop import Agent
from lagkit.logs.encode import Encoder
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt, split_chat
from lagkit.policy import POLICIES, Policy
from lagkit.util.errors import ConfigError
from tests.helpers import templates
from tests.helpers.lms import ScriptedLM, new_lm, open_store, passages_about, qa, short_prompt, tiny_lm, trace_of

EXAMPLES, ZERO_SHOT = Prompt.load("qa_examples"), Prompt.load("choice")
LAST = EXAMPLES.head()[-1]["content"]
CHATML_TURN = "<|im_start|>user\n"

# template: what the head ends with and the rest begins with, with worked examples and with a system message alone.
ENDS = {
    "QWEN3": [(f"{LAST}<|im_end|>\n", CHATML_TURN), (f"{ZERO_SHOT.system}<|im_end|>\n", CHATML_TURN)],
    "QWEN35": [(f"{LAST}<|im_end|>\n", CHATML_TURN), (f"{ZERO_SHOT.system}<|im_end|>\n", CHATML_TURN)],
    "DEEPSEEK_R1": [(f"{LAST}</s>", "<|User|>"), (f"<s>{ZERO_SHOT.system}", "<|User|>")],
    "LLAMA3": [(f"{LAST}</s>", "<|start|>user<|end_header|>"), (f"{ZERO_SHOT.system}</s>", "<|start|>user")],
    "GEMMA2": [(f"{LAST}<end_of_turn>\n", "<turn>user\n"), ("<s>", f"<turn>user\n{ZERO_SHOT.system}")],
    "GEMMA3": [(f"{LAST}<end_of_turn>\n", "<turn>user\n"), ("<s>", f"<turn>user\n{ZERO_SHOT.system}\n\n")],
    "MISTRAL": [(f"{LAST}</s>", f"[INST] {EXAMPLES.system}"), ("<s>", f"[INST] {ZERO_SHOT.system}\n\n")],
}


def lm_of(name: str) -> LM:
    return tiny_lm(template=getattr(templates, name))


@pytest.mark.parametrize("name", ENDS)
def test_the_head_ends_where_its_last_turn_does_and_is_the_same_for_all_questions(name):
    lm = lm_of(name)
    for prompt, (end, begin) in zip((EXAMPLES, ZERO_SHOT), ENDS[name], strict=True):
        heads = set()
        for words in ("Who?", "0", "", "</think> <think>", LAST):
            turns = [{"role": "user", "content": words}]
            head, rest = split_chat(lm, prompt.head(), turns)
            assert head + rest == lm.chat([*prompt.head(), *turns], open_turn=True)
            assert rest.startswith(begin)
            heads.add(head)
        [head] = heads
        assert head.endswith(end)
        assert "<think>" not in head
        for raw in prompt.examples:
            assert head.count(raw["response"]) == 1


@pytest.mark.parametrize("name", ENDS)
def test_the_whole_head_is_injected_and_logs_of_prefix_stand_right_behind_it(name, tmp_path):
    lm = new_lm(ScriptedLM, template=getattr(templates, name))
    head, rest = split_chat(lm, EXAMPLES.for_question("Who?").head(), [{"role": "user", "content": "Who?"}])
    assert len(lm.tokenize(head)) > 400
    with open_store(tmp_path, lm, trace_of("Rome. <ans>Rome</ans>")) as store:
        for policy, log in ((None, ""), (POLICIES["kv_last_round_prefix"], "Rome. <ans>Rome</ans>")):
            context = KVContextBuilder(lm, EXAMPLES, policy, store).context(
                qa("Who?"), "Who?", store.ids if policy else []
            )
            assert lm.read(context) == (head + log, f"{rest}{EXAMPLES.open_turn(qa('Who?'))}")


def test_a_conversation_in_which_the_template_drops_reasoning_is_refused_and_a_single_round_is_cut_where_it_stands():
    thinking = trace_of("<think>\nHm <ans>no</ans></think> It is <ans>Rome</ans>")
    for name in ("QWEN3", "QWEN35", "DEEPSEEK_R1"):
        encoder = Encoder(lm_of(name), short_prompt())
        reading = encoder.read(thinking, Policy("kv", keep="last_action", encode="conversation"))
        kept = encoder.lm.tokenizer.decode([reading.context.ids[i - reading.context.injected] for i in reading.kept])
        assert kept.strip() == "<ans>Rome</ans>"
        assert reading.text.count("<think>") == 1
        two = trace_of(thinking.rounds[0].response, "So <ans>Bari</ans>")
        with pytest.raises(ConfigError, match="rewrites earlier responses"):
            encoder.read(two, Policy("kv", encode="conversation"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (templates.BAFFLING, "does not show where the head of a prompt ends, which all questions share: give its tok"),
        ("{{ raise_exception('not today') }}", "chat template refuses a conversation of user and assistant: not today"),
    ],
)
def test_a_template_whose_head_cannot_be_told_is_refused_before_anything_is_computed(template, reason, monkeypatch):
    lm, embedder = new_lm(LM, template=template), HashEmbedder()
    passages = PassageIndex(passages_about("river"), embedder)
    monkeypatch.setattr(LM, "encode", pytest.fail)
    with pytest.raises(ConfigError, match=reason):
        Agent(lm, prompt=short_prompt(), embedder=embedder, passages=passages)


def test_a_template_that_writes_the_head_otherwise_for_a_question_fails_that_question_by_name():
    lm, embedder = new_lm(ScriptedLM, template=templates.MOODY), HashEmbedder()
    slow, quick = qa("Which river?"), qa("Be quick: which river?")
    agent = Agent(
        lm.play({slow.text: ["<ans>a</ans>"], quick.text: ["<ans>b</ans>"]}), prompt=short_prompt(), embedder=embedder,
        passages=PassageIndex(passages_about("river"), embedder),
    )  # fmt: skip
    traces = {trace.question_id: trace for trace in agent.run([slow, quick])}
    assert (traces[slow.id].answer, traces[slow.id].error) == ("a", None)
    assert traces[quick.id].error.endswith("tiny-llama writes the head of a prompt otherwise for some questions.")
