"""A worker: one process with the run's model, which makes traces and blocks of what it is handed. Knows no Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lagkit.model.backend import Backend
from lagkit.model.kv import KVBlock
from lagkit.policy import Policy
from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.runs.executor import Asking, Local, Wanted
from lagkit.runs.experiment import Experiment
from lagkit.types import Question, Trace
from lagkit.util.errors import ClusterError, LagkitError
from lagkit.util.progress import quiet

Load = Callable[[RunConfig], Backend]


@dataclass(frozen=True)
class Greeting:
    """What a worker says of itself and its model, once that is loaded; see `executor.Model`."""

    fingerprint: Mapping[str, str]
    dtype: str
    machine: Mapping[str, Any]


class Worker:
    """The run's model and data in a process of its own.

    Its kinds of work, `block_keys`, `answer` and `encode`, take items as pairs of a key and what it stands for, and
    yield each result under its key as it comes.
    """

    def __init__(self, run: Experiment, token: str, threads: int, load: Load | None) -> None:
        os.environ["LAGKIT_PROGRESS"] = "off"
        self.run, self.token, self.threads, self.load = run, token, threads, load

    def arrive(self, version: str) -> None:
        """Raise ClusterError where worker and run do not fit."""
        if version != (own := metadata.version("lagkit")):
            raise ClusterError(f"A worker has lagkit {own}, and the run {version}: install the same everywhere.")
        if not (self.run.out / self.token).exists():
            raise ClusterError(
                f"A worker cannot see the run's folder {self.run.out}: put it where all nodes see it under the same "
                "name, on a shared file system."
            )

    def greet(self) -> Greeting:
        """Load the model. Raises what loading raises."""
        quiet()
        torch.set_num_threads(self.threads)
        if self.load is not None:
            self.run.lm = self.load(self.run.config)
        model = self.run.lm
        return Greeting(dict(model.fingerprint), str(model.dtype).removeprefix("torch."), manifest.machine())

    def block_keys(self, items: Sequence[tuple[str, Policy]]) -> Iterator[tuple[str, list[str]]]:
        """Of policies, as the model's tokenizer has it."""
        for name, policy in items:
            yield name, Local(self.run).block_keys(policy)

    def answer(
        self, items: Sequence[tuple[str, Question]], asking: Asking, folder: Path | str | None, logs: int
    ) -> Iterator[tuple[str, Trace]]:
        """Traces by question. folder, logs: the store that the driver has open, and how many logs it sees there."""
        with self.run.store(folder=folder) if folder else nullcontext() as store:
            if store is not None and len(store) != logs:
                raise ClusterError(
                    f"A worker sees {len(store)} logs in {folder}, and the run {logs}: workers have to share "
                    "the run's folder, and nobody else may write there."
                )
            for trace in Local(self.run).answer((q for _, q in items), replace(asking, store=store)):
                yield trace.question_id, trace

    def encode(
        self, items: Sequence[tuple[Wanted, dict[str, Trace]]], policies: Mapping[str, Policy]
    ) -> Iterator[tuple[Wanted, KVBlock | LagkitError]]:
        """Blocks in the processor's memory, or why there is none. An item has the log and who lends it a context."""
        for wanted, logs in items:
            for _, block in Local(self.run).encode([wanted], logs, policies):
                yield wanted, block if isinstance(block, Exception) else block.to(device="cpu")
