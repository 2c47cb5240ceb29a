"""Groups of competing logs from a data set's gold steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lagkit.datasets.loaders import Dataset
from lagkit.studies import competing
from lagkit.studies.competing import Condition
from lagkit.studies.competing_gold import groups
from lagkit.studies.competing_items import RIVALS
from lagkit.types import Hop, Question
from lagkit.util.errors import ConfigError, DataError
from tests.helpers.lms import tiny_lm


def question(n, first="director", second="place of birth", about=None):
    work, person, town = f"Film {n}", f"Person {n}", f"Town {n}"
    hops = (Hop(f"a{n}", f"{work} >> {first}", person), Hop(f"b{n}", f"{about or person} >> {second}", town))
    return Question(f"q{n:02d}", f"Where was the {first} of {work} born?", (town,), hops=hops)


def data_of(questions):
    return Dataset("made", "qa", tuple(questions[::2]), tuple(questions[1::2]), ())


def test_a_log_says_what_its_two_steps_say():
    [group, *_] = groups(data_of([question(n) for n in range(7)]))
    fact = group.facts[0]
    n = fact.work.removeprefix("Film ")
    assert fact.first == f"The director of Film {n} is Person {n}."
    assert fact.last("terse") == f"The place of birth of this director is Town {n}."
    assert fact.last("restating") == f"The place of birth of Person {n}, the director of Film {n}, is Town {n}."
    assert fact.question == f"What is the place of birth of Person {n}, the director of Film {n}?"
    assert (fact.opening, fact.answer) == (f"The place of birth of Person {n} is", f"Town {n}")


def test_groups_are_of_one_kind_share_no_name_and_are_the_same_for_every_count():
    mixed = [question(n, second=("spouse", "place of birth")[n % 2]) for n in range(14)]
    mixed += [replace(question(20), hops=question(0).hops)]  # the same log again
    found = groups(data_of(mixed))
    assert groups(data_of(mixed), 2) == found[:2]
    assert {group.facts[0].kind for group in found[:2]} == {"director, spouse", "director, place of birth"}
    works = [fact.work for group in found for fact in group.facts]
    assert len({*works}) == len(works) == RIVALS * len(found)
    assert not {group.id for group in groups(data_of(mixed), seed=1)} & {group.id for group in found}
    for group in found:
        assert len({fact.kind for fact in group.facts}) == 1
        assert group.stranger.work not in {fact.work for fact in group.facts}


@pytest.mark.parametrize(
    "other",
    [
        question(1, about="Somebody else"),  # no chain
        replace(question(1), hops=question(1).hops[:1]),
        replace(question(1), hops=(Hop("a", "Who made it?", "Person 1"), question(1).hops[1])),
    ],
)
def test_questions_whose_steps_are_no_chain_of_relations_are_left_out(other):
    plain = [question(n) for n in range(2, 8)]
    assert len(groups(data_of(plain))) == 2
    names = [fact.person for group in groups(data_of([*plain, other])) for fact in group.facts]
    assert "Person 1" not in names


def test_relations_that_are_no_nouns_make_no_logs():
    plain, odd = ([question(n, second=second) for n in range(9)] for second in ("place of birth", "educated at"))
    assert len(groups(data_of(plain))) == 3
    with pytest.raises(DataError, match="made has 0 groups"):
        groups(data_of(odd))


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match="made has 1 groups of 3 questions"):
        groups(data_of([question(n) for n in range(5)]))
    with pytest.raises(DataError, match=r"made has 2 groups .* 3 are needed"):
        groups(data_of([question(n) for n in range(6)]), 3)


def test_answers_of_several_tokens_are_compared_by_the_token(tmp_path):
    lm = tiny_lm()
    some = groups(data_of([question(n) for n in range(6)]))
    shown = [Condition("terse", "last_round", "own"), Condition("terse", "last_round", "same positions")]
    rows = competing.measure(lm, some, shown, tmp_path / "rows.jsonl")
    assert rows.groupby("reads")["logprob"].count().tolist() == [9 * len(some)] * 2
    assert set(rows["model"]) == {f"{lm.name}, made"}
    probe, condition = competing.Probe(lm, some[0]), Condition("terse", "last_round", "text")
    [shown, *_] = probe.shown(condition)
    context = probe._context(condition, shown.parts, some[0].facts[0])
    [found] = probe.logprobs(condition, [(shown.parts, some[0].facts[0])])
    for fact, logprob in zip(some[0].facts, found, strict=True):
        answer = lm.tokenize(f" {fact.answer}")
        assert len(answer) > 1
        whole = replace(context, ids=(*context.ids, *answer))
        logits = lm.logits(whole)[-len(answer) - 1 : -1].log_softmax(dim=-1)
        assert logprob == pytest.approx(float(logits[range(len(answer)), answer].mean()), abs=1e-4)


def test_groups_of_two_data_sets_are_not_measured_together(tmp_path):
    lm, some = tiny_lm(), groups(data_of([question(n) for n in range(6)]))
    with pytest.raises(ConfigError, match="of one data set"):
        competing.measure(lm, [some[0], replace(some[1], data="other")], [], tmp_path / "rows.jsonl")
