"""What is looked for in a store, by words and by filters, and what is said of what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lagkit.logs.listing import OLDEST_FIRST, Filter, Order
from lagkit.logs.retrieve import Embedder, load_embedder
from lagkit.logs.store import Store
from lagkit.views.widgets.logs import logs_table, short

_ALL = Filter()
_EVERYDAY = (
    "Knead the dough, let it rest, then bake it.",
    "My bicycle chain squeaks whenever it rains.",
    "Please turn the volume down, the baby sleeps.",
    "Tomatoes ripen faster beside a banana.",
    "The printer jams on thick paper.",
    "Socks vanish in every laundry.",
    "Wipe the whiteboard before lunch.",
    "Gravel crunched beneath muddy boots.",
)


@dataclass(frozen=True)
class Wanted:
    """What is looked for in a store, and in which order; by default all logs, oldest first, or best first for a query.

    least: the cosine that a log has to exceed. nearest: of a query, at most so many. among: ids, or None for all.
    """

    query: str = ""
    filter: Filter = _ALL
    order: Order = OLDEST_FIRST
    least: float = -math.inf
    nearest: int | None = None
    among: frozenset[str] | None = None


def find(store: Store, embedder: Embedder | None, wanted: Wanted) -> tuple[list[str], dict[str, float]]:
    """The ids of all logs that are wanted, in order, and the cosine of each where there is a query.

    embedder: None for the store's own. Raises EmptyStore, and StoreError for a query without words.
    """
    query, order = wanted.query.strip(), wanted.order
    if not query:
        listed, scores = store.matching(wanted.filter, order=order), dict[str, float]()
    else:
        others = set() if wanted.filter == _ALL else {*store.ids} - {*store.matching(wanted.filter)}
        vector = (embedder or load_embedder(store.embedder)).queries([query])
        [hits] = store.search(vector, wanted.nearest or max(len(store), 1), 0, others)
        scores = {hit.id: hit.score for hit in hits if hit.score > wanted.least}
        if order.by == "added":
            listed = [*scores][:: -1 if order.down else 1]
        else:
            listed = [log for log in store.matching(wanted.filter, order=order) if log in scores]
    return [log for log in listed if wanted.among is None or log in wanted.among], scores


def search_table(store: Store, embedder: Embedder | None, query: str = "", *, k: int | None = None) -> pd.DataFrame:
    """The first `k` rows of `logs_table`, best first by the `cosine` of `query` and the log's key; raises as `find`."""
    found, scores = find(store, embedder, Wanted(query, nearest=k))
    return scored(store, found[:k], scores)


def scored(store: Store, logs: Sequence[str], scores: Mapping[str, float]) -> pd.DataFrame:
    """Rows of `logs_table`, with the cosine in front where there are any."""
    table = logs_table(store, logs)
    if scores:
        table.insert(0, "cosine", [scores[log] for log in logs])
    return table


def unrelated(store: Store, embedder: Embedder) -> float:
    """The highest cosine of any log with everyday sentences, which ask for nothing of theirs. Raises EmptyStore."""
    return max(hits[0].score for hits in store.search(embedder.queries(_EVERYDAY), 1))


def some_found(store: Store, wanted: Wanted, found: Sequence[str]) -> str:
    """How many logs were found, and by what."""
    inside, similar = " inside the lasso" if wanted.among else "", ""
    if wanted.query:
        most = "the nearest " if wanted.nearest == len(found) else ""
        similar = f", {most}similar to “{short(wanted.query)}” (cosine above {wanted.least:.2f})"
    return f"{len(found):,} of {len(store):,} logs{inside}{similar}."


def none_found(store: Store, wanted: Wanted, found: Sequence[str], scores: Mapping[str, float]) -> str:
    """Why nothing was found; empty where something was."""
    if found:
        return ""
    if not len(store):
        return "The store has no logs yet."
    if wanted.query and not scores:
        return (
            f"Nothing is similar to “{short(wanted.query)}”: no log that fits is nearer to it than everyday "
            f"sentences are to logs (cosine {wanted.least:.2f})."
        )
    return f"No log fits: 0 of {len(store):,} logs."
