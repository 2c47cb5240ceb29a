"""A test world as a data set: passages, a log-store split and an unseen split whose overlap with it is chosen."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lagkit.datasets import loaders as data
from lagkit.datasets.loaders import Dataset, Stratum, stratum_of
from lagkit.datasets.world import carry
from lagkit.datasets.world.controls import AnyControls, CarryControls, Controls, controls_of
from lagkit.datasets.world.world import Chain, Fact, World, ask, language, make_world, tell, trivia, walk
from lagkit.types import Hop
from lagkit.util import files
from lagkit.util.errors import ConfigError, DataError
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
    texts, folder = _texts(controls.model_dump_json()), at(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        files.write(folder / name, text)
    return folder


@lru_cache(maxsize=2)  # a run reads its world before it keeps it
def _texts(told: str) -> dict[str, str]:
    """The files of a world by its controls; these at last, since they say that all the rest is there."""
    controls = controls_of(json.loads(told))
    drawn = _carried(controls) if isinstance(controls, CarryControls) else _drawn(controls)
    held = {**drawn, CONTROLS: controls.model_dump(mode="json")}
    return {name: files.as_json(content) for name, content in held.items()}


def _drawn(controls: Controls) -> dict[str, Any]:
    """The files of a plain world."""
    world = make_world(controls.seed, controls.entities)
    logged, unseen = draw(world, controls)
    if controls.contradicted:
        world = world.contradicted(controls.contradicted, controls.seed)
        logged, unseen = ([follow(world, chain) for chain in split] for split in (logged, unseen))
    told = {fact.id: f"{fact.subject.lower()}-0" for fact in world.facts}  # a passage that tells it

    def record(chain: Chain) -> dict[str, Any]:
        questions = [ask(fact.subject if i == 0 else f"#{i}", (fact.relation,)) for i, fact in enumerate(chain.facts)]
        steps = [
            {"id": fact.id, "question": question, "answer": fact.object, "document_id": told[fact.id]}
            for fact, question in zip(chain.facts, questions, strict=True)
        ]
        return _record(chain.id, chain.text, steps, chain.answer)

    splits = {"dev_train.json": logged, "dev_test.json": unseen}
    records = {name: [record(chain) for chain in split] for name, split in splits.items()}
    return {"dev_docs.json": _passages(world, controls), **records}


def _carried(controls: CarryControls) -> dict[str, Any]:
    """The files of a world of mode `carry`; its logs are the answers to the questions of `dev_train.json`."""
    items = carry.items(controls.seed, controls.unseen_questions // len(carry.RUNGS), controls.entities)
    logs = {log.question_id: (log, hop) for i in items for log, hop in zip(i.logs, i.question.hops, strict=True)}

    def record(id: str, question: str, answer: str, hops: Sequence[Hop]) -> dict[str, Any]:
        steps = [{"id": int(hop.id), "question": hop.question, "answer": hop.answer} for hop in hops]
        return _record(id, question, steps, answer)

    return {
        "dev_docs.json": {p.id: {"title": p.title, "content": p.text} for item in items for p in item.passages},
        "dev_train.json": [record(log.question_id, log.question, hop.answer, [hop]) for log, hop in logs.values()],
        "dev_test.json": [record(q.id, q.text, q.answers[0], q.hops) for q in (item.question for item in items)],
        LOGS: [log.to_dict() for log, _ in logs.values()],
    }


def _record(id: str, question: str, steps: Sequence[Mapping[str, Any]], answer: str) -> dict[str, Any]:
    """A question in MuSiQue's shape."""
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
    """The log-store questions and the unseen ones, drawn by the seed; raises ConfigError where there are too few."""
    drawing = _Drawing(world, random.Random(f"questions {controls.seed}"))
    for i in range(controls.log_questions):
        drawing.add(controls.log_hops[i % len(controls.log_hops)])
    logged = list(drawing.drawn)
    drawing.shared = {fact.id for chain in logged for fact in chain.facts}
    for i, stratum in enumerate(_strata(controls)):
        hops = controls.hops[i % len(controls.hops)]
        if hops == 1 and stratum in ("final", "other"):  # of one hop, all or none are shared
            longer = [n for n in controls.hops if n > 1]
            hops = longer[i % len(longer)] if longer else hops
        drawing.add(hops, stratum)
    return logged, list(drawing.drawn)[len(logged) :]


class _Drawing:
    """Questions drawn without repetition. shared: ids of the facts with which overlap is measured."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.drawn: dict[Chain, None] = {}
        self.shared: set[int] = set()

    def add(self, hops: int, stratum: Stratum | None = None) -> None:
        """Draw one more; of any overlap if `stratum` is None."""
        fresh = {fact.id for fact in self.world.facts} - self.shared
        ways = self.shared if stratum == "all" else fresh if stratum == "none" else None
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


def _passages(world: World, controls: Controls) -> dict[str, dict[str, str]]:
    """The passages by id, in MuSiQue's shape."""
    rng = random.Random(f"passages {controls.seed}")
    made: list[tuple[str, dict[str, str]]] = []

    def add(id: str, name: str, facts: list[Fact]) -> None:
        made.append((id, {"title": name, "content": tell(facts, rng)}))

    for name, facts in world.of.items():
        for copy in range(controls.passages_per_fact):
            more = trivia(name, rng.randint(0, 1), rng) if len(facts) < MOST_FACTS else []
            add(f"{name.lower()}-{copy}", name, [*facts.values(), *more])
        for copy in range(controls.distractors):
            add(f"{name.lower()}-trivia-{copy}", name, trivia(name, rng.randint(3, len(language().trivia)), rng))
    rng.shuffle(made)
    return dict(made)
