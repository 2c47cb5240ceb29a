"""Retrieval for the agent: passages and logs for each query, and the order in which they are shown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lagkit.logs.encode import kept_text
from lagkit.logs.index import VectorIndex, Vectors
from lagkit.logs.retrieve import Embedder, PassageIndex
from lagkit.logs.store import Store
from lagkit.policy import Policy
from lagkit.types import Hit, Limits
from lagkit.util.errors import EndpointError, LagkitError


@dataclass
class Found:
    """What one question has found, each hit once. `new` is what its last query brought: passages and logs.

    passages, logs: ids in the order of retrieval, each with the number of the query that brought it.
    """

    query: str
    asked: Counter[str] = field(default_factory=Counter)
    passages: dict[str, int] = field(default_factory=dict)
    logs: dict[str, int] = field(default_factory=dict)
    new: tuple[tuple[Hit, ...], tuple[Hit, ...]] = ((), ())

    def add(self, passages: Sequence[Hit], logs: Sequence[Hit]) -> None:
        """Take what the query has brought."""
        number = list(self.asked).index(self.query)
        self.new = _new(passages, self.passages, number), _new(logs, self.logs, number)


def shown(found: Mapping[str, int], *, grouped: bool) -> list[str]:
    """Ids in the order in which they are shown: that of retrieval, or `grouped` by query, the first one first."""
    return sorted(found, key=found.__getitem__) if grouped else list(found)


class Retriever:
    """Searches passages and logs as a policy and limits ask for. exclude: as in `Agent`."""

    def __init__(
        self,
        embedder: Embedder,
        passages: PassageIndex | None,
        policy: Policy | None,
        store: Store | None,
        limits: Limits,
        exclude: Mapping[str, Collection[str]],
    ) -> None:
        self.embedder, self.passages, self.limits, self.exclude = embedder, passages, limits, exclude
        self.policy, self.store = policy, store
        self._whole, self._known = VectorIndex(embedder.dim), set[str]()  # logs that all of their responses find

    def find(self, some: Sequence[tuple[str, Found]]) -> dict[int, LagkitError]:
        """Search for every question (its id, and what it has found); why it failed, by the number of the question.

        A query that was asked before brings the next best ones. Questions for which the same is asked of an index are
        searched for at once. Raises EndpointError.
        """
        vectors = np.asarray(self.embedder.queries([found.query for _, found in some]))
        alike: dict[tuple[int, frozenset[str]], list[int]] = defaultdict(list)
        for number, (id, found) in enumerate(some):
            alike[found.asked[found.query], frozenset(self.exclude.get(id, ()))].append(number)
            found.asked[found.query] += 1
        failed: dict[int, LagkitError] = {}
        todo = [*alike.items()]
        while todo:
            (before, barred), group = todo.pop()
            try:
                passages, logs = self._passages(vectors[group], before), self._logs(vectors[group], before, barred)
            except EndpointError:
                raise
            except LagkitError as error:
                if len(group) == 1:
                    failed[group[0]] = error
                else:  # one by one, so that only the culprit fails
                    todo += [((before, barred), [number]) for number in group]
                continue
            for number, its_passages, its_logs in zip(group, passages, logs, strict=True):
                some[number][1].add(its_passages, its_logs)
        return failed

    def _passages(self, vectors: Vectors, before: int) -> list[list[Hit]]:
        k = self.limits.passages
        return [[]] * len(vectors) if self.passages is None else self.passages.search(vectors, k, offset=before * k)

    def _logs(self, vectors: Vectors, before: int, barred: frozenset[str]) -> list[list[Hit]]:
        if not self.policy or self.store is None:
            return [[]] * len(vectors)
        k, least = self.limits.logs, self.limits.min_similarity
        logs = self.store if self.policy.found_by == "last_response" else self._by_all_responses(self.store)
        found = logs.search(vectors, k, offset=before * k, exclude=barred)
        return [[hit for hit in hits if least is None or hit.score >= least] for hits in found]

    def _by_all_responses(self, store: Store) -> VectorIndex:
        """The store's logs by question and all responses: its own embeddings are of the last ones."""
        ids = store.ids
        self._whole.remove(self._known - set(ids))
        new, self._known = [id for id in ids if id not in self._known], set(ids)
        if new:
            logs = (store.get(id) for id in new)
            texts = [f"{log.question}\n{kept_text(log, 'all_rounds')}".strip() for log in logs]
            self._whole.add(new, self.embedder.documents(texts))
        return self._whole


def _new(hits: Sequence[Hit], seen: dict[str, int], query: int) -> tuple[Hit, ...]:
    """The hits that a question has not seen yet, which it has from now on."""
    new = tuple(hit for hit in hits if hit.id not in seen)
    seen.update((hit.id, query) for hit in new)
    return new
