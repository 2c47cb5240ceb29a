"""The committed model on a miniature of its world: it reads, notices what is missing, and reuse works."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from lagkit.agent.context import KVContextBuilder
from lagkit.agent.loop import Agent
from lagkit.datasets import loaders as data
from lagkit.datasets.world.controls import Controls
from lagkit.datasets.world.dataset import write
from lagkit.logs.encode import Encoder
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.logs.store import LogStore
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import AUTHORS, CONTROLS, POLICIES, Policy
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.types import Limits
from tools.testbed import quality

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "data" / "testbed" / "model"
SMALL = {"entities": 120, "log_questions": 24, "unseen_questions": 40}


@pytest.fixture(scope="module")
def lm():
    return LM.load(str(MODEL), dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # A seed that neither training nor the study uses.
    return write(tmp_path_factory.mktemp("world"), Controls(**SMALL, seed=7))


@pytest.fixture(scope="module")
def world(folder):
    return data.load(folder, "musique")


def test_the_model_is_small_and_comes_with_card_and_log(lm):
    size = sum(file.stat().st_size for file in MODEL.iterdir())
    assert size <= 16 * 2**20
    assert 2e6 <= lm.model.num_parameters() <= 8e6
    assert {"README.md", "log.csv", "model.safetensors", "tokenizer.json"} <= {file.name for file in MODEL.iterdir()}
    assert pd.read_csv(MODEL / "log.csv")["step"].is_monotonic_increasing


def test_given_all_passages_it_answers(lm, world):
    found = quality.given_all(lm, world).groupby("hops")["em"].mean()
    assert found[1] >= 0.9
    assert found.mean() >= 0.9


def test_without_passages_it_is_at_chance(lm, world):
    found = quality.given_none(lm, world)
    assert len(found) >= 30
    # Guessing among 640 names: two or more right of some forty have a probability below 0.002.
    assert found["em"].sum() <= 1


def test_without_passages_it_does_not_answer(lm, world):
    prompt = Prompt.of("qa", "short")
    context = KVContextBuilder(lm, prompt).context(world.unseen[0], prompt.user_turn(world.unseen[0], []), [])
    [said] = lm.generate([context], 40, stop=("</ans>", "</keywords>"))
    entity = world.unseen[0].text.split(" is ")[1].split("'s ")[0]
    assert f"<keywords> {entity}'s" in said.text


@pytest.fixture(scope="module")
def logged(lm, world, tmp_path_factory):
    """A store with the logs of the log-store split."""
    prompt, embedder = Prompt.of("qa", "short"), HashEmbedder()
    passages = PassageIndex(world.passages, embedder)
    agent = Agent(
        lm, prompt=prompt, embedder=embedder, passages=passages, limits=Limits(max_rounds=6, max_new_tokens=64)
    )
    path = tmp_path_factory.mktemp("logs") / "store"
    with LogStore.create(path, lm, embedder) as store:
        store.extend(agent.run(world.seen))
    with LogStore.open(path) as store:
        yield store


def test_kv_without_context_is_its_text_in_front(lm, world, logged):
    """The mechanism is exact on this model: one log encoded by itself at position 0 gives the logits of its text."""
    prompt = Prompt.of("qa", "short")
    turn = prompt.user_turn(world.unseen[0], world.passages[:2])
    for log in logged.ids[:8]:
        kv = KVContextBuilder(lm, prompt, Policy("kv", encode="kept"), logged).context(world.unseen[0], turn, [log])
        text = KVContextBuilder(lm, prompt, Policy("text"), logged).context(world.unseen[0], turn, [log])
        n = len(kv.ids)
        assert kv.injected > 0
        torch.testing.assert_close(lm.logits(kv), lm.logits(text)[-n:], atol=1e-4, rtol=0)


def test_a_log_in_front_answers_what_passages_do_not(lm, world, logged):
    """Asked again with passages of no use, the model reads its own right logs: as text, and as injected KV."""
    prompt, encoder = Prompt.of("qa", "short"), Encoder(lm, Prompt.of("qa", "short"))
    by_id = {question.id: question for question in world.seen}
    right = [t for t in map(logged.get, logged.ids) if t.answer in by_id[t.question_id].answers]
    assert len(right) >= 8
    for name in ("text_last_round", "kv_last_round", "kv_block"):
        policy = POLICIES[name]
        contexts = []
        for trace in right:
            question = by_id[trace.question_id]
            builder = KVContextBuilder(lm, prompt, policy, logged)
            gold = {hop.passage_id for hop in question.hops}
            useless = [passage for passage in world.passages if passage.id not in gold][:2]
            contexts.append(builder.context(question, prompt.user_turn(question, useless), [trace.id]))
        said = lm.generate(contexts, 64, stop=("</ans>", "</keywords>"))
        answered = [f"<ans> {t.answer}</ans>" in g.text for t, g in zip(right, said, strict=True)]
        assert sum(answered) / len(answered) >= 0.8, name
    assert encoder.key(POLICIES["kv_block"]) != encoder.key(POLICIES["kv_last_round"])


@pytest.mark.slow
def test_all_variants_run_and_reuse_saves_rounds(lm, folder, tmp_path):
    few = {"splits": ["unseen"], "unseen_questions": 12, "embedder": "hash"}
    config = RunConfig.of("testbed", data=str(folder), dataset="musique", out=str(tmp_path), **few)
    results = Experiment(config, lm=lm).run()
    assert set(results["policy"]) == set(POLICIES) - set(AUTHORS | CONTROLS)
    assert not results["failed"].any()
    rounds = results.groupby("policy")["rounds"].mean()
    assert rounds["kv_last_round"] < rounds["no_logs"]
    assert rounds["text_last_round"] < rounds["no_logs"]
