"""The questions of `data/sample`, composed from its table of facts: `python -m tools.sample`.

A question is a chain of facts: the object of one is the subject of the next. `facts.csv` and the passages are written
by hand, `wording.yaml` says how a relation is asked for; the rest is drawn by a seed. The same input gives the same
files.
"""

from __future__ import annotations

import csv
import json
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import yaml

from lagkit.datasets.loaders import Stratum, stratum_of
from lagkit.util import files

FOLDER = Path(__file__).parents[1] / "data" / "sample"
SEED = 1
LOGGED = {1: 30, 2: 80, 3: 40}  # questions of the log store, by hops
UNSEEN = {2: 30, 3: 20}  # unseen questions of each stratum: the same mix, so that strata can be compared
AGAIN = {2: 15, 3: 10}  # of the stratum "all": chains that are logged, asked in other words
NEW = 2  # how much sooner a chain is drawn for each passage that was in none before
CANDIDATES = 0.6  # share of the facts that logged questions may use
SHORT = 5  # words up to which a phrase may stand inside a question and not at its end


@dataclass(frozen=True)
class Fact:
    """A row of `facts.csv`; `id` is its number there, from 1. The subject has its article, the object none."""

    id: int
    subject: str
    relation: str
    object: str
    passage: str

    @property
    def name(self) -> str:
        """The subject as an object is written."""
        return self.subject.removeprefix("the ")

    @property
    def article(self) -> str:
        return self.subject.removesuffix(self.name)


Chain = tuple[Fact, ...]
Record = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What is written by hand: facts, the passages' texts, the wording of relations, further names of answers."""

    facts: Sequence[Fact]
    texts: Mapping[str, str]
    relations: Mapping[str, Mapping[str, Sequence[str]]]
    aliases: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, folder: Path) -> Source:
        """Read `facts.csv`, `wording.yaml` and `dev_docs.json`."""
        with (folder / "facts.csv").open(encoding="utf-8", newline="") as file:
            facts = [Fact(id, **row) for id, row in enumerate(csv.DictReader(file), 1)]
        wording = yaml.safe_load((folder / "wording.yaml").read_text(encoding="utf-8"))
        docs = json.loads((folder / "dev_docs.json").read_text(encoding="utf-8"))
        texts = {id: passage["content"] for id, passage in docs.items()}
        return cls(facts, texts, wording["relations"], wording["aliases"])

    def names(self, answer: str) -> tuple[str, ...]:
        """The answer, its aliases, and each without accents."""
        names = (answer, *self.aliases.get(answer, ()))
        return tuple(dict.fromkeys((*names, *map(_plain, names))))

    @cached_property
    def chains(self) -> list[Chain]:
        """All chains of one to three facts that ask for each step: no name twice, no later answer in a passage before.

        Each step is answered by a passage of its own, and no answer that is still to be found is named in it.
        """
        after = defaultdict(list)
        for fact in self.facts:
            after[fact.name].append(fact)
        ones: list[Chain] = [(fact,) for fact in self.facts]
        twos = [(*chain, fact) for chain in ones for fact in after[chain[-1].object]]
        threes = [(*chain, fact) for chain in twos for fact in after[chain[-1].object]]
        return [chain for chain in (*ones, *twos, *threes) if self._asks_for_each_step(chain)]

    def _asks_for_each_step(self, chain: Chain) -> bool:
        names = [chain[0].name, *(fact.object for fact in chain)]
        if len(set(names)) < len(names):
            return False
        return not any(
            mentions(self.texts[fact.passage], self.names(later.object))
            for i, fact in enumerate(chain)
            for later in chain[i + 1 :]
        )


def mentions(text: str, names: Iterable[str]) -> bool:
    """Whether one of the names stands in the text, as whole words in any case."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in names)


def _filled(form: str, subject: str) -> str:
    """The form with its subject; some titles end in a question mark, too."""
    return form.format(s=subject).replace("??", "?")


def _plain(text: str) -> str:
    return "".join(mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))


@dataclass
class Writer:
    """Questions in words, none of them twice."""

    source: Source
    random: random.Random
    said: set[str] = field(default_factory=set)

    def ask(self, chain: Chain, unlike: str = "") -> str | None:
        """A new question for the chain that names none of its answers; None if there is none.

        Of those that were drawn it is the one with the fewest words of `unlike`.
        """
        answers = [name for fact in chain for name in self.source.names(fact.object)]
        drawn = dict.fromkeys(self._words(chain) for _ in range(20))
        texts = [text for text in drawn if text not in self.said and not mentions(text, answers)]
        if not texts:
            return None
        known = set(unlike.split())
        text = min(texts, key=lambda text: len(known.intersection(text.split())))
        self.said.add(text)
        return text

    def _words(self, chain: Chain) -> str:
        phrase, short = chain[0].subject, True
        for i, fact in enumerate(chain):
            forms = self.source.relations[fact.relation]["ask" if i == len(chain) - 1 else "noun"]
            # What ends with a verb, or is long, is understood only at the end: "the city where X was born lies".
            ending = [form for form in forms if form.rstrip("?").endswith("{s}")]
            form = self.random.choice(forms if short else ending or forms)
            phrase = _filled(form, phrase)
            short = form in ending and len(phrase.split()) <= SHORT
        return phrase

    def steps(self, chain: Chain) -> list[Record]:
        """The decomposition: each step asked in the first words of its relation, `#1` for the first one's answer."""
        subjects = [chain[0].subject, *(f"{fact.article}#{i}" for i, fact in enumerate(chain[1:], 1))]
        return [
            {
                "id": fact.id,
                "question": _filled(self.source.relations[fact.relation]["ask"][0], subject),
                "answer": fact.object,
                "document_id": fact.passage,
            }
            for fact, subject in zip(chain, subjects, strict=True)
        ]

    def record(self, chain: Chain, asked: str = "") -> Record:
        """The question as MuSiQue's records have it; that of a chain that was `asked` has an id that ends in `__again`.

        Raises ValueError if the chain cannot be asked in words of its own.
        """
        text = self.ask(chain, unlike=asked)
        if text is None:
            raise ValueError(f"{chain} has no other words: give its relations one more in wording.yaml")
        id = "_".join(str(fact.id) for fact in chain)
        return {
            "id": f"{len(chain)}hop__{id}" + "__again" * bool(asked),
            "question": text,
            "question_decomposition": self.steps(chain),
            "answer": chain[-1].object,
            "answer_aliases": list(self.source.names(chain[-1].object)[1:]),
        }


@dataclass
class Drawer:
    """Draws chains by a seed, evenly: those first whose passages, facts, answers, last relation were drawn least."""

    random: random.Random
    drawn: Counter[object] = field(default_factory=Counter)

    def draw(self, pool: Iterable[Chain], hops: Mapping[int, int]) -> Iterator[Chain]:
        """So many chains of each length; raises ValueError if the pool holds fewer."""
        pools = defaultdict(list)
        for chain in pool:
            pools[len(chain)].append(chain)
        for length, count in hops.items():
            left = pools[length]
            self.random.shuffle(left)
            for _ in range(count):
                if not left:
                    raise ValueError(f"the facts make too few chains of {length}: {count} are to be drawn")
                chain = min(left, key=self._weight)
                left.remove(chain)
                self.drawn.update(_ids(chain))
                self.drawn.update(("passage", fact.passage) for fact in chain)
                self.drawn.update([("answer", chain[-1].object), ("relation", chain[-1].relation)])
                yield chain

    def _weight(self, chain: Chain) -> float:
        facts = [self.drawn[fact.id] for fact in chain]
        new = sum(not self.drawn["passage", fact.passage] for fact in chain)
        return (
            sum(facts) / len(facts)
            + self.drawn["answer", chain[-1].object] / 2
            + self.drawn["relation", chain[-1].relation] / 5
            - NEW * new
        )


def compose(source: Source, seed: int = SEED) -> tuple[list[Record], list[Record]]:
    """The records of the log store and the unseen ones. Raises ValueError if the facts are too few for the sizes."""
    rng = random.Random(seed)
    writer = Writer(source, rng)
    usable = [chain for chain in source.chains if Writer(source, rng).ask(chain)]
    candidates = {fact.id for fact in source.facts if rng.random() < CANDIDATES}
    drawer = Drawer(rng)
    store = list(drawer.draw((chain for chain in usable if candidates.issuperset(_ids(chain))), LOGGED))
    logged = {id for chain in store for id in _ids(chain)}
    pools: dict[Stratum, list[Chain]] = {stratum: [] for stratum in get_args(Stratum)}
    for chain in usable:
        if chain not in store:
            pools[stratum_of([id in logged for id in _ids(chain)])].append(chain)
    again = list(drawer.draw(store, AGAIN))
    unseen = list(drawer.draw(pools["none"], UNSEEN))
    unseen += drawer.draw(pools["all"], {hops: count - AGAIN[hops] for hops, count in UNSEEN.items()})
    apart = {id for chain in unseen[: sum(UNSEEN.values())] for id in _ids(chain)}
    for stratum in ("final", "other"):
        unseen += drawer.draw((chain for chain in pools[stratum] if apart.isdisjoint(_ids(chain))), UNSEEN)
    seen_records = [writer.record(chain) for chain in store]
    asked = {chain: record["question"] for chain, record in zip(store, seen_records, strict=True)}
    unseen_records = [*(writer.record(chain, asked[chain]) for chain in again), *map(writer.record, unseen)]
    rng.shuffle(seen_records)
    rng.shuffle(unseen_records)
    return seen_records, unseen_records


def _ids(chain: Chain) -> list[int]:
    return [fact.id for fact in chain]


def main(folder: Path = FOLDER) -> None:
    """Write the questions of both splits beside the facts."""
    for name, records in zip(("dev_train.json", "dev_test.json"), compose(Source.read(folder)), strict=True):
        files.write(folder / name, json.dumps(records, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
