"""Rounds to learn from: what the agent may see in a small world, and what a faultless agent says to it.

Every text is one that a plain language model may meet. Some rounds stand behind the text of other rounds, relevant or
not, in each of the places where a policy may put logs; KV is never injected.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from transformers import PreTrainedTokenizerBase

from lagkit.datasets.world.world import Chain, Fact, World, language, make_world, name_pool, plain, tell, trivia, walk
from lagkit.logs.encode import SEPARATOR, kept_text
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import Keep
from lagkit.types import Passage, Question, Round, Trace

PROMPT = Prompt.load("qa_short")
_HERE = "$user"  # stands for the user's turn in a chat that is rendered once

_PART = 6  # facts in a part of what passages tell

Stage = Literal["drill", "easy", "full"]
Kind = Literal["answer", "search", "notes", "retelling", "restated", "same_round", "one_back", "two_back"]
Facts = dict[tuple[str, str], str]  # (subject, relation) -> object


@dataclass(frozen=True)
class Lesson:
    """One round: earlier work and the prompt (`before` + `context`), and the assistant's turn (`reply`).

    Between `before` and `context` positions may be skipped, so that earlier work is met at all distances.
    """

    before: str
    context: str
    reply: str
    hops: int
    kind: Kind


@dataclass
class _Scene:
    """What several rounds have in common: a small world, chains of interest, passages and earlier work."""

    rng: random.Random
    world: World
    stage: Stage
    chains: list[Chain] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    seen: Facts = field(default_factory=dict)
    logs: list[str] = field(default_factory=list)
    told: Facts = field(default_factory=dict)

    @property
    def plainly(self) -> float:
        """The share of facts that passages tell in the agent's own wording, over what chance brings."""
        return 0.0 if self.stage == "full" else 0.6

    @property
    def max_hops(self) -> int:
        """The longest chains."""
        return 2 if self.stage == "easy" else 4


def lessons(seed: str, tokenizer: PreTrainedTokenizerBase, *, stage: Stage, count: int) -> list[Lesson]:
    """At most `count` rounds with the same passages and earlier work that differ in their question; drawn by `seed`.

    Easy ones have at most two hops, few passages, mostly in the agent's own wording, and no earlier work. Some are no
    rounds at all but passages that are told again: sooner than by questions, facts are learned to be found by that.
    The drill is nothing else, and its facts have nothing to be told apart by but their names and relations.
    """
    rng = random.Random(f"lesson {seed}")
    if stage == "drill":
        return _drill(rng, tokenizer)
    scene = _Scene(rng, make_world(f"lesson {seed}", rng.randint(30, 60)), stage)
    if rng.random() < (0.5 if stage == "easy" else 0.3):
        return _retellings(scene, tokenizer)
    scene.chains = [walk(scene.world, scene.max_hops, rng) for _ in range(1 if stage == "easy" else rng.randint(1, 3))]
    if stage == "full" and rng.random() < 0.6:
        _work_before(scene)
    _open_book(scene)
    if scene.logs and rng.random() < 0.1:
        chains = {_choose(scene, scene.told, answerable=rng.random() < 0.6): None for _ in range(count)}
        return [_notes_lesson(scene, tokenizer, chain) for chain in chains]
    return _rounds(scene, tokenizer, count)


def _drill(rng: random.Random, tokenizer: PreTrainedTokenizerBase) -> list[Lesson]:
    """Facts that differ in their subjects, in their relations or in both, and are told again in another order.

    Where other cues do, a model takes them: passages about entities of different kinds are told apart by relations
    alone, and a model that has learned so does not learn any more to look at the subject.
    """
    subjects, relations = rng.choice(
        [(rng.randint(2, 8), 1), (1, rng.randint(2, 8)), (rng.randint(2, 4), rng.randint(2, 4))]
    )
    names = rng.sample(name_pool(), subjects * (1 + relations))
    chosen = rng.sample(list(language().by_name), relations)
    pairs = [(subject, relation) for subject in names[:subjects] for relation in chosen]
    facts = [Fact(-1, *pair, target) for pair, target in zip(pairs, names[subjects:], strict=True)]
    context = f"{tokenizer.bos_token}{tell(facts, rng, plainly=0.8)}{SEPARATOR}"
    return [_again(context, rng.sample(facts, len(facts))) for _ in range(12)]


def _again(context: str, facts: Sequence[Fact]) -> Lesson:
    return Lesson("", context, " ".join(fact.sentence(plain(fact.relation)) for fact in facts), 1, "retelling")


def _retellings(scene: _Scene, tokenizer: PreTrainedTokenizerBase) -> list[Lesson]:
    """Passages, and behind them what they tell in the agent's words, and that the rest is unknown; first in full, then
    in parts. Every fourth token is a fact to look up, several times as many as in rounds.
    """
    rng, world = scene.rng, scene.world
    names = list(world.kinds)
    if rng.random() < 0.5:  # all of one kind
        kind = world.kinds[rng.choice(names)]
        names = [name for name in names if world.kinds[name] == kind]
    names = rng.sample(names, min(len(names), rng.randint(2, 6) if scene.stage == "easy" else rng.randint(5, 9)))
    pages = [_page(scene, name) for name in names]
    texts = [tell(facts, rng, plainly=scene.plainly) for facts in pages]
    passages = [Passage("", name, text) for name, text in zip(names, texts, strict=True)]
    book = PROMPT.user_turn(Question("", "", ()), passages).rsplit(SEPARATOR, 1)[0]
    told = {fact for facts in pages for fact in facts}
    mentioned = [fact.object for fact in told if fact.object not in names]
    asked = [fact for name in names for fact in world.of[name].values()]
    asked += [rng.choice(list(world.of[name].values())) for name in rng.sample(sorted(mentioned), len(names) // 2)]
    said = [fact if fact in told else replace(fact, object="unknown") for fact in asked]
    context = f"{tokenizer.bos_token}{book}{SEPARATOR}"
    parts = (len(said), *[min(_PART, len(said))] * 6)
    return [_again(context, rng.sample(said, part)) for part in parts]


def _rounds(scene: _Scene, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Lesson]:
    rng = scene.rng
    place = rng.choices(["front", "prefix", "user_turn", "notes"], [50, 20, 15, 15])[0] if scene.logs else "none"
    notes, known = "", scene.seen | scene.told
    if place == "user_turn":
        notes = SEPARATOR.join(scene.logs)
    elif place == "notes":
        notes, noted = _notes(scene, rng.choice(scene.chains))
        known = scene.seen | noted
    logs = SEPARATOR.join(scene.logs) if place in ("front", "prefix") else ""
    chains = {_choose(scene, known, answerable=rng.random() < 0.5): None for _ in range(count)}
    made = []
    for chain in chains:
        question = Question("", chain.text, ())
        head, tail = chat(tokenizer, PROMPT.system, PROMPT.user_turn(question, scene.passages, notes=notes))
        before, context = (head + logs, tail) if place == "prefix" else (logs, head + tail)
        reply, answered = respond(chain.start, chain.relations, known)
        kind: Kind = "answer" if answered else "search"
        made.append(Lesson(before, context, f"{question.text} {reply}", len(chain.facts), kind))
    return made


def respond(start: str, relations: tuple[str, ...], known: Mapping[tuple[str, str], str]) -> tuple[str, bool]:
    """What a faultless agent says behind the restated question, and whether it answers.

    It follows the chain as far as it knows the facts (subject and relation -> object), then answers, or names the first
    unknown fact and searches for it.
    """
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


def chat(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> tuple[str, str]:
    """The chat with the assistant's turn opened, in two parts: up to the system message's end, and from there on."""
    head, turn = _frame(tokenizer, system)
    return head, turn.replace(_HERE, user)


@cache
def _frame(tokenizer: PreTrainedTokenizerBase, system: str) -> tuple[str, str]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": _HERE}]
    head = str(tokenizer.apply_chat_template(messages[:1], tokenize=False))
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return head, whole[len(head) :]


def _work_before(scene: _Scene) -> None:
    """Logs of other questions: right or given up, of one or several rounds, and what is told in them."""
    rng = scene.rng
    for _ in range(rng.randint(1, 6)):
        chain = _part(rng.choice(scene.chains), rng) if rng.random() < 0.6 else walk(scene.world, scene.max_hops, rng)
        hops = len(chain.facts)
        reached = hops if rng.random() < 0.75 else rng.randrange(hops)
        stops = sorted({*rng.sample(range(hops), rng.randint(0, hops - 1)), reached})
        rounds = [Round("", _say(chain, chain.facts[:stop])) for stop in stops if stop <= reached]
        trace = Trace(chain.id, chain.text, "", tuple(rounds))
        kept: tuple[Keep, ...] = ("last_round", "last_two_rounds", "all_rounds", "last_action")
        keep = rng.choices(kept, [70, 8, 14, 8])[0]
        text = kept_text(trace, keep)
        scene.logs.append(text)
        scene.told |= {(f.subject, f.relation): f.object for f in chain.facts if f.sentence(plain(f.relation)) in text}


def _say(chain: Chain, known: tuple[Fact, ...]) -> str:
    reply, _ = respond(chain.start, chain.relations, {(f.subject, f.relation): f.object for f in known})
    return f"{chain.text} {reply}"


def _part(chain: Chain, rng: random.Random) -> Chain:
    """Some neighbouring facts of a chain."""
    start = rng.randrange(len(chain.facts))
    return Chain(chain.facts[start : rng.randint(start + 1, len(chain.facts))])


def _open_book(scene: _Scene) -> None:
    """Passages: of the chains as far as they are to be found, and such as only look as if they told what is missing."""
    rng, world = scene.rng, scene.world
    wanted: list[str] = []
    vague: list[str] = []
    for chain in scene.chains:
        subjects = [fact.subject for fact in chain.facts]
        found = len(subjects) if rng.random() < 0.6 else rng.randrange(len(subjects))
        untold = [f.subject for f in chain.facts[:found] if (f.subject, f.relation) not in scene.told]
        wanted += subjects[:found] if rng.random() < 0.4 else untold
        if found < len(subjects):
            wanted += _lookalikes(scene, chain.facts[found])
            vague.append(subjects[found])
    others = rng.choices(list(world.kinds), k=1 if scene.stage == "easy" else rng.randint(1, 3))
    pages = {name: _page(scene, name) for name in dict.fromkeys([*wanted[:8], *others])}
    texts = [(name, tell(facts, rng, plainly=scene.plainly)) for name, facts in pages.items()]
    vague = [name for name in dict.fromkeys([*vague, rng.choice(others)]) if rng.random() < 0.35]
    texts += [(name, tell(trivia(name, rng.randint(3, 5), rng), rng)) for name in vague]
    rng.shuffle(texts)
    scene.passages = [Passage("", name, text) for name, text in texts]
    scene.seen = {(f.subject, f.relation): f.object for facts in pages.values() for f in facts}


def _page(scene: _Scene, name: str) -> list[Fact]:
    """An entity's facts, of which one may be missing."""
    facts = list(scene.world.of[name].values())
    if scene.rng.random() < 0.3:
        facts.remove(scene.rng.choice(facts))
    return facts


def _lookalikes(scene: _Scene, missing: Fact) -> list[str]:
    """Entities whose passages tell the missing relation of others, or mention its subject."""
    same = [f.subject for f in scene.world.facts if f.relation == missing.relation and f.subject != missing.subject]
    mention = [f.subject for f in scene.world.facts if f.object == missing.subject]
    found = [scene.rng.choice(names) for names in (same, mention) if names and scene.rng.random() < 0.6]
    return [name for name in found if name != missing.subject]


def _candidate(scene: _Scene) -> Chain:
    rng = scene.rng
    if rng.random() < (0.8 if scene.stage == "easy" else 0.3):
        start = rng.choice(scene.passages).title if rng.random() < 0.7 else None
        return walk(scene.world, rng.randint(1, scene.max_hops), rng, start)
    chain = rng.choice(scene.chains)
    return chain if rng.random() < 0.4 else _part(chain, rng)


def _choose(scene: _Scene, known: Facts, *, answerable: bool) -> Chain:
    """A chain that `known` settles, or one that it doesn't; any if a few tries find none."""
    for _ in range(6):
        chain = _candidate(scene)
        if all((f.subject, f.relation) in known for f in chain.facts) == answerable:
            break
    return chain


def _notes(scene: _Scene, chain: Chain) -> tuple[str, Facts]:
    """What a faultless agent notes of earlier work for a question: the chain as far as it is told without a gap."""
    told = [(f.subject, f.relation) in scene.told for f in chain.facts]
    useful = chain.facts[: [*told, False].index(False)]
    text = " ".join(fact.sentence(plain(fact.relation)) for fact in useful)
    return text or "Nothing helps.", {(f.subject, f.relation): f.object for f in useful}


def _notes_lesson(scene: _Scene, tokenizer: PreTrainedTokenizerBase, chain: Chain) -> Lesson:
    turn = PROMPT.distil_turn(Question("", chain.text, ()), SEPARATOR.join(scene.logs))
    context = "".join(chat(tokenizer, PROMPT.notes.system, turn))
    return Lesson("", context, f" {_notes(scene, chain)[0]}", len(chain.facts), "notes")
