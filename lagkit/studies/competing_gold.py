"""Groups of competing logs from a data set's gold steps: the real two-hop questions that lead on, one to the other."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

from lagkit.datasets.loaders import Dataset
from lagkit.studies.competing_items import RIVALS, Fact, Group, Kind
from lagkit.types import Question
from lagkit.util.errors import ConfigError, DataError

_STEP = " >> "  # between what a gold step is about and its relation


def check(model: str, data: str) -> None:
    """Raise ConfigError where real logs are asked for and no model that should read them."""
    if data and not model:
        raise ConfigError("`data` makes logs for a `model` to read: give both, or neither.")


def groups(data: Dataset, count: int | None = None, seed: int = 0) -> list[Group]:
    """Groups of three logs that tell the same two relations, of other entities; the first ones are the same always.

    Of questions with two gold steps, `work >> relation` and `its answer >> relation`. No work, person or answer comes
    twice. Raises DataError where the data set has no such groups, or fewer than `count`.
    """
    kinds = defaultdict[str, list[Fact]](list)
    for question in sorted(data.questions, key=lambda question: question.id):
        if fact := _fact(question):
            kinds[fact.kind].append(fact)
    rng, taken = random.Random(f"competing {seed}"), set[str]()
    cut = [_cut(rng.sample(facts, len(facts)), taken) for _, facts in sorted(kinds.items())]
    found = [facts for facts in chain.from_iterable(zip_longest(*cut)) if facts]
    if len(found) < max(count or 0, 2):
        raise DataError(
            f"{data.name} has {len(found)} groups of {RIVALS} questions with the same two relations as gold steps (as "
            f"2Wiki's `Film >> director`), and {max(count or 0, 2)} are needed: give other data, or a smaller number."
        )
    # Whose first round is read instead of a log's own: one of the next group's, which shares nothing with it.
    strangers = [facts[0] for facts in (*found[1:], found[0])]
    made = [
        # The digest tells groups apart that were drawn with one seed from two folders of one name.
        Group(f"{seed}-{number:03d}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}", facts, stranger, data.name)
        for number, (facts, stranger) in enumerate(zip(found, strangers, strict=True))
    ]
    return made[:count]


def _fact(question: Question) -> Fact | None:
    """The log of a question whose two steps are relations, of which the second is about the first one's answer."""
    if len(question.hops) != 2:
        return None
    (work, _, role), (_, found, says) = (hop.question.partition(_STEP) for hop in question.hops)
    person, answer = (hop.answer for hop in question.hops)
    about = question.hops[1].question.split(_STEP)[0]
    follows = about == "#1" or about.casefold() in person.casefold()
    if not (role and found and follows) or answer in (work, person) or _is_no_noun(role) or _is_no_noun(says):
        return None
    kind = Kind(f"{role}, {says}", role, f"The {says} of {{}} is", f"What is the {says} of {{}}?")
    return kind.fact(work, person, answer)


def _is_no_noun(relation: str) -> bool:
    """Whether a relation, such as `educated at`, does not go between `the` and `of`."""
    return relation.split()[-1] in ("at", "by", "in", "of", "to", "with")


def _cut(facts: Sequence[Fact], taken: set[str]) -> list[tuple[Fact, ...]]:
    """Groups of one kind; `taken`: names that came before, which this adds to."""
    fresh = []
    for fact in facts:
        names = {fact.work, fact.person, fact.answer}
        if not names & taken:
            taken |= names
            fresh.append(fact)
    return [tuple(fresh[start : start + RIVALS]) for start in range(0, len(fresh) - RIVALS + 1, RIVALS)]
