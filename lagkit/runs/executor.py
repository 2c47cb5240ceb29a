"""Executors: run the model in this process or in workers (`runs.workers`); the experiment writes all files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lagkit.logs.encode import Encoder
from lagkit.logs.stranger import Logs
from lagkit.model.backend import Model
from lagkit.model.kv import KVBlock
from lagkit.policy import Policy
from lagkit.types import Question, Trace
from lagkit.util.errors import ContextTooLong, LagkitError
from lagkit.util.terminal import printable, tell

if TYPE_CHECKING:
    from lagkit.logs.store import Store
    from lagkit.runs.experiment import Experiment
    from lagkit.types import Limits

Wanted = tuple[str, str]  # a log's id and the key of the block that it lacks


@dataclass(frozen=True)
class Asking:
    """How questions are asked: the arguments of `Experiment.agent`."""

    policy: Policy | None
    name: str
    store: Store | None
    limits: Limits
    exclude: Mapping[str, Collection[str]] | None = None


class Local:
    """The run's own model, in this process; `runs.workers.Workers` has the same members, for many.

    about: the workers, for the manifest; here there are none.
    """

    about = None

    def __init__(self, run: Experiment) -> None:
        self.run = run

    @property
    def model(self) -> Model:
        """The run's, loaded when it is first needed."""
        return self.run.lm

    def block_keys(self, policy: Policy) -> list[str]:
        """As `Encoder.keyed`."""
        return list(Encoder(self.run.local_lm, self.run.prompt).keyed(policy))

    def answer(self, questions: Iterable[Question], asking: Asking) -> Iterator[Trace]:
        """Each question's trace as it ends, in any order. Raises what `Agent` and its `run` do."""
        agent = self.run.agent(asking.policy, asking.name, asking.store, limits=asking.limits, exclude=asking.exclude)
        return agent.run(questions)

    def encode(
        self, wanted: Iterable[Wanted], logs: Logs, policies: Mapping[str, Policy]
    ) -> Iterator[tuple[Wanted, KVBlock | LagkitError]]:
        """The blocks, or why there is none, in any order; `policies` are by key. Raises NoStranger."""
        if not policies:  # no local model is needed, then
            return
        encoder = Encoder(self.run.local_lm, self.run.prompt, logs)
        encoders = {key: encoder.keyed(policy)[key] for key, policy in policies.items()}
        for log, key in wanted:
            try:
                yield (log, key), encoders[key].encode(logs[log], policies[key])
            except ContextTooLong as error:
                yield (log, key), error


def those_encoded(made: Iterable[tuple[Wanted, KVBlock | LagkitError]]) -> Iterator[tuple[str, str, KVBlock]]:
    """Blocks that could be encoded; prints which logs could not."""
    for (log, key), block in made:
        if isinstance(block, LagkitError):
            tell(printable(f"Log {log} is not encoded as {key}: {block}"))
        else:
            yield log, key, block
