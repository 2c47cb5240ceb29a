"""How good the testbed's model is as an agent: given all passages, given none, and in the whole loop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lagkit.agent.context import KVContextBuilder
from lagkit.datasets.loaders import Dataset
from lagkit.datasets.world.world import name_pool
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.prompts.actions import STOP_STRINGS, parse
from lagkit.model.prompts.prompt import Prompt
from lagkit.stats import metrics
from lagkit.types import Passage, Question

_NEW_TOKENS = 64


def given_all(lm: LM, world: Dataset, *, others: int = 4, seed: int = 0) -> pd.DataFrame:
    """One round with the supporting passages and `others` more, in random order: a row per unseen question.

    Half of the others name an entity of the question, the hardest to tell from what is needed; the rest are random.
    """
    rng = random.Random(f"given all {seed}")
    shown = [_with_others(world, question, others, rng) for question in world.unseen]
    return _rows(world.unseen, _answers(lm, world.unseen, shown))


def given_none(lm: LM, world: Dataset) -> pd.DataFrame:
    """One round without any passage, in which the model is made to name something: a row per 1-hop sub-question.

    Facts are drawn anew for each world, so more than chance would mean that something leaks. `chance` is what guessing
    any name of the pool gets.
    """
    hops = {hop.id: (question, i) for question in world.unseen for i, hop in enumerate(question.hops) if i == 0}
    asked = [question.hops[i] for question, i in hops.values()]
    questions = [Question(hop.id, hop.question, (hop.answer,)) for hop in asked]
    names = lm.tokenize(" ".join(name_pool()))
    prompt = Prompt.of("qa", "short")
    builder = KVContextBuilder(lm, prompt)
    rows = []
    for question in questions:
        context = builder.context(question, prompt.user_turn(question, []), [])
        start = question.text.removesuffix("?").split(" is ", 1)[1]
        forced = Context((*context.ids, *lm.tokenize(f" {start} is")), context.blocks)
        best = lm.logits(forced)[-1, names].argmax().item()
        rows.append({"question_id": question.id, "em": float(name_pool()[int(best)] == question.answers[0])})
    return pd.DataFrame(rows).assign(chance=1 / len(name_pool()))


def _with_others(world: Dataset, question: Question, others: int, rng: random.Random) -> list[Passage]:
    gold = {hop.passage_id for hop in question.hops}
    entities = {passage.title for passage in world.passages if passage.id in gold}
    rest = [passage for passage in world.passages if passage.id not in gold]
    close = [p for p in rest if p.title in entities or any(name in p.text for name in entities)]
    hard = rng.sample(close, min(others // 2, len(close)))
    far = rng.sample([p for p in rest if p not in hard], others - len(hard))
    shown = [p for p in world.passages if p.id in gold] + hard + far
    rng.shuffle(shown)
    return shown


def _answers(lm: LM, questions: Sequence[Question], shown: Sequence[Sequence[Passage]]) -> list[str | None]:
    prompt = Prompt.of("qa", "short")
    builder = KVContextBuilder(lm, prompt)
    contexts = [
        builder.context(question, prompt.user_turn(question, passages), [])
        for question, passages in zip(questions, shown, strict=True)
    ]
    said = lm.generate(contexts, _NEW_TOKENS, stop=STOP_STRINGS["qa"], batch_size=64)
    actions = [parse(generation.text, "qa") for generation in said]
    return [action.text if action.kind == "answer" else None for action in actions]


def _rows(questions: Sequence[Question], answers: Sequence[str | None]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"question_id": q.id, "hops": len(q.hops), "answer": answer, **metrics.score(q, answer)}
        for q, answer in zip(questions, answers, strict=True)
    ]
    return pd.DataFrame(rows)
