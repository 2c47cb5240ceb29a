"""Logs whose last round takes an earlier one to be understood: aliases that hold in one log, facts told nowhere else.

Three logs use the same alias, each for another entity, and say in their last round what holds of it. The question names
one of the entities. The passages from which the logs came are retired, so no search replaces the logs.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lagkit.datasets.world.world import Fact, World, ask, language, make_world, name_pool, plain, tell, trivia
from lagkit.types import Hop, Passage, Question, Round, Trace
from lagkit.util.errors import ConfigError

# Where a log says whom its alias stands for, seen from its last round, which says what is asked for. `restated`: the
# last round names the entity itself, so that its text suffices.
Rung = Literal["restated", "same_round", "one_back", "two_back"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
LOGS, ROUNDS, PASSAGES = 3, 3, 2  # of a question, of a log, and of what a question finds
SYSTEM = "Answer from the passages in <ans></ans>, or search for a missing fact in <keywords></keywords>."
_TRIES = 1000


@dataclass(frozen=True)
class Scoped:
    """Logs that share an alias: `entities` by log, `facts` by log and relation, and `others` that pad the rounds."""

    alias: str
    rung: Rung
    facts: tuple[tuple[Fact, ...], ...]
    others: tuple[tuple[Fact, ...], ...]

    @property
    def entities(self) -> tuple[str, ...]:
        """Whom the alias stands for in each log."""
        return tuple(own[0].subject for own in self.facts)

    def rounds(self, log: int) -> list[str]:
        """The responses of a log: each says only what is new."""
        facts, alias = self.facts[log], f"{self.alias} is {self.entities[log]}."
        name = self.entities[log] if self.rung == "restated" else self.alias
        last = [plain(fact.relation).replace("$s", name).replace("$o", fact.object) for fact in facts]
        rounds = [[fact.sentence(plain(fact.relation))] for fact in self.others[log]] + [last]
        back = {"restated": 2, "same_round": 0, "one_back": 1, "two_back": 2}[self.rung]
        at = len(rounds) - 1 - back
        rounds[at] = [alias, *last] if back == 0 else [alias]
        rounds[-1] = [*rounds[-1], f"<ans> {facts[-1].object}</ans>"]
        return [" ".join(said) for said in rounds]

    def trace(self, log: int) -> Trace:
        """A log as the run of an agent that read, in each round, a passage that is retired now."""
        fact, said = self.facts[log][-1], self.rounds(log)
        question = ask(self.alias, (fact.relation,))
        told = [text.partition(" <ans>")[0] for text in said]
        titles = [re.split(r"'| ", words)[0] for words in told]
        prompts = [f"[1] {title}: {words}\n\nQuestion: {question}" for title, words in zip(titles, told, strict=True)]
        rounds = tuple(Round(*parts) for parts in zip(prompts, said, [question, *said], strict=False))
        id = f"{self.rung}-{self.alias}-{fact.id}"
        return Trace(id, question, SYSTEM, rounds, fact.object, correct=True)


@dataclass(frozen=True)
class Item:
    """A question about the entity of log number `right`; `passages` are what it finds, and tell nothing of use."""

    scoped: Scoped
    right: int
    passages: tuple[Passage, ...]

    @property
    def question(self) -> Question:
        """The question; its hops are the facts of all three logs: questions that share one are not independent."""
        fact = self.scoped.facts[self.right][-1]
        told = [own[-1] for own in self.scoped.facts]
        hops = tuple(Hop(str(f.id), ask(f.subject, (f.relation,)), f.object) for f in told)
        return Question(f"{self.scoped.rung}-{fact.id}", ask(fact.subject, (fact.relation,)), (fact.object,), hops=hops)

    @property
    def logs(self) -> tuple[Trace, ...]:
        """The three logs, in the order in which they are shown."""
        return tuple(self.scoped.trace(log) for log in range(LOGS))

    @property
    def candidates(self) -> tuple[str, ...]:
        """What each of the logs says; the question's answer is number `right`."""
        return tuple(own[-1].object for own in self.scoped.facts)


def scope(world: World, rung: Rung, rng: random.Random, *, facts: int = 1) -> Scoped:
    """Three entities of a kind under one alias, with `facts` relations whose objects all differ; raises ConfigError."""
    names, unused = list(world.kinds), [name for name in name_pool() if name not in world.kinds]
    for _ in range(_TRIES if unused else 0):
        kind = world.kinds[rng.choice(names)]
        alike = [name for name in names if world.kinds[name] == kind]
        relations = list(language().relations[kind])
        if len(alike) < LOGS or len(relations) < facts:
            continue
        entities, chosen = rng.sample(alike, LOGS), rng.sample(relations, facts)
        told = tuple(tuple(world.of[name][relation] for relation in chosen) for name in entities)
        objects = [fact.object for own in told for fact in own]
        if len({*objects, *entities}) < LOGS * (facts + 1):
            continue
        apart = [fact for fact in world.facts if not {fact.subject, fact.object} & {*objects, *entities}]
        others = rng.sample(apart, LOGS * (ROUNDS - 1))
        padded = tuple(tuple(others[i::LOGS]) for i in range(LOGS))
        return Scoped(rng.choice(unused), rung, told, padded)
    raise ConfigError(
        f"This world of {len(names)} entities has no {LOGS} of a kind whose facts differ, or no name for an alias: ask "
        f"for more of them, and {len(name_pool()) - 1} at most."
    )


def items(seed: int, count: int, entities: int = 400) -> list[Item]:
    """`count` questions of each rung over one world, drawn by `seed`: rungs differ only in where the alias is told."""
    world, rng = make_world(seed, entities), random.Random(f"carry {seed}")
    drawn: dict[int, Item] = {}
    repeated = 0
    while len(drawn) < count:
        scoped = scope(world, RUNGS[0], rng)
        right = rng.randrange(LOGS)
        names = rng.sample(scoped.entities, PASSAGES)
        pages = [tell(trivia(name, 3, rng), rng) for name in names]
        id = scoped.facts[right][-1].id
        passages = tuple(Passage(f"{id}-{name.lower()}", name, page) for name, page in zip(names, pages, strict=True))
        repeated = repeated + 1 if id in drawn else 0
        drawn.setdefault(id, Item(scoped, right, passages))
        if repeated == _TRIES:
            raise ConfigError(f"This world of {entities} entities holds fewer than {count} questions: ask for fewer.")
    return [replace(item, scoped=replace(item.scoped, rung=rung)) for rung in RUNGS for item in drawn.values()]
