"""A store's logs as tables and as a map: what `LogExplorer` lists, searches and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lagkit.logs.index import Vectors
from lagkit.logs.listing import JUDGED, OLDEST_FIRST, Filter, Judged, Order
from lagkit.logs.retrieve import Embedder
from lagkit.logs.store import Store
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.util.errors import StoreError
from lagkit.views.plots.explore import log_map

# Neighbourhoods of more logs take t-SNE too long to draw while somebody waits.
_MANY = 3000
_FEW = 5
_ALL = Filter()
_NOTHING = "\N{EN DASH}"
_WORDS = 200  # characters of a text in a table
# Columns of `search_table` that people are shown, and their heads.
COLUMNS = {
    "cosine": "cosine",
    "question": "question",
    "answer": "answer",
    "right": "judged",
    "rounds": "rounds",
    "bytes": "KiB",
}
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


def logs_table(store: Store, logs: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per log, named by its id: for those of `logs`, in that order, or for all, oldest first.

    Columns: `question`, `answer` (empty if none was given), `right` ("right", "wrong" or "not judged"), `rounds`, and
    over its KV blocks of all policies `tokens` and `bytes`.
    """
    rows = [
        {
            "log": t.id,
            "question": t.question,
            "answer": t.answer or "",
            "right": JUDGED[t.correct],
            "rounds": len(t.rounds),
        }
        for t in store.traces(logs)
    ]
    table = pd.DataFrame(rows, columns=["log", "question", "answer", "right", "rounds"]).set_index("log")
    return table.join(store.sizes(logs)[["tokens", "bytes"]])


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

    Raises EmptyStore for a query to an empty store, and StoreError for a query without words.
    """
    query, order = wanted.query.strip(), wanted.order
    if not query:
        listed, scores = store.matching(wanted.filter, order=order), dict[str, float]()
    elif embedder is None:
        raise StoreError("A query needs the store's embedder: give it, or search without a query.")
    else:
        fitting = None if wanted.filter == _ALL else set(store.matching(wanted.filter))
        others = set() if fitting is None else set(store.ids) - fitting
        [hits] = store.search(embedder.queries([query]), wanted.nearest or max(len(store), 1), 0, others)
        scores = {hit.id: hit.score for hit in hits if hit.score > wanted.least}
        if order.by == "added":
            listed = [*scores][:: -1 if order.down else 1]
        else:
            listed = [log for log in store.matching(wanted.filter, order=order) if log in scores]
    return [log for log in listed if wanted.among is None or log in wanted.among], scores


def search_table(
    store: Store,
    embedder: Embedder | None,
    query: str = "",
    *,
    k: int | None = None,
    offset: int = 0,
    right: Judged = "",
    rounds: tuple[int, int] | None = None,
    nbytes: tuple[int, int] | None = None,
    order: Order = OLDEST_FIRST,
    least: float = -math.inf,
) -> pd.DataFrame:
    """The rows of `logs_table` that fit, best first by the `cosine` of `query` and the log's key; all logs without one.

    right: "right", "wrong" or "not judged". rounds, nbytes: lowest and highest, both included. k: at most so many, from
    number `offset` on; only their traces are read. order: another one. least: what the cosine has to exceed, such as
    `unrelated(store, embedder)`. Raises EmptyStore for a query to an empty store, and StoreError for a query without
    words.
    """
    filter = Filter(right, rounds, nbytes)
    if not query.strip():
        return logs_table(store, store.matching(filter, offset, k, order))
    nearest = offset + k if k and order.by == "added" and not order.down else None
    found, scores = find(store, embedder, Wanted(query, filter, order, least, nearest))
    return scored(store, found[offset : offset + k if k else None], scores)


def scored(store: Store, logs: Sequence[str], scores: Mapping[str, float]) -> pd.DataFrame:
    """Rows of `logs_table`, with the cosine in front where there are any."""
    table = logs_table(store, logs)
    if scores:
        table.insert(0, "cosine", [scores[log] for log in logs])
    return table


def unrelated(store: Store, embedder: Embedder) -> float:
    """The highest cosine of any log with one of a few everyday sentences, which ask for nothing that logs are about.

    What is no more similar than that to a query may well have nothing to do with it. Raises EmptyStore.
    """
    return max(hits[0].score for hits in store.search(embedder.queries(_EVERYDAY), 1))


def told(name: str, value: Any) -> str:
    """A value of a column of `COLUMNS` as people read it."""
    if name == "cosine":
        return f"{value:.2f}"
    if name == "bytes":
        return f"{value / 1024:,.0f}" if value else _NOTHING
    return f"{value:,}" if isinstance(value, Integral) else short(str(value) or _NOTHING)


def short(text: str) -> str:
    """A text as it stands in a table; the whole one stands in the trace."""
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 1].rstrip()}…"


def run_store(run: Experiment) -> Store:
    """A run's logs for reading. Where all are there, no model is loaded; else they are made and encoded first."""
    asked = {question.id for question in run.log_questions}
    if asked <= {log.question_id for log in run.made()}:
        store = Store.open(run.config.store.place or run.out / "store")
        store.exact_search = run.config.store.search == "exact"
        store.source = run.config.store.blocks
        wanted = any(policy and policy.inject == "kv" for policy in map(get_policy, run.config.policies))
        if (store.extremes()[1] or not wanted) and {log.id for log in run.logs} == {*store.ids}:
            return store
        store.close()
    run.build()
    run.encode()
    return run.store()


def delete_log(store: Store, log: str) -> None:
    """Delete a log and its blocks, through `store` or, if it is open for reading, as a writer of the moment.

    Raises StoreLocked while another process writes, and StoreError for an unknown log; then nothing is deleted.
    """
    if store.writable:
        store.delete([log])
        return
    with type(store).open(store.path, store.model, embedder=store.embedder, write=True) as writer:
        writer.delete([log])


def project(vectors: Vectors) -> tuple[Vectors, str]:
    """Vectors `[n, dim]` as places `[n, 2]`, and the name of the method.

    t-SNE keeps neighbours together and says nothing about long distances. Very many or very few vectors get their two
    principal components instead.
    """
    if len(vectors) < 2:
        return vectors[:, :2] * 0, "a single log"
    if not _FEW <= len(vectors) <= _MANY:
        return PCA(2, random_state=0).fit_transform(vectors), "two principal components"
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=0).fit_transform(vectors)
    return places, "t-SNE"


@dataclass(frozen=True)
class Places:
    """Where logs lie on a map: `table`, rows of `logs_table` with `x` and `y`; `title` says how many, and how made."""

    table: pd.DataFrame
    title: str

    @classmethod
    def of(cls, store: Store, always: Sequence[str] = (), where: tuple[Vectors, str] | None = None) -> Places:
        """All logs of a store; of very many, every so many-th and those of `always`.

        where: what `project(store.embeddings())` gave, where it is known already.
        """
        ids = store.ids
        places, method = where or project(store.embeddings())
        step, kept = -(-len(ids) // _MANY) or 1, {*always}
        shown = [slot for slot, log in enumerate(ids) if slot % step == 0 or log in kept]
        table = logs_table(store, [ids[slot] for slot in shown])
        table["x"], table["y"] = places[shown, 0], places[shown, 1]
        of = f" of {len(ids):,}" if step > 1 else ""
        return cls(table, f"{len(table):,}{of} logs by similarity of question and last response ({method})")


def similarity_map(store: Store, marked: Sequence[str] = (), places: tuple[Vectors, str] | None = None) -> go.Figure:
    """The logs, near to those that are similar; `marked` ones with a ring. Of very many, every so many-th is shown.

    `places`: what `project(store.embeddings())` gave, where it is known already.
    """
    there = Places.of(store, marked, places)
    return log_map(there.table.assign(marked=there.table.index.isin([*marked])), there.title)
