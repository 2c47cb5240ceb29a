"""The loaders on the sample, and on the real data sets where they are at hand."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from lagkit.datasets.loaders import Dataset, hops, load, overlap
from lagkit.types import Hop, Question
from lagkit.util.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "data" / "sample"
DATASETS = Path(os.environ.get("LAGKIT_DATASETS") or REPOSITORY.parent / "shared" / "datasets")


def question(id: str, *hops: str) -> Question:
    return Question(id, "?", ("!",), hops=tuple(Hop(hop, "?", "!") for hop in hops))


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return load(SAMPLE)


@pytest.fixture(scope="module")
def real():
    """Load a real data set once, or skip: they are not part of the repository."""
    loaded: dict[str, Dataset] = {}

    def get(name: str) -> Dataset:
        if not (DATASETS / name).is_dir():
            pytest.skip(f"no {name} data at $LAGKIT_DATASETS ({DATASETS})")
        return loaded.setdefault(name, load(DATASETS / name))

    return get


# The sample


def test_sample_has_its_sizes(sample):
    assert (sample.name, sample.kind) == ("sample", "qa")
    assert (len(sample.seen), len(sample.unseen), len(sample.passages)) == (150, 200, 217)
    assert Counter(q.category for q in sample.questions) == {"1hop": 30, "2hop": 200, "3hop": 120}
    assert repr(sample) == "Dataset('sample', qa: 150 seen and 200 unseen questions, 217 passages)"
    assert "all 50, final 50, other 50, none 50" in sample._repr_html_()


def test_sample_passages_are_short_and_all_but_one_are_used(sample):
    words = [len(passage.text.split()) for passage in sample.passages]
    assert 40 <= min(words) <= max(words) <= 90
    assert all(passage.text.endswith(".") and passage.title for passage in sample.passages)
    used = {hop.passage_id for q in sample.questions for hop in q.hops}
    assert {passage.id for passage in sample.passages} - used == {"vermeer"}


def test_every_hop_of_the_sample_is_answered_by_its_passage(sample):
    passages = {passage.id: passage for passage in sample.passages}
    for q in sample.questions:
        for hop in q.hops:
            assert hop.answer in passages[hop.passage_id].text, (q.id, hop)
        assert q.hops[-1].answer == q.answers[0], q.id
        assert len({hop.passage_id for hop in q.hops}) == len(q.hops), q.id  # no hop for free
        # neither the final nor a bridging answer stands in the question
        assert not [hop.answer for hop in q.hops if hop.answer in q.text], q.id


def test_later_hops_of_the_sample_start_from_earlier_answers(sample):
    passages = {passage.id: passage for passage in sample.passages}
    for q in (*sample.seen, *sample.unseen):
        assert "#" not in q.hops[0].question
        for number, (before, hop) in enumerate(zip(q.hops, q.hops[1:], strict=False), 1):
            assert f"#{number}" in hop.question, q.id
            named = passages[hop.passage_id]
            assert before.answer in f"{named.title} {named.text}", (q.id, hop)


def test_sub_question_ids_of_the_sample_mean_the_same_everywhere(sample):
    meanings: dict[str, set[tuple[str, str, str | None]]] = {}
    for q in (*sample.seen, *sample.unseen):
        assert q.id.removesuffix("__again") == f"{len(q.hops)}hop__" + "_".join(hop.id for hop in q.hops)
        for i, hop in enumerate(q.hops):
            spelled_out = hop.question.replace(f"#{i}", q.hops[i - 1].answer) if i else hop.question
            spelled_out = spelled_out.replace("??", "?")  # a title that ends in one
            meanings.setdefault(hop.id, set()).add((spelled_out, hop.answer, hop.passage_id))
    assert {id: said for id, said in meanings.items() if len(said) > 1} == {}
    assert len({said for one in meanings.values() for said in one}) == len(meanings)  # nor two ids for one


def test_sample_shares_sub_questions_in_every_way(sample):
    strata = Counter(overlap(sample.seen, q) for q in sample.unseen)
    assert strata == {"all": 50, "final": 50, "other": 50, "none": 50}


def test_aliases_follow_the_answer(sample):
    rivers = [q.answers for q in sample.questions if q.hops[-1].answer == "Vistula"]
    assert rivers == [("Vistula", "River Vistula", "Vistula River", "Wisła")] * len(rivers) != []
    assert Hop("5", "Which river flows through #2?", "Vistula", "warsaw") in {q.hops[-1] for q in sample.questions}


# The real data sets (the counts are those that their own README states)


@pytest.mark.parametrize(
    ("name", "kind", "seen", "unseen", "passages"),
    [("wikihop", "qa", 264, 90, 6119), ("musique", "qa", 102, 48, 1255), ("mmlupro", "choice", 700, 300, 0)],
)
def test_real_sizes(real, name, kind, seen, unseen, passages):
    data = real(name)
    assert (data.kind, len(data.seen), len(data.unseen), len(data.passages)) == (kind, seen, unseen, passages)


def test_musique_overlap_and_answers(real):
    data = real("musique")
    strata = Counter(overlap(data.seen, q) for q in data.unseen)
    assert strata == {"all": 1, "final": 25, "other": 1, "none": 21}
    text = "\n".join(passage.text for passage in data.passages)  # lower-cased as it comes
    found = [sum(q.answers[0].lower() in text for q in split) for split in (data.seen, data.unseen)]
    assert found == [87, 38]
    assert data.unseen[1].answers == ("International Tennis Federation", "ITF")
    assert data.unseen[1].hops[1] == Hop("135481", "What is #1 named after?", "International Tennis Federation")


def test_wikihop_overlap_by_names(real):
    data = real("wikihop")
    strata = Counter(overlap(data.seen, q) for q in data.unseen)
    assert (strata["none"], strata.total()) == (81, 90)
    # a record without evidences_id has its hops all the same
    film = data.seen[1]
    assert film.category == "bridge_comparison"
    assert film.hops[2] == Hop(
        "fritz lang | date of birth | december 5, 1890", "Fritz Lang >> date of birth", "December 5, 1890", "Fritz Lang"
    )


def test_wikihop_gold_passages_name_their_subject(real):
    data = real("wikihop")
    ids = {passage.id for passage in data.passages}
    hops = [hop for q in (*data.seen, *data.unseen) for hop in q.hops]
    assert len(hops) == 883
    assert {hop.passage_id for hop in hops} <= ids  # each hop has one
    same = sum(hop.question.split(" >> ")[0] == hop.passage_id for hop in hops)
    assert same == 775  # the rest are spelled otherwise: "Sigrid Svantesdotter Sture" stands in "Sigrid Sture"


def test_mmlupro_options_keep_their_order(real):
    seen = real("mmlupro").seen
    for record, q in zip(json.loads((DATASETS / "mmlupro" / "dev_train.json").read_text()), seen, strict=True):
        assert q.choices == tuple(option.strip() for option in record["options"])
        assert "ABCDEFGHIJ".index(q.answers[0]) == record["answer_index"]
        assert (q.hops, q.category) == ((), record["category"])


def test_no_option_of_mmlupro_is_marked_by_white_space(real):
    """In the files 37 options have it alone of their question's, and each is the right one."""
    questions = [q for split in (real("mmlupro").seen, real("mmlupro").unseen) for q in split]
    files = [DATASETS / "mmlupro" / f"dev_{split}.json" for split in ("train", "test")]
    records = [record for file in files for record in json.loads(file.read_text())]
    alone = [[i for i, option in enumerate(r["options"]) if option != option.strip()] for r in records]
    assert [i == [r["answer_index"]] for i, r in zip(alone, records, strict=True) if len(i) == 1] == [True] * 37
    assert not [q.id for q in questions for text in (q.text, *q.choices) if text != text.strip()]


@pytest.mark.parametrize("name", ["musique", "wikihop"])
def test_no_text_of_the_real_sets_has_outer_white_space(real, name):
    data = real(name)
    texts = [text for p in data.passages for text in (p.title, p.text)]
    texts += [text for q in (*data.seen, *data.unseen) for text in (q.text, *q.answers)]
    texts += [text for q in (*data.seen, *data.unseen) for hop in q.hops for text in (hop.question, hop.answer)]
    assert not [text for text in texts if text != text.strip()]


def test_hops_of_real_questions(real):
    shared = Counter(hop for own in hops(real("musique").unseen).values() for hop in own)
    assert sum(count > 1 for count in shared.values()) == 10
    assert set(hops(real("mmlupro").unseen).values()) == {()}


# Splits, samples, strata and hops


def test_split_and_sample_are_seeded_nested_and_in_file_order(sample):
    assert sample.split("unseen") == sample.unseen
    assert sample.sample("seen", None, seed=3) == sample.seen
    ten, fifteen = (sample.sample("seen", n, seed=3) for n in (10, 15))
    assert (len(ten), len(fifteen)) == (10, 15)
    assert set(ten) < set(fifteen)
    assert list(ten) == [q for q in sample.seen if q in ten]
    assert sample.sample("seen", 10, seed=3) == ten != sample.sample("seen", 10, seed=4)


def test_too_large_a_sample_and_an_unknown_split_are_refused(sample):
    with pytest.raises(ConfigError, match="cannot draw 201 questions: sample has 200 unseen ones"):
        sample.sample("unseen", 201, seed=0)
    with pytest.raises(ConfigError, match="no split 'test': choose 'seen' or 'unseen'"):
        sample.split("test")


def test_overlap_strata():
    seen = [question("s1", "a", "b"), question("s2", "c")]
    expected = {("a", "c"): "all", ("x", "b"): "final", ("b", "x"): "other", ("x", "y"): "none", (): "none"}
    assert {hops: overlap(seen, question("q", *hops)) for hops in expected} == expected


def test_hops_are_named_by_question():
    assert hops([question("p", "a", "b"), question("q")]) == {"p": ("a", "b"), "q": ()}
