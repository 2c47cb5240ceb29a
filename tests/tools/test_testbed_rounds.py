"""What the testbed's model learns from: rounds whose replies are right by what stands in them, packed as trees."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.world.test_world import facts_in
from tools.testbed.packing import IGNORED, make_batch
from tools.testbed.rounds import Lesson, lessons
from tools.testbed.tokenizer import make_tokenizer
from tools.testbed.train import TrainConfig, new_model

TOKENIZER = make_tokenizer()
TINY = TrainConfig(hidden=32, layers=2, heads=2, inner=64)


def told_in(lesson: Lesson) -> dict[tuple[str, str], str]:
    """What a reader of the lesson's text knows: facts of its passages and of earlier work."""
    text = re.sub(
        r"<[^>]*>|\[\d+\] \w+:|Notes from earlier work:|[^.\n?]*\?", ". ", lesson.before + lesson.context
    ).replace("\n", " ")
    return {(s, r): o for s, r, o in facts_in(text) if o != "unknown"}


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_replies_say_what_stands_in_the_text_and_search_for_what_does_not(seed):
    for lesson in lessons(str(seed), TOKENIZER, stage="full", count=6):
        told = told_in(lesson)
        claims = {(s, r): o for s, r, o in facts_in(lesson.reply.split("?")[-1])}
        unknown = {key for key, value in claims.items() if value == "unknown"}
        assert all(told.get(key) == claims[key] for key in set(claims) - unknown)
        if lesson.kind == "search":
            [(subject, relation)] = unknown
            assert (subject, relation) not in told
            assert lesson.reply.endswith(f"<keywords> {subject}'s {relation}</keywords>")
        if lesson.kind == "answer":
            assert not unknown
            assert lesson.reply.endswith(f"{list(claims.values())[-1]}</ans>") or len(claims) == lesson.hops


def test_half_of_the_rounds_lack_a_fact_and_earlier_work_stands_in_all_places():
    drawn = [lesson for seed in range(150) for lesson in lessons(f"mix {seed}", TOKENIZER, stage="full", count=8)]
    kinds = Counter(lesson.kind for lesson in drawn)
    assert 0.35 < kinds["search"] / (kinds["search"] + kinds["answer"]) < 0.65
    places = Counter(
        "none"
        if not lesson.before and "Notes from earlier work" not in lesson.context
        else "user turn"
        if not lesson.before
        else "prefix"
        if lesson.before.startswith("<s>")
        else "front"
        for lesson in drawn
        if lesson.kind != "notes"
    )
    assert min(places.values()) / sum(places.values()) > 0.05
    assert set(places) == {"none", "front", "prefix", "user turn"}
    assert {lesson.hops for lesson in drawn if lesson.kind == "answer"} == {1, 2, 3, 4}


def test_easy_rounds_are_short_and_half_are_told_again():
    drawn = [lesson for seed in range(60) for lesson in lessons(f"easy {seed}", TOKENIZER, stage="easy", count=4)]
    assert {lesson.hops for lesson in drawn} == {1, 2}
    assert not any(lesson.before for lesson in drawn)
    scenes = [lessons(f"easy {seed}", TOKENIZER, stage="easy", count=1)[0].kind for seed in range(60)]
    assert 0.3 < Counter(scenes)["retelling"] / 60 < 0.7


def test_the_drill_tells_facts_again_that_subject_relation_or_both_tell_apart():
    shapes = set()
    for seed in range(100):
        for lesson in lessons(f"drill {seed}", TOKENIZER, stage="drill", count=1):
            told = facts_in(lesson.context.removeprefix("<s>"))
            assert sorted(told) == sorted(facts_in(lesson.reply))
            assert len({target for _, _, target in told}) == len(told) >= 2
        subjects, relations = len({s for s, _, _ in told}), len({r for _, r, _ in told})
        assert len(told) == subjects * relations
        shapes.add((subjects > 1, relations > 1))
    assert shapes == {(True, False), (False, True), (True, True)}


def test_the_seed_decides():
    assert lessons("a", TOKENIZER, stage="full", count=4) == lessons("a", TOKENIZER, stage="full", count=4)
    assert lessons("a", TOKENIZER, stage="full", count=4) != lessons("b", TOKENIZER, stage="full", count=4)


@pytest.fixture(scope="module", params=["drill", "full"])
def batch(request):
    return make_batch("test", TOKENIZER, rows=4, tokens=384, stage=request.param)


def test_a_branch_of_a_tree_reads_as_if_it_stood_alone(batch):
    """Each round in a packed row gives the logits that a plain forward pass over its own text gives."""
    model = new_model(TINY, TOKENIZER).eval()
    with torch.no_grad():
        packed = model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask()).logits
        for row, rounds in enumerate(batch.lessons):
            for i, lesson in enumerate(rounds, 1):
                mine = (batch.branch[row] == 0) | (batch.branch[row] == i)
                before, after = (
                    TOKENIZER(t, add_special_tokens=False)["input_ids"]
                    for t in (lesson.before, lesson.context + lesson.reply)
                )
                ids = [*before, *after, TOKENIZER.eos_token_id]
                assert batch.ids[row, mine].tolist() == ids
                alone = model(input_ids=torch.tensor([ids]), position_ids=batch.positions[row, mine][None]).logits[0]
                torch.testing.assert_close(packed[row, mine], alone, atol=1e-5, rtol=0)


def test_labels_are_the_next_tokens_of_replies_and_nothing_else(batch):
    for row, rounds in enumerate(batch.lessons):
        for i, lesson in enumerate(rounds, 1):
            labels = batch.labels[row, batch.branch[row] == i]
            said = TOKENIZER.decode(labels[labels != IGNORED].tolist())
            if lesson.kind == "retelling":
                assert said.split() == re.findall(r" is (\w+)\.", lesson.reply)
            else:
                assert said.strip() == f"{lesson.reply.strip()}<|end|>"
        assert (batch.labels[row, batch.branch[row] <= 0] == IGNORED).all()


def test_positions_follow_each_other_but_for_a_gap_behind_earlier_work(batch):
    gaps = []
    for row, rounds in enumerate(batch.lessons):
        for i in range(1, len(rounds) + 1):
            mine = (batch.branch[row] == 0) | (batch.branch[row] == i)
            steps = batch.positions[row, mine].diff()
            assert (steps >= 1).all()
            assert (steps > 1).sum() <= 1
            gaps.append(int(steps.max()))
        if not rounds[0].before:
            assert gaps[-1] == 1
    assert max(gaps) < 600
