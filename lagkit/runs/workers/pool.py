"""Workers as Ray's actors: they get work bit by bit, and one that dies is replaced and its work done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from lagkit import __version__
from lagkit.runs.workers.queue import GUILTY, Queue
from lagkit.runs.workers.worker import Greeting, Task
from lagkit.util.errors import ClusterError, LagkitError
from lagkit.util.progress import say, warn

# One worker after the other that dies in the same place with nothing done: this many are enough.
LIVES = GUILTY + 1
# Seconds to wait while there is no room for any worker, and after how many it is told: clusters that grow take minutes.
PATIENCE, SOON = 900, 20

_MEMORY = re.compile(r"low on memory|out.of.memory|OOM", re.IGNORECASE)


@dataclass(eq=False)
class _Slot:
    """A place for one worker: who has it, what was asked of it last (`pending`), and what it has in hand.

    A worker first arrives, then it loads its model and sends a greeting, then it works.
    """

    actor: Any = None
    pending: Any = None
    arrived: bool = False
    greeting: Greeting | None = None
    task: int = 0
    hand: set[Any] = field(default_factory=set)
    deaths: int = 0


class Pool:
    """`count` workers, made by `make`; use `run` for one task after the other, and `close` in the end."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._make = make
        self._slots = [_Slot() for _ in range(count)]
        self._tasks = 0
        self._proven = False
        for slot in self._slots:
            self._hire(slot)

    def greeting(self, count: int = 1) -> Greeting:
        """What a worker says, once so many are ready. Raises what their start raised, or ClusterError if none can."""
        while len(ready := [slot.greeting for slot in self._slots if slot.greeting]) < count:
            self._found(*self._answer(), Queue(()))
        return ready[0]

    def ask(self, method: str, *given: Any) -> Any:
        """What a worker that is ready says to this, at a time when none works."""
        while True:
            self.greeting()
            slot = next(slot for slot in self._slots if slot.greeting)
            try:
                return _result(getattr(slot.actor, method).remote(*given))
            except RayError as error:
                self._died(slot, error)

    def run(
        self, task: Task, keys: Collection[Any], item: Callable[[Any], Any], *, room: int, count: int
    ) -> Iterator[tuple[Any, Any]]:
        """The results by their keys as they come, each once; in the place of one the error that took its workers.

        `item`: what a key stands for. room: so many items a worker has in hand at most; count: it answers with so many
        at a time. Raises what a worker raises, and ClusterError when workers die again and again.
        """
        queue, self._tasks = Queue(keys), self._tasks + 1
        room = max(1, min(room, -(-len(keys) // len(self._slots))))
        shared = ray.put(task)
        for slot in self._slots:
            slot.hand.clear()
            if slot.greeting:
                slot.pending = None  # of a task that was broken off
        while queue.left:
            for slot in self._slots:
                if slot.greeting and slot.pending is None:
                    self._hand_out(slot, shared, queue, item, room, count)
            slot, answer = self._answer()
            found = self._found(slot, answer, queue)
            if slot.greeting:  # before its results are put away, so that it works meanwhile
                self._hand_out(slot, shared, queue, item, room, count)
            yield from found

    def close(self) -> None:
        """End all workers, whatever they do."""
        for slot in self._slots:
            ray.kill(slot.actor)

    def _hire(self, slot: _Slot) -> None:
        slot.actor, slot.arrived, slot.greeting, slot.task = self._make(), False, None, 0
        slot.pending = slot.actor.arrive.remote(__version__)

    def _hand_out(
        self, slot: _Slot, task: Any, queue: Queue[Any], item: Callable[[Any], Any], room: int, count: int
    ) -> None:
        """Ask a worker that is free for results, with more to do; nothing if there is nothing for it."""
        given = queue.take(slot.hand, room)
        if not given and not slot.hand:
            return
        if slot.task != self._tasks:
            slot.actor.begin.remote(task)
            slot.task = self._tasks
        slot.hand.update(given)
        slot.pending = slot.actor.work.remote([(key, item(key)) for key in given], count)

    def _answer(self) -> tuple[_Slot, Any]:
        """The next worker that answers, and what; or the error of one that died."""
        asked = {slot.pending: slot for slot in self._slots if slot.pending is not None}
        ready = self._wait(asked)
        slot = asked[ready[0]]
        slot.pending = None
        self._slots.remove(slot)  # to the end: the first that is ready is taken, and all shall have their turn
        self._slots.append(slot)
        try:
            return slot, _result(ready[0])
        except RayError as error:
            return slot, error

    def _wait(self, asked: dict[Any, _Slot]) -> list[Any]:
        """The first of these that is there; no longer than `PATIENCE` while none of the workers has even arrived."""
        if any(slot.arrived for slot in asked.values()):
            return ray.wait(list(asked))[0]
        ready, _ = ray.wait(list(asked), timeout=min(SOON, PATIENCE))
        if not ready:
            say(f"No worker has started yet: the cluster has {resources()}.")
            ready, _ = ray.wait(list(asked), timeout=PATIENCE)
        if not ready:
            raise ClusterError(
                f"No worker has started within {PATIENCE} s: the cluster has {resources()}. Ask for less for each, or "
                "make room."
            )
        return ready

    def _found(self, slot: _Slot, answer: Any, queue: Queue[Any]) -> list[tuple[Any, Any]]:
        """The results that are in an answer."""
        if isinstance(answer, RayError):
            held, slot.hand = slot.hand, set()
            cause = self._died(slot, answer)
            return [(key, self._guilty(key, cause)) for key in queue.died(held)]
        if not slot.arrived:
            slot.arrived, slot.pending = True, slot.actor.greet.remote()
            return []
        if slot.greeting is None:
            slot.greeting = answer
            return []
        for key, _ in answer:
            queue.ended(key)
            slot.hand.remove(key)
        slot.deaths, self._proven = 0, True
        return list(answer)

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

    def _guilty(self, key: Any, cause: str) -> LagkitError:
        """The error of an item that is the cause of deaths, if workers are able to do anything else."""
        error = ClusterError(f"it took {GUILTY} workers with it, the last one alone ({cause})")
        if not self._proven:
            raise ClusterError(f"Work cannot begin with {key!r}: {error}. What is done stays.")
        return error


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
