"""The first of the two tests that decide whether the method is done right, in fp32.

1. One log, encoded without context and laid at position 0: its KV gives the logits of its text in front of the prompt.
2. Keys that are un-rotated and rotated to position p are those of a prefill at p: see
   `test_rope.py::test_moved_keys_are_the_keys_prefilled_there`, for every family.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lagkit.agent.context import KVContextBuilder
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import Policy
from tests.helpers.lms import open_store, qa, short_prompt, tiny_lm, trace_of

LOG = trace_of(
    "Facts: the Danube runs through Vienna.\n<keywords>Danube mouth</keywords>",
    "Facts: the Danube flows into the Black Sea. Its naïve name is Istros.\n<ans>Black Sea</ans>",
    question="Into which sea does the river of Vienna flow?",
)
QUESTION = qa("Into which sea does the river flow that runs through Budapest?")
TURN = f"[1] Budapest: It lies on the Danube.\n\nQuestion: {QUESTION.text}"


def kv_and_text(lm: LM, folder: Path, keep: str, prompt: Prompt) -> tuple[Context, Context]:
    """The contexts of one question with one log, injected and in words, by the way that runs take."""
    with open_store(folder / "store", lm, LOG) as store:
        augmenters = (
            KVContextBuilder(lm, prompt, Policy(inject, keep, "kept", "front"), store) for inject in ("kv", "text")
        )
        return tuple(builder.context(QUESTION, TURN, [LOG.id]) for builder in augmenters)


def difference(lm: LM, kv: Context, text: Context) -> float:
    """Of the logits at the prompt's tokens, relative to their size."""
    found, expected = lm.logits(kv), lm.logits(text)[kv.injected :]
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    "family", ["llama", "llama_llama3", "qwen2", "qwen3", "mistral", "gemma3", "phi", "gpt_neox", "cohere"]
)
@pytest.mark.parametrize("keep", ["last_action", "last_round", "all_rounds"])
def test_injected_log_gives_the_logits_of_its_text_in_front(family, keep, tmp_path):
    lm = tiny_lm(family)
    kv, text = kv_and_text(lm, tmp_path, keep, short_prompt())
    assert kv.injected > 4
    assert kv.injected + len(kv.ids) == len(text.ids)
    assert text.injected == 0
    assert difference(lm, kv, text) <= 1e-5
    said, read = lm.generate([kv, text], 10)
    assert said.ids == read.ids


def test_the_comparison_sees_a_log_that_is_ignored_misplaced_or_another(tmp_path):
    lm = tiny_lm()
    kv, text = kv_and_text(lm, tmp_path, "last_round", short_prompt())
    [block] = kv.blocks
    other = lm.encode(Context(tuple(text.ids[1 : kv.injected + 1])), 0, kv.injected)
    misplaced = block.take(range(len(block) - 1, -1, -1))
    for wrong in (Context(kv.ids), Context(kv.ids, (misplaced,)), Context(kv.ids, (other,))):
        expected = lm.logits(text)[kv.injected :]
        assert (lm.logits(wrong) - expected).norm() / expected.norm() > 1e-2


@pytest.mark.slow
def test_injected_log_gives_the_logits_of_its_text_in_front_on_smollm2(tmp_path):
    lm = LM.load("smollm2", device="cpu", dtype="float32")
    kv, text = kv_and_text(lm, tmp_path, "all_rounds", Prompt.load("qa"))
    assert difference(lm, kv, text) <= 1e-5
    assert torch.equal(lm.logits(kv).argmax(-1), lm.logits(text)[kv.injected :].argmax(-1))
    said, read = lm.generate([kv, text], 12)
    assert said.text == read.text
