"""What is left of a piece of work, and what becomes of items whose worker died. Knows no Ray."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Deaths of its worker after which an item is their cause: the first in company, the others alone.
GUILTY = 3
# Batches in a chunk at most: a worker's batch is full until the last of them.
BATCHES = 4


class Queue(Generic[K]):
    """Items that wait for `workers`, each of which works on up to `room` at a time."""

    def __init__(self, items: Collection[K], workers: int, room: int) -> None:
        self._waiting = deque(items)
        self._suspects: deque[K] = deque()
        self._deaths: Counter[K] = Counter()
        self._workers, self._room = workers, max(1, min(room, self._share(workers)))

    def __bool__(self) -> bool:
        return bool(self._waiting or self._suspects)

    def take(self) -> list[K]:
        """The next worker's chunk: shorter towards the end, so that all end together; then suspects, each alone."""
        if not self._waiting:
            return [self._suspects.popleft()]
        count = max(self._room, min(BATCHES * self._room, self._share(self._workers)))
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def died(self, held: Sequence[K]) -> list[K]:
        """A worker died and left these of its chunk, in order; returns the guilty ones, which have ended so.

        Those that it can have begun are suspects, and the rest waits as before.
        """
        begun, rest = held[: self._room], held[self._room :]
        self._waiting.extendleft(reversed(rest))
        self._deaths.update(begun)
        self._suspects.extend(item for item in begun if self._deaths[item] < GUILTY)
        return [item for item in begun if self._deaths[item] >= GUILTY]

    def _share(self, workers: int) -> int:
        return -(-len(self._waiting) // workers)
