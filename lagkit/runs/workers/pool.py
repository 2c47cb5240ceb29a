"""Workers as Ray's actors: each gets chunks of work, and one that dies is replaced and its work done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from lagkit.runs.workers.queue import GUILTY, Queue
from lagkit.runs.workers.worker import Greeting
from lagkit.util.errors import ClusterError, LagkitError
from lagkit.util.progress import say, warn

# One worker after the other that dies in the same place with nothing done: this many are enough.
LIVES = GUILTY + 1
# Seconds to wait while there is no room for any worker, and after how many it is told: clusters that grow take minutes.
PATIENCE, SOON = 900, 20

_MEMORY = re.compile(r"low on memory|out.of.memory|OOM", re.IGNORECASE)


@dataclass(eq=False)
class _Slot:
    """A place for one worker, which first arrives, then loads its model and sends a greeting, then works on `chunk`.

    asked: what it will answer next, a reference or a stream of them.
    """

    actor: Any = None
    asked: Any = None
    arrived: bool = False
    greeting: Greeting | None = None
    chunk: dict[Any, None] = field(default_factory=dict)
    deaths: int = 0


class Pool:
    """`count` workers, made by `make`; use `run` for one task after the other, and `close` in the end.

    Not `ray.util.ActorPool`, which tells of no failure whose it was; and not Ray's own restarts, which would repeat
    what kills in the same company, and wait for a node that is lost while other workers are free.
    """

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._make = make
        self._slots = [_Slot() for _ in range(count)]
        for slot in self._slots:
            self._hire(slot)

    def greeting(self, count: int = 1) -> Greeting:
        """What a worker says, once so many are ready. Raises what their start raised, or ClusterError if none can."""
        while len(ready := [slot.greeting for slot in self._slots if slot.greeting]) < count:
            self._next(Queue((), 1, 1))
        return ready[0]

    def run(
        self, method: str, keys: Collection[Any], item: Callable[[Any], Any], room: int, *given: Any
    ) -> Iterator[tuple[Any, Any]]:
        """The results by their keys as they come, each once; in the place of one the error that took its workers.

        method, given: of a worker, and what it gets besides its items. item: what a key stands for. room: so many items
        a worker works on at a time. Raises what a worker raises, and ClusterError when workers die again and again.
        """
        queue, shared = Queue(keys, len(self._slots), room), [ray.put(one) for one in given]
        for slot in self._slots:
            if slot.greeting:  # nothing is asked of it, but by a task that was broken off
                slot.asked, slot.chunk = None, {}
        while queue or any(slot.chunk for slot in self._slots):
            for slot in self._slots:
                if queue and slot.greeting and slot.asked is None:
                    slot.chunk = dict.fromkeys(queue.take())
                    work = getattr(slot.actor, method).options(num_returns="streaming")
                    slot.asked = work.remote([(key, item(key)) for key in slot.chunk], *shared)
            yield from self._next(queue)

    def close(self) -> None:
        """End all workers, whatever they do."""
        for slot in self._slots:
            ray.kill(slot.actor)

    def _hire(self, slot: _Slot) -> None:
        slot.actor, slot.arrived, slot.greeting, slot.chunk = self._make(), False, None, {}
        slot.asked = slot.actor.arrive.remote(version("lagkit"))

    def _next(self, queue: Queue[Any]) -> list[tuple[Any, Any]]:
        """The results that are in the next answer, by whichever worker; guilty ones, if it is a death."""
        asked = {slot.asked: slot for slot in self._slots if slot.asked is not None}
        ready = self._wait(asked)
        slot = asked[ready]
        self._slots.remove(slot)  # to the end: the first that is ready is taken, and all shall have their turn
        self._slots.append(slot)
        try:
            answer = _result(next(ready) if slot.chunk else ready)
        except RayError as death:
            held = list(slot.chunk)
            cause = self._died(slot, death)
            error = ClusterError(f"it took {GUILTY} workers with it, the last one alone ({cause})")
            return [(key, error) for key in queue.died(held)]
        if not slot.arrived:
            slot.arrived, slot.asked = True, slot.actor.greet.remote()
            return []
        if slot.greeting is None:
            slot.greeting, slot.asked = answer, None
            return []
        del slot.chunk[answer[0]]
        slot.asked = ready if slot.chunk else None
        slot.deaths = 0
        return [answer]

    def _wait(self, asked: dict[Any, _Slot]) -> Any:
        """The first of these that is there; no longer than `PATIENCE` while none of the workers has even arrived."""
        limits = [None] if any(slot.arrived for slot in asked.values()) else [min(SOON, PATIENCE), PATIENCE]
        for limit in limits:
            ready, _ = ray.wait(list(asked), timeout=limit)
            if ready:
                return ready[0]
            say(f"No worker has started yet: the cluster has {resources()}.")
        raise ClusterError(
            f"No worker has started within {PATIENCE} s: the cluster has {resources()}. Ask for less for each, or make "
            "room."
        )

    def _died(self, slot: _Slot, error: RayError) -> str:
        """Put another in the place of a worker that died; returns the cause."""
        cause = cause_of(error)
        slot.deaths += 1
        if slot.deaths >= LIVES:
            raise ClusterError(
                f"{slot.deaths} workers died one after the other with nothing done ({cause}): give each more memory, "
                "or lower batch_size. What is done stays; the same command resumes."
            ) from None
        warn(f"A worker died ({cause}); another takes its place, and what it had in hand is done again.")
        ray.kill(slot.actor)  # it may be out of reach and alive
        self._hire(slot)
        return cause


def _result(reference: Any) -> Any:
    """What a worker answered. What it raised is raised here; RayError if it died."""
    try:
        return ray.get(reference)
    except ActorDiedError as error:
        if not error.actor_init_failed:
            raise
        reason = error.error_msg.strip().splitlines()[-1]
        raise ClusterError(f"A worker cannot start: {reason}. Each node needs this lagkit.") from None
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayError) or not isinstance(cause, Exception):
            raise
        if not isinstance(cause, LagkitError):
            cause.add_note(str(error))
        raise cause from None


def cause_of(error: RayError) -> str:
    """Why a worker died, in some words."""
    said = str(error)
    if _MEMORY.search(said.partition("Some common causes")[0]):
        return "its node ran out of memory"
    if re.search(r"node.*(died|dead|terminated)", said, re.IGNORECASE):
        return "its node was lost"
    if "Some common causes" in said:
        return "its process was killed, as it is when memory runs out, or crashed"
    return " ".join(said.split())[:200]


def resources() -> str:
    """What the cluster has, in words."""
    have = ray.cluster_resources()
    return f"{have.get('CPU', 0):g} processors and {have.get('GPU', 0):g} GPUs"
