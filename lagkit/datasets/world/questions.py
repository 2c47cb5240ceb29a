"""Questions: chains of facts, asked in one sentence, and what an agent that reasons without fault says to them."""

from __future__ import annotations

import random
from collections.abc import Container, Mapping
from dataclasses import dataclass

from lagkit.datasets.world.world import Fact, World, language, plain

Known = Mapping[tuple[str, str], str]  # (subject, relation) -> object


@dataclass(frozen=True)
class Chain:
    """The gold reasoning of a question: each fact's object is the next one's subject; no relation comes twice."""

    facts: tuple[Fact, ...]

    @property
    def start(self) -> str:
        """The entity that the question names."""
        return self.facts[0].subject

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations in the order in which they are followed."""
        return tuple(fact.relation for fact in self.facts)

    @property
    def answer(self) -> str:
        """The last fact's object."""
        return self.facts[-1].object

    @property
    def id(self) -> str:
        """As MuSiQue names its questions: the number of hops and the sub-questions' ids."""
        return f"{len(self.facts)}hop__" + "_".join(str(fact.id) for fact in self.facts)

    @property
    def text(self) -> str:
        """The question."""
        return ask(self.start, self.relations)


def ask(start: str, relations: tuple[str, ...]) -> str:
    """A question in the order of its reasoning: "Who is Velmora's director's spouse?"."""
    person = language().by_name[relations[-1]].kind == "person"
    return f"{'Who' if person else 'What'} is " + "'s ".join([start, *relations]) + "?"


def respond(start: str, relations: tuple[str, ...], known: Known) -> tuple[str, bool]:
    """What a faultless agent says behind the restated question, and whether it answers: it follows the chain as far
    as it knows the facts, then answers, or names the first unknown fact and searches for it."""
    said, entity = [], start
    for relation in relations:
        target = known.get((entity, relation))
        wording = plain(relation).replace("$s", entity)
        if target is None:
            said += [wording.replace("$o", "unknown"), f"<keywords> {entity}'s {relation}</keywords>"]
            return " ".join(said), False
        said.append(wording.replace("$o", target))
        entity = target
    return " ".join([*said, f"<ans> {entity}</ans>"]), True


def walk(
    world: World, hops: int, rng: random.Random, start: str | None = None, ways: Container[int] | None = None
) -> Chain:
    """A random chain of at most `hops` facts, none of whose relations or entities comes twice.

    start: the entity to begin with, by default any. ways: ids of the facts to use, by default all. The chain is
    shorter where it cannot go on.
    """
    entity = start or rng.choice(list(world.kinds))
    facts: list[Fact] = []
    met, used = {entity}, set()
    for _ in range(hops):
        open_ways = [
            fact
            for fact in world.of[entity].values()
            if fact.relation not in used and fact.object not in met and (ways is None or fact.id in ways)
        ]
        if not open_ways:
            break
        facts.append(rng.choice(open_ways))
        used.add(facts[-1].relation)
        entity = facts[-1].object
        met.add(entity)
    return Chain(tuple(facts))
