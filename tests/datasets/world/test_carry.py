"""The carry world: one answer is true, logs share an alias, and a last round alone tells nothing of the question."""

from __future__ import annotations

import json
import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.datasets.world import carry
from lagkit.datasets.world.carry import RUNGS, Item
from lagkit.datasets.world.controls import CarryControls, controls_of
from lagkit.datasets.world.dataset import write
from lagkit.datasets.world.world import make_world
from lagkit.types import Trace
from lagkit.util.errors import ConfigError

SEEDS = st.integers(0, 10_000)
CASES = settings(max_examples=15, deadline=None)


def understood(rounds: list[str], question: str) -> set[str]:
    """What a log answers to a question by its words alone: aliases resolved, then facts looked up."""
    said = re.sub(r" <ans>.*?</ans>", "", " ".join(rounds))
    sentences = re.findall(r"[^.]+\.", said)
    aliases = dict(re.fullmatch(r"(\w+) is (\w+)\.", s.strip()).groups() for s in sentences if "'s" not in s)
    facts = {}
    for subject, relation, target in re.findall(r"(\w+)'s (\w+) is (\w+)\.", said):
        facts[aliases.get(subject, subject), relation] = target
    entity, relation = re.fullmatch(r"\w+ is (\w+)'s (\w+)\?", question).groups()
    return {facts[entity, relation]} if (entity, relation) in facts else set()


def of_rung(items: list[Item], rung: str) -> list[Item]:
    return [item for item in items if item.scoped.rung == rung]


@CASES
@given(SEEDS)
def test_all_rounds_together_have_one_answer_and_it_is_the_right_logs(seed):
    for item in carry.items(seed, 3):
        told = [understood([r.response for r in log.rounds], item.question.text) for log in item.logs]
        expected = [{item.question.answers[0]} if i == item.right else set() for i in range(3)]
        assert told == expected, "the right log answers, and no other does"
        assert item.candidates[item.right] == item.question.answers[0]
        assert len({*item.candidates}) == 3


@CASES
@given(SEEDS)
def test_the_last_round_alone_tells_only_where_the_ladder_says_so(seed):
    for item in carry.items(seed, 3):
        last = [understood([log.rounds[-1].response], item.question.text) for log in item.logs]
        within = item.scoped.rung in ("restated", "same_round")
        assert any(last) == within
        named = [item.scoped.entities[item.right] in log.rounds[-1].response for log in item.logs]
        assert named == [within and i == item.right for i in range(3)]
        if not within:  # nothing but the object distinguishes the last rounds
            words = {log.rounds[-1].response.replace(log.answer, "?") for log in item.logs}
            assert len(words) == 1


@CASES
@given(SEEDS)
def test_distractors_use_the_same_alias_for_others(seed):
    for item in carry.items(seed, 3):
        assert len({log.question for log in item.logs}) == 1
        assert len({*item.scoped.entities}) == 3
        for log, entity in zip(item.logs, item.scoped.entities, strict=True):
            told = [i for i, r in enumerate(log.rounds) if f"{item.scoped.alias} is {entity}." in r.response]
            back = {"restated": 2, "same_round": 0, "one_back": 1, "two_back": 2}[item.scoped.rung]
            assert [len(log.rounds) - 1 - i for i in told] == [back]
        assert item.scoped.alias not in make_world(seed).kinds


@CASES
@given(SEEDS)
def test_no_passage_tells_and_each_round_says_what_is_new(seed):
    for item in carry.items(seed, 3):
        assert len(item.passages) == 2
        said = " ".join(passage.text for passage in item.passages)
        assert not any(name in said for name in (*item.candidates, item.scoped.alias))
        for log in item.logs:
            sentences = [s for r in log.rounds for s in re.findall(r"[^.>]+\.", r.response)]
            assert len(sentences) == len({*sentences})
            assert len(log.rounds) == 3


def test_rungs_differ_in_the_place_of_the_alias_alone():
    items = carry.items(5, 20)
    facts = [[(i.scoped.alias, i.scoped.facts, i.right, i.passages) for i in of_rung(items, r)] for r in RUNGS]
    assert facts[0] == facts[1] == facts[2] == facts[3]
    assert {n for _, n in Counter(i.question.id for i in items).items()} == {1}
    assert set(Counter(item.right for item in items)) == {0, 1, 2}
    assert carry.items(5, 20) == items
    assert carry.items(6, 20) != items


def test_a_world_that_is_too_small_is_refused():
    started = time.process_time()
    with pytest.raises(ConfigError, match="holds fewer than 500 questions"):
        carry.items(0, 500, entities=24)
    assert time.process_time() - started < 20
    with pytest.raises(ConfigError, match="639 at most"):
        carry.items(0, 1, entities=640)


def test_its_files_hold_questions_passages_and_logs_but_no_fact_that_is_asked(tmp_path):
    controls = CarryControls(mode="carry", unseen_questions=40, seed=3)
    folder = write(tmp_path, controls)
    dataset, logs = load_logs(folder)
    assert [q.text for q in dataset.unseen] == [item.question.text for item in carry.items(3, 10)]
    assert {log.question_id for log in logs} == {q.id for q in dataset.seen}
    answers = {q.id: q.answers[0] for q in dataset.seen}
    assert all(log.answer == answers[log.question_id] for log in logs)
    told = " ".join(passage.text for passage in dataset.passages)
    assert not any(re.search(rf"\b{q.answers[0]}\b", told) and "'s" in told for q in dataset.unseen)


def load_logs(folder):
    """The data set in a folder of files, and its logs."""
    from lagkit.datasets import loaders

    raw = json.loads((folder / "logs.json").read_text(encoding="utf-8"))
    return loaders.load(folder, "musique"), [Trace.from_dict(log) for log in raw]


@pytest.mark.parametrize("idle", [{"hops": (2,)}, {"distractors": 3}, {"overlap": {"all": 1.0}}, {"contradicted": 0.5}])
def test_controls_that_would_do_nothing_are_refused(idle):
    [name] = idle
    with pytest.raises(ConfigError, match="no mode 'plain': give mode=carry"):
        controls_of({"mode": "plain"})
    with pytest.raises(ConfigError, match="multiple of 4"):
        controls_of({"mode": "carry", "unseen_questions": 10})
    with pytest.raises(ConfigError, match=f"mode carry: {name}: Extra inputs are not permitted"):
        controls_of({"mode": "carry", **idle})
