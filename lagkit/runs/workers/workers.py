"""`with Workers(run, 2): run.run()`: what takes a model is done by workers, and all else here as ever."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from lagkit.logs.encode import logs_to_encode
from lagkit.logs.stranger import Logs
from lagkit.model.kv import KVBlock
from lagkit.policy import Policy
from lagkit.runs.executor import Asking, Wanted
from lagkit.runs.experiment import Experiment
from lagkit.runs.register import refuse_elsewhere
from lagkit.runs.workers.worker import Load, Worker
from lagkit.types import Question, Trace
from lagkit.util.errors import ClusterError, ConfigError, LagkitError


class Workers:
    """`count` workers, each with a model of its own, in the place of a run's `executor.Local`.

    The run's folder is written here alone. Workers read the stores in it, so all nodes have to see it under one name.
    Its data travel to them, and models they load by the name in its settings.
    """

    def __init__(
        self,
        run: Experiment,
        count: int,
        *,
        address: str | None = None,
        gpus: float | None = None,
        threads: int | None = None,
        load: Load | None = None,
    ) -> None:
        """address: of a Ray cluster (`auto`, `HOST:6379`); None starts one on this machine.

        gpus, threads: for each worker; by default one GPU where the cluster has any, and else its processors shared
        out. load: how a worker loads its model, where not by the settings. Raises ConfigError for counts that make no
        sense, where Ray is not installed, and where the run uses what is registered in this process alone.
        """
        if find_spec("ray") is None:
            raise ConfigError("Workers need Ray: pip install 'lagkit[cluster]'.")
        if count < 1 or (threads is not None and threads < 1):
            raise ConfigError("There has to be one worker at least, with one thread or more.")
        if gpus is not None and not (0 <= gpus < 1 or gpus == int(gpus) >= 1):
            raise ConfigError(f"A worker cannot have {gpus:g} GPUs: give it a part of one, or a whole number.")
        if (address or "").startswith("ray://"):
            raise ConfigError("Ray's client (ray://) is not supported: start the run on a node of the cluster.")
        refuse_elsewhere(run.config)
        self.run, self.count, self.address, self.load = run, count, address, load
        self.gpus, self.threads = gpus, threads
        self._exit = ExitStack()

    def __enter__(self) -> Workers:
        """Start the workers, and wait for the first one; the run's folder is had alone until they end.

        Raises ClusterError, RunLocked, and what a worker's start raises.
        """
        with ExitStack() as exit:
            self._start(exit)
            self._exit = exit.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._exit.close()

    def _start(self, exit: ExitStack) -> None:
        import ray

        from lagkit.runs.workers.pool import Pool
        from lagkit.runs.workers.start import cluster

        exit.enter_context(self.run.writing())
        cores = os.cpu_count() or 1
        exit.enter_context(cluster(self.address, max(cores, self.count * (self.threads or 1))))
        self._share_out(ray.nodes())
        token = self.run.out / f".workers-{uuid.uuid4().hex[:8]}"
        token.touch()
        exit.callback(token.unlink, missing_ok=True)
        actor = ray.remote(Worker).options(num_cpus=self.threads, num_gpus=self.gpus)
        state = ray.put(self.run)
        self.pool = Pool(lambda: actor.remote(state, token.name, self.threads, self.load), self.count)
        exit.callback(self.pool.close)
        self.model = self.pool.greeting()
        self.run.workers = self
        exit.callback(setattr, self.run, "workers", None)

    def _share_out(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Settle what each worker gets."""
        cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
        gpus = sum(node["Resources"].get("GPU", 0) for node in nodes if node["Alive"])
        if self.gpus is None:
            self.gpus = 1 if gpus else 0
        if self.address is None and self.gpus * self.count > gpus:
            raise ConfigError(
                f"This machine has {gpus:g} GPUs, and {self.count} workers want {self.gpus:g} each: start fewer, or "
                "let them share with --gpus-per-worker (`gpus`), such as 0.5."
            )
        if self.threads is None:
            room = (t for t in range(1, max(cpus, default=1) + 1) if sum(c // t for c in cpus) >= self.count)
            self.threads = 1 if self.gpus else max(room, default=1)

    @property
    def about(self) -> dict[str, Any]:
        """How many workers there are, what each has, and the machine of one."""
        return {"count": self.count, "gpus": self.gpus, "threads": self.threads, "machine": dict(self.model.machine)}

    def block_keys(self, policy: Policy) -> list[str]:
        """As `Local.block_keys`."""
        [(_, keys)] = self.pool.run("block_keys", [str(policy)], lambda _: policy, 1)
        if isinstance(keys, LagkitError):
            raise ClusterError(f"No worker can tell the blocks of {policy}: {keys}. Give each more memory.")
        return list(keys)

    def answer(self, questions: Collection[Question], asking: Asking) -> Iterator[Trace]:
        """Traces as they end; a question that takes its workers with it ends with an error."""
        by_id = {question.id: question for question in questions}
        folder, logs = (None, 0) if asking.store is None else (asking.store.path, len(asking.store))
        given, room = (replace(asking, store=None), folder, logs), asking.limits.batch_size
        for id, trace in self.pool.run("answer", by_id, by_id.__getitem__, room, *given):
            if isinstance(trace, LagkitError):
                error = f"{type(trace).__name__}: question {id!r}: {trace}"
                trace = Trace(id, by_id[id].text, self.run.prompt.system, (), error=error, policy=asking.name)
            yield trace

    def encode(
        self, wanted: Sequence[Wanted], logs: Logs, policies: Mapping[str, Policy]
    ) -> Iterator[tuple[Wanted, KVBlock | LagkitError]]:
        """Blocks in the processor's memory; logs are read here, so that no worker opens a store that changes."""

        def read(want: Wanted) -> dict[str, Trace]:
            return logs_to_encode(want[0], logs, policies[want[1]])

        return self.pool.run("encode", wanted, read, 1, policies)
