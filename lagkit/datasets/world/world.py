"""The world: fictional entities and the facts about them, drawn anew for each seed; sentences that tell or ask them."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files

from lagkit.util.errors import ConfigError
from lagkit.util.plainyaml import load_yaml

NAMES_IN_POOL = 640
# How a name begins, goes on behind a vowel, and ends.
_SYLLABLES = (
    "B Br C D Dr F G Gr H J K L M N P Pr R S St T Tr V W Z",
    "l m n r rn ld v st nd rv",
    "a en is o um or eth ia",
)


@dataclass(frozen=True)
class Relation:
    """What can be said of an entity of one kind, in the wordings `says`, with `$s` and `$o` for subject and object.

    `kind` is that of the object; None for trivia, whose objects are `words` instead of entities.
    """

    name: str
    kind: str | None
    says: tuple[str, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """`subject`'s `relation` is `object`; `id` is the sub-question's, by which overlap is measured."""

    id: int
    subject: str
    relation: str
    object: str

    def sentence(self, wording: str) -> str:
        """The fact in one of its relation's wordings."""
        return wording.replace("$s", self.subject).replace("$o", self.object)


@dataclass(frozen=True)
class Language:
    """Kinds of entities with their shares of a hundred, relations by the subject's kind, and trivia of any kind."""

    kinds: Mapping[str, int]
    relations: Mapping[str, Mapping[str, Relation]]
    trivia: Mapping[str, Relation]

    @cached_property
    def by_name(self) -> dict[str, Relation]:
        """All relations that questions ask for; a name belongs to one kind of subject only."""
        return {name: relation for of_kind in self.relations.values() for name, relation in of_kind.items()}


@cache
def language() -> Language:
    """The testbed's language, from `relations.yaml`."""
    raw = load_yaml((files(__package__) / "relations.yaml").read_text(encoding="utf-8"), "relations.yaml")
    relations = {
        kind: {name: Relation(name, r["is"], (plain(name), *r["says"])) for name, r in of_kind.items()}
        for kind, of_kind in raw["relations"].items()
    }
    trivia = {name: Relation(name, None, tuple(r["says"]), tuple(r["is"])) for name, r in raw["trivia"].items()}
    return Language(raw["kinds"], relations, trivia)


def plain(relation: str) -> str:
    """The wording that the agent itself uses."""
    return f"$s's {relation} is $o."


@cache
def name_pool() -> tuple[str, ...]:
    """The names of all worlds: which entity bears which is drawn anew for each world, so nothing can be memorised."""
    rng = random.Random("names")
    starts, middles, ends = (part.split() for part in _SYLLABLES)
    names: dict[str, None] = {}
    while len(names) < NAMES_IN_POOL:
        names[rng.choice(starts) + rng.choice("aeiou") + rng.choice(middles) + rng.choice(ends)] = None
    return tuple(names)


@dataclass(frozen=True)
class World:
    """Entities (name -> kind) and what is true of them: one fact for each entity and each relation of its kind."""

    kinds: Mapping[str, str]
    facts: tuple[Fact, ...]

    @cached_property
    def of(self) -> dict[str, dict[str, Fact]]:
        """Facts by subject and relation."""
        found: dict[str, dict[str, Fact]] = {name: {} for name in self.kinds}
        for fact in self.facts:
            found[fact.subject][fact.relation] = fact
        return found

    def contradicted(self, share: float, seed: int) -> World:
        """The same world with that share of its facts changed, each to another object of the same kind."""
        rng = random.Random(f"contradicted {seed}")
        changed = rng.sample(range(len(self.facts)), round(share * len(self.facts)))
        others = _by_kind(self.kinds)
        facts = list(self.facts)
        for i in sorted(changed):
            avoid = {facts[i].subject, facts[i].object}
            choices = [name for name in others[self.kinds[facts[i].object]] if name not in avoid]
            facts[i] = replace(facts[i], object=rng.choice(choices))
        return World(self.kinds, tuple(facts))


def make_world(seed: int | str, entities: int = 400) -> World:
    """A world of `entities`, drawn by `seed`; raises ConfigError for more than the pool has names, or too few."""
    names, tongue = name_pool(), language()
    if not 3 * len(tongue.kinds) <= entities <= len(names):
        raise ConfigError(
            f"A world of {entities} entities cannot be made: it needs {3 * len(tongue.kinds)} (three of each kind) "
            f"and the pool has {len(names)} names."
        )
    rng = random.Random(f"world {seed}")
    extra = rng.choices(list(tongue.kinds), list(tongue.kinds.values()), k=entities - 3 * len(tongue.kinds))
    kinds = dict(zip(rng.sample(names, entities), [*tongue.kinds] * 3 + extra, strict=True))
    others = _by_kind(kinds)
    facts: list[Fact] = []
    for name, kind in kinds.items():
        for relation in tongue.relations[kind].values():
            choices = others[relation.kind or ""]
            target = name
            while target == name:
                target = rng.choice(choices)
            facts.append(Fact(len(facts), name, relation.name, target))
    return World(kinds, tuple(facts))


def _by_kind(kinds: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        found.setdefault(kind, []).append(name)
    return found


def tell(facts: Iterable[Fact], rng: random.Random, plainly: float = 0.0) -> str:
    """A passage: the facts in random order, each in one of its wordings; a share `plainly` of them in the first one."""
    facts = list(facts)
    rng.shuffle(facts)
    by_name = {**language().by_name, **language().trivia}
    says = [by_name[fact.relation].says for fact in facts]
    return " ".join(
        fact.sentence(wordings[0] if rng.random() < plainly else rng.choice(wordings))
        for fact, wordings in zip(facts, says, strict=True)
    )


def trivia(name: str, count: int, rng: random.Random) -> list[Fact]:
    """`count` facts about an entity that no question asks for."""
    chosen = rng.sample(list(language().trivia.values()), count)
    return [Fact(-1, name, relation.name, rng.choice(relation.words)) for relation in chosen]


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


def walk(
    world: World, hops: int, rng: random.Random, start: str | None = None, ways: Container[int] | None = None
) -> Chain:
    """A random chain of `hops` facts, fewer where it cannot go on, none of whose relations or entities comes twice.

    start: the entity to begin with, by default any. ways: ids of the facts to use, by default all.
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
