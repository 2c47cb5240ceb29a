"""What both sides of a race are asked: questions, and a store with as many logs as wanted, the same for both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.authors import dump
from benchmarks.shapes import LLAMA_8B, random_model
from lagkit.logs.encode import Encoder
from lagkit.logs.header import Header
from lagkit.logs.store import LogStore
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.policy import Policy, get_policy
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.types import Question, Trace
from lagkit.util.progress import progress

POLICY = "kv_last_round"  # the authors' main method
SAMPLE = Path(__file__).parents[1] / "data" / "sample"


@dataclass(frozen=True)
class Workload:
    """A tier and settings of a run; `logs` are built by the model, `questions` asked, `warm` of them before the clock.

    sizes: numbers of logs in the stores raced on. needs: what has to be there, `data` or a `gpu`.
    model: makes the language model, where it is not the tier's. slow: it takes most of an hour on two cores, and is
    raced only where it is named.
    """

    tier: str
    settings: dict[str, Any]
    logs: int
    questions: int
    sizes: tuple[int, ...]
    warm: int = 2
    needs: Literal["data", "gpu"] | None = None
    model: Callable[[], LM] | None = None
    slow: bool = False

    def can_run(self, data: Path | None) -> bool:
        """Whether what it needs is there."""
        return {None: True, "data": data is not None, "gpu": torch.cuda.is_available()}[self.needs]


WORKLOADS = {
    # Small vectors: they cost both sides the same, and 16,384 numbers for each of 10,000 logs are mostly zeros.
    "testbed": Workload("testbed", {"embedder": "hash-2048"}, 10, 32, (10, 100, 1_000, 10_000), warm=4),
    "short answers": Workload(
        "smollm2", {"data": SAMPLE, "dataset": "sample", "max_rounds": 3, "max_new_tokens": 64}, 10, 30, (10,)
    ),
    "long answers": Workload(
        "smollm2", {"wording": "plain", "max_rounds": 2, "max_new_tokens": 128}, 10, 32, (10,), needs="data"
    ),
    "qwen, short answers": Workload(
        "laptop", {"data": SAMPLE, "dataset": "sample", "max_rounds": 2, "max_new_tokens": 64}, 10, 32, (10,), slow=True
    ),
    "qwen, long answers": Workload(
        "laptop", {"max_rounds": 1, "max_new_tokens": 160}, 10, 32, (10,), needs="data", slow=True
    ),
    # Random weights never end a response: each has as many tokens as it may.
    "llama shape": Workload(
        "paper",
        {
            **{"data": SAMPLE, "dataset": "sample", "wording": "plain", "embedder": "hash-2048"},
            **{"max_rounds": 2, "max_new_tokens": 128},
        },
        *(10, 24, (10, 100, 1_000)),
        needs="gpu",
        model=partial(random_model, LLAMA_8B),
    ),
}


def experiment(workload: Workload, folder: Path, data: Path | None = None) -> Experiment:
    """The run that questions and logs come from."""
    given = {"data": data} if workload.needs == "data" else {}
    asked = {"log_questions": workload.logs, "seen_questions": None, "unseen_questions": None, "splits": ("unseen",)}
    sample = {**workload.settings, **given, **asked, "policies": ("no_logs", POLICY)}
    lm = workload.model() if workload.model else None
    return Experiment(RunConfig.of(workload.tier, out=folder / "run", **sample), lm=lm)


def questions(run: Experiment, workload: Workload) -> tuple[list[Question], list[Question]]:
    """Those to warm up with, and those to race on; where unseen ones do not suffice, seen ones that have no log too."""
    logged = {question.id for question in run.log_questions}
    others = [question for question in run.data.seen if question.id not in logged]
    found = [*run.questions("unseen"), *others]
    needed = workload.warm + workload.questions
    return found[: workload.warm], found[workload.warm : needed]


def prepare(run: Experiment, folder: Path, sizes: tuple[int, ...]) -> None:
    """Build the logs, and for each size a store and the authors' pickle with them and made-up ones."""
    run.build()
    run.encode()
    policy = get_policy(POLICY)
    for size in progress(sizes, "Filling stores"):
        if not (folder / f"{size}.pickle").exists():
            with run.store() as real, _new(folder / str(size), run) as store:
                key = Encoder(run.lm, run.prompt).key(policy)
                store.add_many(_logs(real, key, size))
                dump(store, key, folder / f"{size}.pickle")


def _new(path: Path, run: Experiment) -> LogStore:
    return LogStore.new(path, Header.of(run.lm, run.embedder), exist_ok=True)


def _logs(real: LogStore, key: str, size: int) -> Iterator[tuple[Trace, np.ndarray, dict[str, KVBlock]]]:
    """The real logs, then copies whose KV is a little different, so that each has a file of its own.

    Vectors of copies have random signs: next to none of them is ever found, and answers are the same at every size.
    """
    traces, vectors = list(real.traces()), real.embeddings()
    blocks = [real.block(log, key) for log in real]
    rng = np.random.default_rng(0)
    for number in range(size):
        copy, i = divmod(number, len(traces))
        block, vector, trace = blocks[i], vectors[i], traces[i]
        if copy:
            trace = replace(trace, question_id=f"{trace.question_id}-{copy}", question=f"{trace.question} ({copy})")
            vector = rng.normal(size=len(vector)).astype(np.float32)
            vector /= np.linalg.norm(vector)
            block = KVBlock(block.keys, block.values * (1 + copy / 1000), block.ids)
        yield trace, vector, {key: block}


def read_settings(folder: Path) -> dict[str, Any]:
    """What `save_settings` wrote."""
    return json.loads((folder / "race.json").read_text(encoding="utf-8"))


def save_settings(folder: Path, name: str, data: Path | None) -> None:
    """For the processes that race: which workload, on which data."""
    text = json.dumps({"workload": name, "data": str(data) if data else None})
    (folder / "race.json").write_text(text, encoding="utf-8")


def the_policy() -> Policy:
    """The policy of the race."""
    policy = get_policy(POLICY)
    assert policy is not None
    return policy
