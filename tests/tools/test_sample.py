"""The sample's own facts, and the questions that are composed from them."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from lagkit.datasets.loaders import load, overlaps
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from tools import sample
from tools.sample import Fact, Source, Writer, compose, mentions


@pytest.fixture(scope="module")
def source() -> Source:
    return Source.read(sample.FOLDER)


@pytest.fixture(scope="module")
def questions():
    return load(sample.FOLDER).questions


def tiny(*rows: str, texts: dict[str, str] | None = None) -> Source:
    """Facts written as `subject relation object`; each has a passage of its own that says no more."""
    facts = [Fact(i, *row.split(" "), passage=str(i)) for i, row in enumerate(rows, 1)]
    ask = {"ask": ["Whither {s}?", "What becomes of {s}?"], "noun": ["what {s} becomes", "the fate of {s}"]}
    said = {fact.passage: f"{fact.subject} {fact.object}." for fact in facts}
    return Source(facts, said | (texts or {}), {fact.relation: ask for fact in facts}, {})


# What is written by hand


def test_a_fact_has_one_answer_and_its_passage_names_it(source):
    asked = Counter((fact.subject, fact.relation) for fact in source.facts)
    assert [key for key, count in asked.items() if count > 1] == []
    assert [fact for fact in source.facts if not mentions(source.texts[fact.passage], [fact.object])] == []
    assert {fact.passage for fact in source.facts} == set(source.texts)


def test_a_passage_is_about_its_subjects_and_an_entity_is_written_in_one_way(source):
    titles = {passage.id: passage.title.removeprefix("The ").casefold() for passage in load(sample.FOLDER).passages}
    for fact in source.facts:
        title = titles[fact.passage]
        assert title in fact.subject.casefold() or fact.name.casefold() in title, fact
    spelled: dict[str, set[str]] = {}
    for fact in source.facts:
        spelled.setdefault(fact.name.casefold(), set()).add(fact.subject)
    assert {name: forms for name, forms in spelled.items() if len(forms) > 1} == {}


def test_the_wording_has_what_is_asked_for_and_nothing_else(source):
    assert {fact.relation for fact in source.facts} == set(source.relations)
    assert set(source.aliases) <= {fact.object for fact in source.facts}
    for relation, forms in source.relations.items():
        assert len(set(forms["ask"])) >= 2, relation
        assert all(form.count("{s}") == 1 and form.endswith("?") for form in forms["ask"]), relation
        assert all(form.count("{s}") == 1 for form in forms.get("noun", ())), relation


# What is composed


def test_the_committed_questions_are_those_that_the_tool_writes(tmp_path):
    folder = shutil.copytree(sample.FOLDER, tmp_path / "sample")
    for name in ("dev_train.json", "dev_test.json"):
        (folder / name).unlink()
    sample.main(folder)
    for path in sample.FOLDER.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), f"{path.name}: run python -m tools.sample"


def test_another_seed_draws_other_questions_of_the_same_sizes(source):
    first, other = (compose(source, seed) for seed in (sample.SEED, sample.SEED + 1))
    assert [len(part) for part in other] == [len(part) for part in first] == [150, 200]
    assert {r["id"] for r in first[0]} != {r["id"] for r in other[0]}


def test_each_stratum_has_fifty_questions_of_the_same_hops():
    data = load(sample.FOLDER)
    strata = Counter(
        (stratum, len(q.hops)) for stratum, q in zip(overlaps(data.seen, data.unseen), data.unseen, strict=True)
    )
    assert strata == {(s, hops): n for s in ("all", "final", "other", "none") for hops, n in ((2, 30), (3, 20))}
    assert Counter(len(q.hops) for q in data.seen) == {1: 30, 2: 80, 3: 40}


def test_half_of_those_that_share_all_steps_ask_for_a_logged_chain_in_other_words():
    data = load(sample.FOLDER)
    logged = {tuple(hop.id for hop in q.hops): q.text for q in data.seen}
    again = [q for q in data.unseen if tuple(hop.id for hop in q.hops) in logged]
    assert len(again) == 25
    assert {q.id for q in again} == {q.id for q in data.unseen if q.id.endswith("__again")}
    assert all(q.text != logged[tuple(hop.id for hop in q.hops)] for q in again)


def test_no_two_questions_are_equal_and_none_names_an_answer(source, questions):
    assert len({q.text.casefold() for q in questions}) == len(questions) == 350
    named = [q.text for q in questions if any(mentions(q.text, source.names(hop.answer)) for hop in q.hops)]
    assert named == []
    assert all(q.answers == source.names(q.hops[-1].answer) for q in questions)


def test_no_passage_of_an_earlier_step_gives_a_later_answer_away(source, questions):
    for q in questions:
        for i, hop in enumerate(q.hops):
            later = [
                other.answer for other in q.hops[i + 1 :] if mentions(source.texts[hop.passage_id], [other.answer])
            ]
            assert not mentions(source.texts[hop.passage_id], later), q.id


def test_questions_are_spread_over_relations_and_answers(source, questions):
    relation = {str(fact.id): fact.relation for fact in source.facts}
    last = Counter(relation[q.hops[-1].id] for q in questions)
    assert max(last.values()) <= 0.1 * len(questions), last.most_common(3)
    assert max(Counter(q.answers[0] for q in questions).values()) <= 0.03 * len(questions)


def test_the_first_passage_is_found_by_words_for_most_questions(questions):
    """Two passages a search, as agents have; with the embedder that only knows words."""
    embedder = HashEmbedder()
    index = PassageIndex(load(sample.FOLDER).passages, embedder)
    hits = index.search(embedder.queries([q.text for q in questions]), 2)
    found = [q.hops[0].passage_id in {hit.id for hit in row} for q, row in zip(questions, hits, strict=True)]
    assert sum(found) / len(found) > 0.75


# How it is composed


def test_a_chain_names_nothing_twice_and_gives_no_answer_away():
    source = tiny("Aa r Bb", "Bb r Cc", "Cc r Aa", "Cc r Dd")
    assert [[fact.id for fact in chain] for chain in source.chains] == [
        *([1], [2], [3], [4], [1, 2], [2, 3], [2, 4], [3, 1], [1, 2, 4])
    ]
    told = tiny("Aa r Bb", "Bb r Cc", "Cc r Dd", texts={"1": "Aa Bb, and Dd."})
    assert [[fact.id for fact in chain] for chain in told.chains if len(chain) > 1] == [[1, 2], [2, 3]]


def test_what_ends_with_a_verb_stands_at_the_end_of_the_question():
    source = tiny("Aa r Bb", "Bb r Cc", "Cc r Dd")
    writer = Writer(source, random.Random(0))
    texts = {writer._words(source.chains[-1]) for _ in range(99)}
    phrases = ("the fate of what Aa becomes", "the fate of the fate of Aa", "what the fate of Aa becomes")
    assert texts == {f"{ask} {phrase}?" for ask in ("Whither", "What becomes of") for phrase in phrases}


def test_a_question_that_cannot_be_asked_without_its_answer_is_not_asked():
    source = tiny("Aa r Bb")
    writer = Writer(replace(source, aliases={"Bb": ["becomes"]}), random.Random(0))
    assert writer.ask(source.chains[0]) == "Whither Aa?"
    with pytest.raises(ValueError, match=r"has no other words"):  # nor twice in the same ones
        writer.record(source.chains[0])


def test_too_few_facts_are_refused():
    with pytest.raises(ValueError, match="the facts make too few chains of 1: 30 are to be drawn"):
        compose(tiny("Aa r Bb", "Bb r Cc"))
