"""The testbed's world: what it holds, how it is told, and data sets with a chosen overlap."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.datasets import loaders as data
from lagkit.datasets.world import dataset
from lagkit.datasets.world.controls import Controls
from lagkit.datasets.world.dataset import follow, write
from lagkit.datasets.world.world import NAMES_IN_POOL, ask, language, make_world, name_pool, tell, trivia, walk
from lagkit.util.errors import ConfigError
from tools.testbed.rounds import respond

SMALL = {"entities": 90, "log_questions": 40, "unseen_questions": 40}
RELATIONS = language().by_name


def facts_in(text: str) -> set[tuple[str, str, str]]:
    """Facts told in a passage, read back from its sentences by all wordings."""
    found = set()
    for sentence in re.findall(r"[^.]+\.", text):
        for relation in RELATIONS.values():
            for wording in relation.says:
                pattern = re.escape(wording).replace(r"\$s", r"(\w+)").replace(r"\$o", r"(\w+)")
                if match := re.fullmatch(pattern, sentence.strip()):
                    found.add((match[1], relation.name, match[2]))
    return found


@given(st.integers(0, 10**6), st.integers(24, NAMES_IN_POOL))
@settings(max_examples=25, deadline=None)
def test_a_world_has_one_fact_for_each_entity_and_relation_of_its_kind(seed, entities):
    world = make_world(seed, entities)
    assert len(world.kinds) == entities
    assert [fact.id for fact in world.facts] == list(range(len(world.facts)))
    for name, kind in world.kinds.items():
        assert set(world.of[name]) == set(language().relations[kind])
    for fact in world.facts:
        assert world.kinds[fact.object] == RELATIONS[fact.relation].kind
        assert fact.object != fact.subject


def test_the_seed_decides_and_other_seeds_draw_names_and_facts_anew():
    first, again, other = make_world(1), make_world(1), make_world(2)
    assert first == again
    common = set(first.kinds) & set(other.kinds)
    same = sum(first.kinds[name] == other.kinds[name] for name in common)
    # Two independent draws agree on the kind with the sum of the squared shares, 0.155.
    assert 0.05 < same / len(common) < 0.27
    told = {(f.subject, f.relation, f.object) for f in first.facts}
    again_told = sum((f.subject, f.relation, f.object) in told for f in other.facts)
    assert again_told / len(other.facts) < 0.02


def test_the_language_has_three_wordings_of_each_relation_and_no_relation_of_two_kinds():
    names = [name for of_kind in language().relations.values() for name in of_kind]
    assert len(names) == len(set(names))
    assert all(len(of_kind) >= 3 for of_kind in language().relations.values())
    says = [wording for relation in RELATIONS.values() for wording in relation.says]
    assert len(says) == len(set(says)) == 3 * len(names)
    assert all(wording.index("$s") < wording.index("$o") for wording in says)
    assert sum(language().kinds.values()) == 100


def test_names_are_distinct_words_that_the_language_does_not_use():
    assert len(set(name_pool())) == NAMES_IN_POOL
    words = set(re.findall(r"\w+", " ".join(w for r in RELATIONS.values() for w in r.says).lower()))
    assert not words & {name.lower() for name in name_pool()}


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_passage_tells_its_facts_and_nothing_else(seed):
    world, rng = make_world(seed, 60), random.Random(seed)
    name = rng.choice(list(world.kinds))
    told = tell([*world.of[name].values(), *trivia(name, 1, rng)], rng)
    assert facts_in(told) == {(f.subject, f.relation, f.object) for f in world.of[name].values()}


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_chains_repeat_no_relation_and_no_entity(seed, hops):
    chain = walk(make_world(seed, 60), hops, random.Random(seed))
    entities = [chain.start, *(fact.object for fact in chain.facts)]
    assert len(set(entities)) == len(entities)
    assert len(set(chain.relations)) == len(chain.relations)
    assert [fact.subject for fact in chain.facts] == entities[:-1]


def test_a_question_reads_in_the_order_of_its_reasoning():
    assert ask("Velmo", ("director", "spouse")) == "Who is Velmo's director's spouse?"
    assert ask("Velmo", ("director", "birthplace")) == "What is Velmo's director's birthplace?"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, ("Velmo's director is unknown. <keywords> Velmo's director</keywords>", False)),
        (
            {("Velmo", "director"): "Lara"},
            ("Velmo's director is Lara. Lara's spouse is unknown. <keywords> Lara's spouse</keywords>", False),
        ),
        (
            {("Velmo", "director"): "Lara", ("Lara", "spouse"): "Nuva"},
            ("Velmo's director is Lara. Lara's spouse is Nuva. <ans> Nuva</ans>", True),
        ),
    ],
)
def test_a_faultless_agent_follows_the_chain_as_far_as_it_is_known(known, said):
    assert respond("Velmo", ("director", "spouse"), known) == said


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("world"), Controls(**SMALL))


def test_the_same_loader_reads_a_world(world_folder):
    world = data.load(world_folder, "musique")
    assert (len(world.seen), len(world.unseen), len(world.passages)) == (40, 40, 270)
    passages = {passage.id: passage for passage in world.passages}
    for question in (*world.seen, *world.unseen):
        entity = re.match(r"\w+ is (\w+)'s", question.text)[1]
        for i, hop in enumerate(question.hops):
            relation = re.search(r"'s (\w+)\?", hop.question)[1]
            assert hop.question == ask(entity if i == 0 else f"#{i}", (relation,))
            assert (entity, relation, hop.answer) in facts_in(passages[hop.passage_id].text)
            entity = hop.answer
        assert question.answers == (entity,)
        assert question.category == f"{len(question.hops)}hop"


def test_passages_hold_three_to_six_sentences(world_folder):
    counts = Counter(p.text.count(".") for p in data.load(world_folder, "musique").passages)
    assert set(counts) <= {3, 4, 5, 6}
    assert len(counts) >= 3


def test_the_same_controls_write_the_same_bytes(world_folder, tmp_path):
    dataset._texts.cache_clear()  # drawn anew
    again = write(tmp_path / "again", Controls(**SMALL))
    other = write(tmp_path / "other", Controls(**SMALL, seed=1))
    for file in ("dev_train.json", "dev_test.json", "dev_docs.json"):
        assert (again / file).read_bytes() == (world_folder / file).read_bytes()
        assert (other / file).read_bytes() != (world_folder / file).read_bytes()


@pytest.mark.parametrize(
    "shares", [{"all": 0.5, "none": 0.5}, {"all": 0.1, "final": 0.2, "other": 0.3, "none": 0.4}, {"final": 1.0}]
)
def test_overlap_is_as_asked(tmp_path, shares):
    world = data.load(write(tmp_path, Controls(**SMALL, hops=(2, 3), overlap=shares)), "musique")
    found = Counter(data.overlap(world.seen, question) for question in world.unseen)
    assert found == {stratum: round(40 * share) for stratum, share in shares.items()}
    assert not {q.id for q in world.seen} & {q.id for q in world.unseen}


def test_hops_passages_per_fact_and_distractors_are_as_asked(tmp_path):
    controls = Controls(**SMALL, hops=(2, 4), log_hops=(3,), passages_per_fact=2, distractors=3)
    world = data.load(write(tmp_path, controls), "musique")
    assert {len(q.hops) for q in world.seen} == {3}
    assert Counter(len(q.hops) for q in world.unseen) == {2: 20, 4: 20}
    told = Counter(fact for passage in world.passages for fact in facts_in(passage.text))
    assert set(told.values()) == {2}
    assert Counter(p.title for p in world.passages if not facts_in(p.text)) == dict.fromkeys(
        {p.title for p in world.passages}, 3
    )


def test_a_contradicted_world_asks_the_same_and_changes_that_share_of_the_facts(world_folder, tmp_path):
    world = data.load(world_folder, "musique")
    changed = data.load(write(tmp_path, Controls(**SMALL, contradicted=0.3)), "musique")
    assert [q.text for q in changed.unseen] == [q.text for q in world.unseen]
    before = {fact for p in world.passages for fact in facts_in(p.text)}
    after = {fact for p in changed.passages for fact in facts_in(p.text)}
    assert len(before) == len(after)
    assert len(after - before) / len(after) == pytest.approx(0.3, abs=0.01)
    other = [a.answers != b.answers for a, b in zip(world.unseen, changed.unseen, strict=True)]
    assert 0.3 < sum(other) / len(other) < 0.9


def test_following_a_chain_in_its_own_world_changes_nothing():
    world = make_world(3, 60)
    chain = walk(world, 4, random.Random(0))
    assert follow(world, chain) == chain


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"hops": [29]}, "29 hops are more than this language allows: no relation comes twice, so at most 28"),
        ({"log_hops": [0]}, "log_hops.0: Input should be greater than 0"),
        ({"overlap": {"all": 0.5}}, "the shares must be positive and add up to 1"),
        ({"overlap": {"some": 1.0}}, "overlap.some"),
        ({"contradicted": 1.5}, "less than or equal to 1"),
        ({"colour": 1}, r"keys are seed, entities"),
    ],
)
def test_impossible_controls_are_refused(controls, message):
    with pytest.raises(ConfigError, match=message):
        Controls.parse(controls)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"entities": 5000}, f"the pool has {NAMES_IN_POOL} names"),
        ({"entities": 10}, "needs 24"),
        (
            {"log_questions": 2, "unseen_questions": 50, "overlap": {"all": 1.0}},
            "too few .-hop questions that share 'all'",
        ),
        ({"hops": [1], "overlap": {"final": 1.0}}, "1-hop questions that share 'final'"),
        ({"entities": 24, "hops": [20]}, "too few 20-hop questions"),
    ],
)
def test_what_a_world_cannot_provide_is_named_and_nothing_is_written(tmp_path, controls, message):
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / "new", Controls.parse({**SMALL, **controls}))
    assert not (tmp_path / "new").exists()


def test_controls_are_kept_beside_the_data(world_folder):
    assert Controls.parse(json.loads((world_folder / "controls.json").read_text())) == Controls(**SMALL)
