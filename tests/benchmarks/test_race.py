"""The race with a miniature: both sides say the same, and what is measured of each is there; no speed is asserted."""

from __future__ import annotations

import json

import pytest

from benchmarks import race, workloads
from benchmarks.authors import Authors, dump
from benchmarks.workloads import Workload
from lagkit.agent.loop import Agent
from lagkit.logs.encode import Encoder
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.model.lm import LM
from lagkit.policy import POLICIES
from lagkit.types import Limits
from tests.helpers.lms import new_lm, open_store, passages_about, qa, short_prompt, trace_of


def test_the_authors_procedure_says_what_lagkit_says(tmp_path):
    """With a random model: long responses without tags, so that each is the next query."""
    lm, embedder, words = new_lm(LM), HashEmbedder(), [f"word{i}" for i in range(9)]
    logs = [trace_of(f"It is {word}. <ans>{word}</ans>", question=f"{word}?", id=word) for word in words]
    index, policy = PassageIndex(passages_about(*words), embedder), POLICIES["kv_last_round"]
    questions = [qa(f"Which of {word} and {i}?") for i, word in enumerate(words)]
    with open_store(tmp_path / "store", lm, *logs) as store:
        limits = Limits(max_rounds=3, max_new_tokens=9, batch_size=4)
        shared = {"embedder": embedder, "passages": index, "limits": limits}
        agent = Agent(lm, prompt=short_prompt(), policy=policy, store=store, **shared)
        ours = {t.question_id: [r.response for r in t.rounds] for t in agent.run(questions)}
        dump(store, Encoder(lm, short_prompt()).key(policy), tmp_path / "logs.pickle")
    sizes = {"rounds": 3, "k_passages": limits.passages, "k_logs": limits.logs, "new_tokens": 9}
    authors = Authors(lm, short_prompt(), embedder, index, tmp_path / "logs.pickle", **sizes)
    theirs = {id: responses for id, _, responses in authors.run(questions)}
    assert ours == theirs
    assert {len(responses) for responses in ours.values()} == {3}


def test_a_race_measures_both_sides_on_the_same_questions(tmp_path, monkeypatch):
    """On the testbed model in a small world; in a real race, in processes of their own."""
    settings = {"embedder": "hash-256", "max_new_tokens": 24, "max_rounds": 2}
    tiny = Workload("testbed", settings, 4, 4, (4, 12), warm=1)
    monkeypatch.setitem(workloads.WORKLOADS, "testbed", tiny)
    out = tmp_path / "race.json"

    monkeypatch.setattr(race, "_in_a_process", race.measure)
    race.main(["--workload", "testbed", "--repeats", "1", "--out", str(out)])
    sizes = json.loads(out.read_text())["workloads"]["testbed"]["sizes"]
    assert list(sizes) == ["4", "12"]
    for row in sizes.values():
        assert row["same_responses"] == row["same_answers"] == row["questions"] == 4
        assert row["speedup"] == pytest.approx(row["lagkit"]["questions_per_s"] / row["authors"]["questions_per_s"])
        assert {side: len(runs) for side, runs in row["runs"].items()} == {"lagkit": 2, "authors": 1}
        for side in race.SIDES:
            assert row[side]["peak_mb"] >= row[side]["before_mb"] > 0
            assert row[side]["start_s"] >= row[side]["open_s"] > 0
            assert row[side]["first_token_s"] > 0


def test_a_race_without_names_leaves_out_what_takes_most_of_an_hour(monkeypatch):
    raced = []
    monkeypatch.setattr(race, "race", lambda name, *_: raced.append(name))
    monkeypatch.setattr(race, "table", lambda name, _: name)
    race.main(["--data", "."])
    assert "long answers" in raced
    assert not any(name.startswith("qwen") for name in raced)
    race.main(["--workload", "qwen, short answers"])
    assert raced[-1] == "qwen, short answers"
