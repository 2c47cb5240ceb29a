"""Synchronisation of a store with a list of logs: missing ones are added, others deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lagkit.logs.base import Store
from lagkit.logs.index import Vectors
from lagkit.types import Trace
from lagkit.util.errors import StoreMismatch


def hold(
    store: Store, logs: Sequence[Trace], ours: Callable[[Trace], bool], embed: Callable[[Sequence[str]], Vectors]
) -> list[str]:
    """Make a store hold these logs and no others; returns the ids of those that were deleted.

    A log whose verdict (`Trace.correct`) has changed is replaced, and is encoded anew. New logs come last, in the
    order of `logs`. Raises StoreMismatch as `check`.
    """
    wanted = {trace.id: trace for trace in logs}
    check(store, lambda log: log.id in wanted or ours(log))
    gone = [log.id for log in store.traces() if log.id not in wanted or log.correct != wanted[log.id].correct]
    if gone:
        store.delete(gone)
    new = [trace for trace in wanted.values() if trace.id not in store]
    vectors = embed([trace.key for trace in new])
    store.add_many((trace, vector, {}) for trace, vector in zip(new, vectors, strict=True))
    return gone


def check(store: Store, ours: Callable[[Trace], bool]) -> None:
    """Raise StoreMismatch if a store holds logs that are not `ours`."""
    if other := [log for log in store.traces() if not ours(log)]:
        questions = ", ".join(sorted({log.question_id for log in other[:3]}))
        raise StoreMismatch(
            f"The log store at {store.path} holds {len(other)} logs that this run did not make (of {questions}, for "
            "instance): give each run a store of its own, or delete these logs."
        )
