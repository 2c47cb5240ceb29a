"""Invented logs that compete: of the same kind of fact, about other entities; drawn by a seed.

Each log has two rounds: the first says who stands behind a work, the last says the fact that is asked for. Answers of a
kind take equally many tokens (one, for most models), so that their log-probabilities can be compared as they are.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lagkit.model.lm import LM
from lagkit.types import Round, Trace
from lagkit.util.errors import ConfigError

Form = Literal["terse", "restating"]
RIVALS = 3  # logs of a group: each is asked for in turn, and competes with the others

_FIRST = "Mira Jonas Edda Piet Lena Oskar Ruth Anton Vera Hugo Clara Emil Nora Felix Ida Viktor Elsa Bruno Greta Theo"
_LAST = "Voss Harlan Quist Brandt Ferrow Lindqvist Marchetti Obrecht Tallis Wexler Dorn Pellow Krantz Solberg Ainsley"
_ADJECTIVES = "Silent Crooked Golden Hollow Distant Burning Frozen Hidden Broken Velvet Scarlet Restless Wandering Pale"
_NOUNS = "Harbour Orchard Lantern Meadow Compass Staircase Garden Mirror Tower River Bridge Lighthouse Mountain Clock"
_TOWNS = (
    "Preston Lancaster Windsor Hamilton Clayton Newton Burton Bristol Chester Lincoln Bedford Durham Salem Dover "
    "Richmond Kingston Monroe Hudson Dayton Sheffield Leeds York Hampton Milton Stanley Logan Troy"
)
_JOBS = "teacher nurse farmer lawyer baker pilot soldier butcher doctor sailor tailor painter miner clerk judge priest"
_ANIMALS = "dog cat horse rabbit turtle goat snake pig duck fox sheep monkey owl wolf camel goose"
_COUNTRIES = "Norway Sweden Canada Brazil Japan Egypt Peru Chile Kenya India Spain Greece Poland Mexico Ireland Iceland"
_LANGUAGES = "French German Spanish Italian Russian Greek Arabic Dutch Polish Turkish Swedish Danish Irish Welsh Korean"
_SPORTS = "tennis football golf boxing swimming cricket rugby hockey baseball basketball wrestling chess cycling"
_FRUITS = "apple banana cherry lemon orange grape peach plum pear mango fig lime strawberry coconut"
_COLOURS = "red blue green yellow purple orange brown black white pink silver gold"

UNRELATED = (
    "Rain is measured with a gauge that stands in the open. It is read each morning and emptied at once.",
    "A loaf is left to cool on a rack before it is cut. Warm bread does not slice well.",
)


@dataclass(frozen=True)
class Fact:
    """What one log says. first: the first round; terse, restating: the last round in both forms.

    question: the words of the user's turn; opening: those with which the assistant's begins, up to the answer.
    """

    kind: str
    work: str
    person: str
    answer: str
    first: str
    terse: str
    restating: str
    question: str
    opening: str

    def last(self, form: Form) -> str:
        """The last round: saying only what is new, or restating whom it is about."""
        return self.terse if form == "terse" else self.restating

    def log(self, form: Form, first: str | None = None) -> Trace:
        """The log; `first`: other words in the place of its first round."""
        rounds = (Round("", self.first if first is None else first), Round("", self.last(form)))
        return Trace(self.work, self.question, "", rounds, self.answer)

    @property
    def filler(self) -> str:
        """Neutral words, as many as the first round has."""
        return " ".join(["and so on"] * (len(self.first.split()) // 3) + ["and"] * (len(self.first.split()) % 3))


@dataclass(frozen=True)
class Kind:
    """A kind of fact: the role of who stands behind a work, what is told of them up to the answer, and the question.

    tells, asks: with `{}` for whom. works: a pattern of two words' places. answers: words to draw from.
    """

    name: str
    role: str
    tells: str
    asks: str
    works: str = ""
    answers: str = ""

    def fact(self, work: str, person: str, answer: str) -> Fact:
        """What a log says of a work, the person behind it, and the answer."""
        whom = f"{person}, the {self.role} of {work}"
        terse = f"{self.tells.replace('{}', f'this {self.role}')} {answer}."
        return Fact(
            kind=self.name,
            work=work,
            person=person,
            answer=answer,
            first=f"The {self.role} of {work} is {person}.",
            terse=terse[0].upper() + terse[1:],
            restating=f"{self.tells.replace('{}', f'{whom},')} {answer}.",
            question=self.asks.replace("{}", whom),
            opening=self.tells.replace("{}", person),
        )


KINDS = (
    Kind("film", "director", "{} was born in the town of", "In which town was {}, born?", "The {} {}", _TOWNS),
    Kind("novel", "author", "{} worked as a", "As what did {}, work?", "A {} {}", _JOBS),
    Kind("company", "founder", "{} kept as a pet a", "Which pet did {}, keep?", "{} {} Limited", _ANIMALS),
    Kind("song", "composer", "{} moved to the country of", "To which country did {}, move?", "My {} {}", _COUNTRIES),
    Kind("ship", "captain", "{} spoke the language called", "Which language did {}, speak?", "the {} {}", _LANGUAGES),
    Kind("school", "head", "{} played the sport of", "Which sport did {}, play?", "{} {} School", _SPORTS),
    Kind("hotel", "owner", "{} grew the fruit called", "Which fruit did {}, grow?", "Hotel {} {}", _FRUITS),
    Kind("opera", "conductor", "{} always wore the colour", "Which colour did {}, wear?", "O {} {}", _COLOURS),
)


@dataclass(frozen=True)
class Group:
    """Logs of one kind that compete. stranger: a log that shares nothing with them; data: the data set, if from one."""

    id: str
    facts: tuple[Fact, ...]
    stranger: Fact
    data: str = ""


def groups(lm: LM, count: int, seed: int = 0) -> list[Group]:
    """`count` groups of three logs, the kinds in turn; the first ones are the same for every count.

    No name, work or answer comes twice in a group. Raises ConfigError for a model that lacks words of the items.
    """
    rng, drawn, taken = random.Random(f"competing {seed}"), [], set[str]()
    for number in range(count):
        kind, works = KINDS[number % len(KINDS)], list[str]()
        answers = _equally_long(lm, kind.answers.split())
        while len(works) <= RIVALS:
            work = kind.works.format(rng.choice(_ADJECTIVES.split()), rng.choice(_NOUNS.split()))
            if work not in taken:
                taken.add(work)
                works.append(work)
        names = zip(*(rng.sample(words.split(), RIVALS + 1) for words in (_FIRST, _LAST)), strict=True)
        said = zip(works, map(" ".join, names), rng.sample(answers, RIVALS + 1), strict=True)
        facts = [kind.fact(*parts) for parts in said]
        drawn.append(Group(f"{seed}-{number:03d}-{kind.name}", tuple(facts[:RIVALS]), facts[RIVALS]))
    return drawn


def _equally_long(lm: LM, words: Sequence[str]) -> list[str]:
    """The words that take as many tokens as most of them do."""
    told = {word: tuple(lm.tokenize(f" {word}")) for word in words}
    if len({*told.values()}) < len(told) or any(lm.tokenizer.unk_token_id in ids for ids in told.values()):
        raise ConfigError(f"The items cannot be said to {lm.name}: its vocabulary lacks words such as {words[0]}.")
    usual = Counter(map(len, told.values())).most_common(1)[0][0]
    found = [word for word, ids in told.items() if len(ids) == usual]
    if len(found) <= RIVALS:
        raise ConfigError(f"Too few words of one length for {lm.name} among {', '.join(words)}.")
    return found
