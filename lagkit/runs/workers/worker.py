"""A worker: one process with the run's model, which makes traces and blocks of what it is handed. Knows no Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import torch

from lagkit import __version__
from lagkit.model.backend import Backend
from lagkit.policy import Policy
from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.runs.executor import Asking, Local, Wanted
from lagkit.runs.experiment import Experiment
from lagkit.types import Question, Trace
from lagkit.util.errors import ClusterError
from lagkit.util.progress import quiet

Load = Callable[[RunConfig], Backend]


@dataclass(frozen=True)
class Greeting:
    """What a worker says of itself and its model, once that is loaded; see `executor.Model`."""

    fingerprint: Mapping[str, str]
    dtype: str
    machine: Mapping[str, Any]


class Task(Protocol):
    """A kind of work: items come in as pairs of a key and what it stands for, results go out under the same keys."""

    def work(self, run: Experiment, hand: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Results as they come; takes items in order, when there is room for them."""


@dataclass(frozen=True)
class Answering:
    """Questions under one policy. folder, logs: the store that the driver has open, and how many logs it sees there."""

    asking: Asking
    folder: Path | str | None
    logs: int

    def work(self, run: Experiment, hand: Iterator[tuple[str, Question]]) -> Iterator[tuple[str, Trace]]:
        """Traces by their question's id."""
        questions = map(itemgetter(1), hand)
        if self.folder is None:
            yield from ((trace.question_id, trace) for trace in Local(run).answer(questions, self.asking))
            return
        with run.store(folder=self.folder) as store:
            if len(store) != self.logs:
                raise ClusterError(
                    f"A worker sees {len(store)} logs in {self.folder}, and the run {self.logs}: workers have to share "
                    "the run's folder, and nobody else may write there."
                )
            traces = Local(run).answer(questions, replace(self.asking, store=store))
            yield from ((trace.question_id, trace) for trace in traces)


@dataclass(frozen=True)
class Encoding:
    """Logs, each with the one that lends its context, if any; blocks leave for the processor's memory."""

    policies: Mapping[str, Policy]

    def work(self, run: Experiment, hand: Iterator[tuple[Wanted, dict[str, Trace]]]) -> Iterator[tuple[Wanted, Any]]:
        """Blocks, or why there is none, by what was wanted."""
        for wanted, logs in hand:
            [(_, block)] = Local(run).encode([wanted], logs, self.policies)
            yield wanted, block if isinstance(block, Exception) else block.to(device="cpu")


class Worker:
    """The run's model and data in a process of its own."""

    def __init__(self, run: Experiment, token: str, threads: int, load: Load | None) -> None:
        os.environ["LAGKIT_PROGRESS"] = "off"
        self.run, self.token, self.threads, self.load = run, token, threads, load

    def arrive(self, version: str) -> None:
        """Raise ClusterError where worker and run do not fit."""
        if version != __version__:
            raise ClusterError(
                f"A worker has lagkit {__version__}, and the run {version}: install the same everywhere."
            )
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

    def block_keys(self, policy: Policy) -> list[str]:
        """As the model's tokenizer has it."""
        return Local(self.run).block_keys(policy)

    def work(self, task: Task, items: Sequence[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The results of a chunk, as they come."""
        yield from task.work(self.run, iter(items))
