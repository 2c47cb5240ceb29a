"""A test world as a data set: passages, a log-store split and an unseen split whose overlap with it is chosen."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lagkit.datasets import loaders as data
from lagkit.datasets.loaders import Dataset, Stratum, stratum_of
from lagkit.datasets.world import carry
from lagkit.datasets.world.controls import AnyControls, CarryControls, Controls
from lagkit.datasets.world.questions import Chain, ask, walk
from lagkit.datasets.world.world import Fact, World, language, make_world, tell, trivia
from lagkit.types import Hop
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.plainjson import read_json

MOST_FACTS = 6  # in one passage
CONTROLS, LAYOUT, LOGS = "controls.json", "musique", "logs.json"
_TRIES = 5000  # to find a question of a kind, before it is said that there is none


def write(folder: Path | str, controls: AnyControls) -> Path:
    """Write `dev_train.json`, `dev_test.json`, `dev_docs.json` (MuSiQue's shape) and `controls.json`; returns `folder`.

    In mode `carry`, the logs too: `logs.json`. The same controls write the same bytes. Raises ConfigError when the
    world cannot provide what is asked.
    """
    if isinstance(controls, CarryControls):
        return _write_carry(at(folder), controls)
    world = make_world(controls.seed, controls.entities)
    logged, unseen = draw(world, controls)
    if controls.contradicted:
        world = world.contradicted(controls.contradicted, controls.seed)
        logged, unseen = ([follow(world, chain) for chain in split] for split in (logged, unseen))
    passages, support = _passages(world, controls)
    folder = at(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dev_docs.json", passages)
    for name, split in (("dev_train", logged), ("dev_test", unseen)):
        write_json(folder / f"{name}.json", [_record(chain, support) for chain in split])
    # At last, since it says that all the rest is there.
    write_json(folder / CONTROLS, controls.model_dump(mode="json"))
    return folder


def _write_carry(folder: Path, controls: CarryControls) -> Path:
    """Write a world of mode `carry`; its logs are the answers to the questions of `dev_train.json`."""
    items = carry.items(controls.seed, controls.unseen_questions // len(carry.RUNGS), controls.entities)
    logs = {log.question_id: (log, hop) for i in items for log, hop in zip(i.logs, i.question.hops, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    passages = {p.id: {"title": p.title, "content": p.text} for item in items for p in item.passages}
    write_json(folder / "dev_docs.json", passages)
    asked = [_asked(log.question_id, log.question, hop.answer, [hop]) for log, hop in logs.values()]
    write_json(folder / "dev_train.json", asked)
    questions = [item.question for item in items]
    write_json(folder / "dev_test.json", [_asked(q.id, q.text, q.answers[0], q.hops) for q in questions])
    write_json(folder / LOGS, [log.to_dict() for log, _ in logs.values()])
    write_json(folder / CONTROLS, controls.model_dump(mode="json"))
    return folder


def _asked(id: str, question: str, answer: str, hops: Sequence[Hop]) -> dict[str, Any]:
    """A question in MuSiQue's shape, whose facts no passage tells."""
    steps = [{"id": int(hop.id), "question": hop.question, "answer": hop.answer} for hop in hops]
    return {
        "id": id,
        "question": question,
        "question_decomposition": steps,
        "answer": answer,
        "answer_aliases": [],
    }


def keep(folder: Path, controls: AnyControls) -> None:
    """Write a run's world, unless it is there."""
    if not (folder / CONTROLS).exists():
        write(folder, controls)


def load(folder: Path, controls: AnyControls) -> Dataset:
    """The world in a run's folder; where there is none, as `write` would write it, and nothing is written.

    Raises ConfigError where it is another world, and DataError where that cannot be told.
    """
    kept = folder / CONTROLS
    if not kept.exists():
        with TemporaryDirectory() as aside:
            return data.load(write(aside, controls), LAYOUT)
    try:
        same = read_json(kept, DataError) == controls.model_dump(mode="json")
    except DataError as error:
        raise DataError(f"{kept} is damaged ({error}): delete it, and the same world is drawn again.") from error
    if not same:
        raise ConfigError(f"{folder.parent} holds a run on another test world (see {kept}): choose another folder.")
    return data.load(folder, LAYOUT)


def draw(world: World, controls: Controls) -> tuple[list[Chain], list[Chain]]:
    """The log-store questions and the unseen ones, drawn by the seed; no question is in both.

    Raises ConfigError when the world does not hold enough questions of a kind.
    """
    drawing = _Drawing(world, random.Random(f"questions {controls.seed}"))
    for i in range(controls.log_questions):
        drawing.add(controls.log_hops[i % len(controls.log_hops)])
    logged = list(drawing.drawn)
    drawing.share(logged)
    for i, stratum in enumerate(_strata(controls)):
        hops = controls.hops[i % len(controls.hops)]
        if hops == 1 and stratum in ("final", "other"):  # of one hop, all or none are shared
            longer = [n for n in controls.hops if n > 1]
            hops = longer[i % len(longer)] if longer else hops
        drawing.add(hops, stratum)
    return logged, list(drawing.drawn)[len(logged) :]


class _Drawing:
    """Questions drawn without repetition."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.drawn: dict[Chain, None] = {}
        self.shared: set[int] = set()
        self.fresh = {fact.id for fact in world.facts}

    def share(self, chains: Iterable[Chain]) -> None:
        """From now on, overlap is that with `chains`."""
        self.shared = {fact.id for chain in chains for fact in chain.facts}
        self.fresh -= self.shared

    def add(self, hops: int, stratum: Stratum | None = None) -> None:
        """Draw one more; of any overlap if `stratum` is None."""
        ways = self.shared if stratum == "all" else self.fresh if stratum == "none" else None
        for _ in range(_TRIES):
            chain = walk(self.world, hops, self.rng, ways=ways)
            if len(chain.facts) == hops and chain not in self.drawn:
                hits = [fact.id in self.shared for fact in chain.facts]
                if stratum is None or stratum_of(hits) == stratum:
                    self.drawn[chain] = None
                    return
        sharing = f" that share {stratum!r} of their hops with the log-store questions" if stratum else ""
        raise ConfigError(
            f"This world of {len(self.world.kinds)} entities holds too few {hops}-hop questions{sharing}: no other was "
            f"found in {_TRIES} tries after {len(self.drawn)} questions. Ask for fewer, or for more entities."
        )


def _strata(controls: Controls) -> list[Stratum]:
    """A stratum for each unseen question, in random order; shares are met to within one question."""
    count = controls.unseen_questions
    strata: list[Stratum] = []
    reached = 0.0
    for stratum, share in controls.overlap.items():
        reached += share
        strata += [stratum] * (round(reached * count) - len(strata))
    random.Random(f"strata {controls.seed}").shuffle(strata)
    return strata


def follow(world: World, chain: Chain) -> Chain:
    """The same question in a world in which other things are true."""
    facts: list[Fact] = []
    entity = chain.start
    for relation in chain.relations:
        facts.append(world.of[entity][relation])
        entity = facts[-1].object
    return Chain(tuple(facts))


def _passages(world: World, controls: Controls) -> tuple[dict[str, dict[str, str]], dict[int, str]]:
    """The passages by id, in MuSiQue's shape, and for each fact's id a passage that tells it."""
    rng = random.Random(f"passages {controls.seed}")
    made: list[tuple[str, str, str]] = []
    for name, facts in world.of.items():
        for copy in range(controls.passages_per_fact):
            more = trivia(name, rng.randint(0, 1), rng) if len(facts) < MOST_FACTS else []
            made.append((f"{name.lower()}-{copy}", name, tell([*facts.values(), *more], rng)))
        for copy in range(controls.distractors):
            facts_of_no_use = trivia(name, rng.randint(3, len(language().trivia)), rng)
            made.append((f"{name.lower()}-trivia-{copy}", name, tell(facts_of_no_use, rng)))
    rng.shuffle(made)
    support = {fact.id: f"{fact.subject.lower()}-0" for fact in world.facts}
    return {id: {"title": title, "content": text} for id, title, text in made}, support


def _record(chain: Chain, support: Mapping[int, str]) -> dict[str, Any]:
    """A question in MuSiQue's shape."""
    steps = [
        {
            "id": fact.id,
            "question": ask(fact.subject if i == 0 else f"#{i}", (fact.relation,)),
            "answer": fact.object,
            "document_id": support[fact.id],
        }
        for i, fact in enumerate(chain.facts)
    ]
    return {
        "id": chain.id,
        "question": chain.text,
        "question_decomposition": steps,
        "answer": chain.answer,
        "answer_aliases": [],
    }
