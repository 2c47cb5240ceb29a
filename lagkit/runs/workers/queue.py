"""What is left of a piece of work, and what becomes of items whose worker died."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Deaths of its worker after which an item waits for all others and then goes to a worker alone ...
SUSPECT = 2
# ... and after which it is the cause, since it was alone with the last of them.
GUILTY = 3


class Queue(Generic[K]):
    """Items that wait, each until it `ended` or was found `guilty`: no item is given to two workers at a time.

    A worker may die of one item, and all that it had in hand are suspects. They go behind those that cost nobody yet;
    a second death with company, and an item is tried alone.
    """

    def __init__(self, items: Iterable[K]) -> None:
        self._waiting = deque(items)
        self._suspects: deque[K] = deque()
        self._given: set[K] = set()
        self._deaths: Counter[K] = Counter()

    @property
    def left(self) -> int:
        """How many have not ended."""
        return len(self._waiting) + len(self._suspects) + len(self._given)

    def take(self, held: Collection[K], room: int) -> list[K]:
        """What a worker that holds some items is given besides, so that it has `room` at most."""
        if any(self._deaths[item] >= SUSPECT for item in held):
            return []
        given = [self._waiting.popleft() for _ in range(min(room - len(held), len(self._waiting)))]
        if not given and not held and self._suspects:
            given = [self._suspects.popleft()]
        self._given.update(given)
        return given

    def ended(self, item: K) -> None:
        """An item has its result."""
        self._given.remove(item)

    def died(self, held: Collection[K]) -> list[K]:
        """A worker died with these in hand; returns those that are guilty, which have ended so."""
        guilty = []
        for item in held:
            self._given.remove(item)
            self._deaths[item] += 1
            if self._deaths[item] >= GUILTY:
                guilty.append(item)
            else:
                (self._suspects if self._deaths[item] >= SUSPECT else self._waiting).append(item)
        return guilty
