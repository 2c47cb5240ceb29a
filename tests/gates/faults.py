"""What is planted: each fault leaves every shape, file and exit code as it was."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
from torch import Tensor

FAULTS: dict[str, Callable[[], None]] = {}  # what is wrong, in words -> plants it into this process


def fault(what: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a fault."""

    def keep(plant: Callable[[], None]) -> Callable[[], None]:
        FAULTS[what] = plant
        return plant

    return keep


def around(owner: Any, name: str, changed: Callable[..., Any]) -> None:
    """Replace `owner.name` by `changed`, which is given the original before its arguments."""
    original = getattr(owner, name)
    kind = (
        staticmethod if isinstance(vars(owner).get(name) if isinstance(owner, type) else None, staticmethod) else None
    )

    @wraps(original)
    def instead(*args: Any, **named: Any) -> Any:
        return changed(original, *args, **named)

    setattr(owner, name, kind(instead) if kind else instead)


class Turned:
    """A realigner that turns keys to other places than it is told."""

    def __init__(self, realigner: Any, places: Callable[[Tensor], Tensor]) -> None:
        self.realigner, self.places = realigner, places

    def rotate(self, keys: Tensor, positions: Tensor, out: Tensor | None = None) -> Tensor:
        return self.realigner.rotate(keys, self.places(positions), out=out)


def turn(places: Callable[[Tensor], Tensor]) -> None:
    """Write all blocks with keys turned to other places."""
    from lagkit.model.kv import KVBlock

    around(
        KVBlock,
        "write_into",
        lambda write, block, realigner, *where: write(block, Turned(realigner, places), *where),
    )


@fault("injected keys are not re-aligned")
def unaligned() -> None:
    turn(lambda positions: positions * 0)


@fault("injected keys stand one position too late")
def off_by_one() -> None:
    turn(lambda positions: positions + 1)


@fault("injected keys stand at twice their position")
def doubled() -> None:
    turn(lambda positions: 2 * positions)


@fault("stored keys keep the RoPE that they were read with")
def rotated() -> None:
    import lagkit.model.cache as kv
    from lagkit.model.kv import KVBlock

    def read(_: Any, cache: Any, realigner: Any, ids: Tensor, start: int, stop: int) -> Any:
        keys, values = kv.stack_layers(cache, start, stop)
        return KVBlock(keys, values, ids.to(keys.device))

    around(kv, "read_cache", read)
    import lagkit.model.lm as model

    vars(model)["read_cache"] = kv.read_cache


@fault("a log is answered with the KV of another")
def another_s_kv() -> None:
    from lagkit.agent.context import KVContextBuilder

    def part(original: Callable[..., Any], self: Any, log: str, question: Any) -> Any:
        ids = self.store.ids
        return original(self, ids[(ids.index(log) + 1) % len(ids)], question)

    around(KVContextBuilder, "part", part)


@fault("a log was changed after its KV block was made")
def stale() -> None:
    """The block says the answer of before, here that of the log in front of it; the log's text says today's."""
    from lagkit.runs.executor import Local

    def encode(original: Callable[..., Any], self: Any, wanted: Iterable[Any], logs: Any, policies: Any) -> Any:
        wanted = list(wanted)
        ids = [log for log, _ in wanted]

        def before(log: str) -> Any:
            now, other = logs[log], logs[ids[ids.index(log) - 1]]
            if now.answer is None or other.answer is None:
                return now
            *rounds, last = now.rounds
            said = last.response.replace(now.answer, other.answer)
            return replace(now, rounds=(*rounds, replace(last, response=said)))

        return original(self, wanted, {log: before(log) for log in ids}, policies)

    around(Local, "encode", encode)


@fault("the last action is kept where the last round is wanted")
def wrong_tokens() -> None:
    import lagkit.logs.encode as encode

    around(encode, "_kept", lambda kept, responses, keep: kept(responses, "last_action"))


def hits(change: Callable[[Any, list[Any]], list[Any]]) -> None:
    """Change which logs each query finds; `change` is given the store."""
    from lagkit.agent.retrieval import Retriever

    def logs(original: Callable[..., Any], self: Any, *args: Any) -> Any:
        return [change(self.store, found) if found else found for found in original(self, *args)]

    around(Retriever, "_logs", logs)


@fault("one log is shown instead of three")
def one_log() -> None:
    hits(lambda _, found: found[:1])


@fault("logs are shown in reverse order")
def reversed_logs() -> None:
    hits(lambda _, found: found[::-1])


@fault("retrieval finds random logs")
def random_logs() -> None:
    def drawn(store: Any, found: list[Any]) -> list[Any]:
        ids = random.Random(found[0].id).sample(list(store.ids), len(found))
        return [replace(hit, id=id) for hit, id in zip(found, ids, strict=True)]

    hits(drawn)


@fault("logs are found by their neighbour in the index")
def neighbours() -> None:
    def next_to(store: Any, found: list[Any]) -> list[Any]:
        ids = list(store.ids)
        return [replace(hit, id=ids[(ids.index(hit.id) + 1) % len(ids)]) for hit in found]

    hits(next_to)


@fault("passages are found by their neighbour in the index")
def wrong_passages() -> None:
    from lagkit.logs.retrieve import PassageIndex

    def search(original: Callable[..., Any], self: Any, *args: Any, **named: Any) -> Any:
        ids = list(self._passages)
        found = original(self, *args, **named)
        return [[replace(hit, id=ids[(ids.index(hit.id) + 1) % len(ids)]) for hit in row] for row in found]

    around(PassageIndex, "search", search)


@fault("half of the queries are random")
def random_queries() -> None:
    from lagkit.agent.retrieval import Retriever

    def find(original: Callable[..., Any], self: Any, some: Sequence[Any]) -> Any:
        embedder = self.embedder

        class Half:
            def queries(self, texts: Sequence[str]) -> Any:
                vectors = np.array(embedder.queries(texts))
                for row, text in enumerate(texts):
                    if (seed := zlib.crc32(text.encode())) % 2:
                        drawn = np.random.default_rng(seed).normal(size=vectors.shape[1])
                        vectors[row] = drawn / np.linalg.norm(drawn)
                return vectors

        self.embedder = Half()
        try:
            return original(self, some)
        finally:
            self.embedder = embedder

    around(Retriever, "find", find)


@fault("logs are indexed by their question alone")
def short_keys() -> None:
    from lagkit.types import Trace

    Trace.key = property(lambda self: self.question)


@fault("answers leak: with logs all are right")
def leaked() -> None:
    from lagkit.runs.executor import Local

    def answer(original: Callable[..., Any], self: Any, questions: Any, asking: Any) -> Any:
        asked = {question.id: question for question in questions}
        for trace in original(self, asked.values(), asking):
            yield replace(trace, answer=asked[trace.question_id].answers[0]) if asking.policy else trace

    around(Local, "answer", answer)


@fault("the answer stands in the prompt")
def told() -> None:
    from lagkit.model.prompts.prompt import Prompt

    def turn_of(original: Callable[..., Any], self: Any, question: Any, *args: Any, **named: Any) -> str:
        return original(self, question, *args, **named) + f" {question.answers[0]}"

    around(Prompt, "user_turn", turn_of)


@fault("the question is worded otherwise in the prompt")
def wording() -> None:
    from lagkit.model.prompts.prompt import Prompt

    around(Prompt, "user_turn", lambda turn_of, *args, **named: turn_of(*args, **named) + " Think well.")


@fault("a round fewer than allowed")
def fewer_rounds() -> None:
    from lagkit.agent.loop import Agent

    def init(original: Callable[..., Any], self: Any, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        self.max_rounds -= 1

    around(Agent, "__init__", init)


@fault("one gold answer in ten is wrong")
def wrong_gold() -> None:
    from lagkit.stats import metrics

    def score(original: Callable[..., Any], question: Any, *args: Any, **named: Any) -> Any:
        wrong = zlib.crc32(question.id.encode()) % 10 == 0
        return original(replace(question, answers=("nothing",)) if wrong else question, *args, **named)

    around(metrics, "score", score)


@fault("an abstention is scored as right")
def generous() -> None:
    from lagkit.stats import metrics

    around(
        metrics,
        "exact_match",
        lambda match, prediction, answers: 1.0 if prediction is None else match(prediction, answers),
    )
