"""Every control of a test world changes the world that a run draws."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from lagkit.datasets.loaders import overlaps
from lagkit.datasets.world.controls import CarryControls, Controls
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.types import Passage, Question
from tests.helpers.covered import Covered

shows = Covered()
SMALL = {"entities": 90, "log_questions": 12, "unseen_questions": 20}


class Drawn(NamedTuple):
    """The world of a run."""

    seen: tuple[Question, ...]
    unseen: tuple[Question, ...]
    passages: tuple[Passage, ...]


@cache
def _draw(controls: str) -> Drawn:
    with TemporaryDirectory() as folder:
        settings = {"out": Path(folder) / "out", "world": json.loads(controls)}
        found = Experiment(RunConfig.of("testbed", **settings)).data
    return Drawn(found.seen, found.unseen, found.passages)


def draw(**controls: Any) -> Drawn:
    """The world of these controls, in a run's folder."""
    return _draw(json.dumps({**SMALL, **controls}))


def hops(questions: tuple[Question, ...]) -> Counter[int]:
    return Counter(len(question.hops) for question in questions)


def test_no_control_is_without_a_test():
    assert set(shows.names) == set(Controls.model_fields) | set(CarryControls.model_fields)


@shows("seed")
def test_another_seed_is_another_world():
    assert not {p.text for p in draw().passages} & {p.text for p in draw(seed=1).passages}


@shows("entities")
def test_a_world_has_so_many_entities():
    assert [len({p.title for p in draw(entities=n).passages}) for n in (90, 120)] == [90, 120]


@shows("log_questions", "unseen_questions")
def test_a_world_has_so_many_questions():
    world = draw(log_questions=8, unseen_questions=10)
    assert (len(world.seen), len(world.unseen)) == (8, 10)


@shows("hops", "log_hops")
def test_questions_have_so_many_hops():
    assert (set(hops(draw().seen)), set(hops(draw().unseen))) == ({2, 3, 4}, {1, 2, 3, 4})
    world = draw(hops=[1, 2], log_hops=[2], log_questions=40)
    assert hops(world.seen) == {2: 40}
    assert set(hops(world.unseen)) == {1, 2}


@shows("passages_per_fact", "distractors")
def test_facts_are_told_in_so_many_passages_beside_those_of_no_use():
    assert [len(draw(**more).passages) for more in ({}, {"passages_per_fact": 2}, {"distractors": 0})] == [270, 360, 90]


@shows("overlap")
def test_unseen_questions_share_as_much_with_seen_ones_as_asked():
    before, after = (draw(), draw(overlap={"none": 0.5, "all": 0.5}))
    assert Counter(overlaps(before.seen, before.unseen)) == {"all": 14, "final": 2, "other": 2, "none": 2}
    assert Counter(overlaps(after.seen, after.unseen)) == {"all": 10, "none": 10}


@shows("contradicted")
def test_contradicted_facts_change_answers_of_the_same_questions():
    before, after = draw(), draw(contradicted=0.5)
    assert [question.text for question in before.seen] == [question.text for question in after.seen]
    same = [a.answers == b.answers for a, b in zip(before.seen, after.seen, strict=True)]
    assert not all(same)
    told = {p.id: p.text for p in before.passages}
    assert sum(told[p.id] != p.text for p in after.passages) > 0


@shows("mode")
def test_in_mode_carry_no_passage_tells_a_fact():
    plain, carry = draw(), _draw(json.dumps({"entities": 90, "unseen_questions": 20, "mode": "carry"}))
    assert any("'s" in p.text or "was" in p.text for p in plain.passages)
    answers = {q.answers[0] for q in carry.unseen}
    assert not any(answer in p.text for p in carry.passages for answer in answers - {p.title})
