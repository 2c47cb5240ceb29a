"""The world: fictional entities, their relations and facts, drawn anew for each seed, and sentences that tell them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """What can be said of an entity of one kind; `says` are its wordings, with `$s` and `$o` for subject and object.

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
        """The same world with that share of its facts changed, each to another object of the same kind.

        Raises ConfigError for a share outside 0..1.
        """
        if not 0 <= share <= 1:
            raise ConfigError(f"The share of contradicted facts is {share}; it must lie between 0 and 1.")
        rng = random.Random(f"contradicted {seed}")
        changed = set(rng.sample(range(len(self.facts)), round(share * len(self.facts))))
        others = _by_kind(self.kinds)
        facts = []
        for i, fact in enumerate(self.facts):
            if i in changed:
                avoid = {fact.subject, fact.object}
                choices = [name for name in others[self.kinds[fact.object]] if name not in avoid]
                fact = Fact(fact.id, fact.subject, fact.relation, rng.choice(choices))
            facts.append(fact)
        return World(self.kinds, tuple(facts))


def make_world(seed: int | str, entities: int = 400) -> World:
    """A world of `entities`, drawn by `seed`.

    Raises ConfigError when the pool has too few names, or the world too few entities to relate them.
    """
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
