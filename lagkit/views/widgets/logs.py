"""A store's logs as tables and as a map: what `LogExplorer` lists, searches and draws."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lagkit.logs.index import Vectors
from lagkit.logs.listing import JUDGED, Filter, Judged
from lagkit.logs.retrieve import Embedder
from lagkit.logs.store import Store
from lagkit.util.errors import StoreError
from lagkit.views.plots.explore import log_map

# Neighbourhoods of more logs take t-SNE too long to draw while somebody waits.
_MANY = 3000
_FEW = 5


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
        for t in (store.traces() if logs is None else map(store.get, logs))
    ]
    table = pd.DataFrame(rows, columns=["log", "question", "answer", "right", "rounds"]).set_index("log")
    return table.join(store.sizes(logs)[["tokens", "bytes"]])


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
) -> pd.DataFrame:
    """The rows of `logs_table` that fit, best first by the `cosine` of `query` and the log's key; all logs without one.

    right: "right", "wrong" or "not judged". rounds, nbytes: lowest and highest, both included. k: at most so many, from
    number `offset` on; only their traces are read.
    Raises EmptyStore for a query to an empty store, and StoreError for a query without words.
    """
    wanted = Filter(right, rounds, nbytes)
    if not query.strip():
        return logs_table(store, store.matching(wanted, offset, k))
    if embedder is None:
        raise StoreError("A query needs the store's embedder: give it, or search without a query.")
    others = set() if wanted == Filter() else set(store.ids) - set(store.matching(wanted))
    [hits] = store.search(embedder.queries([query.strip()]), k or max(len(store), 1), offset, others)
    table = logs_table(store, [hit.id for hit in hits])
    table.insert(0, "cosine", [hit.score for hit in hits])
    return table


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


def similarity_map(
    store: Store, marked: list[str] | None = None, places: tuple[Vectors, str] | None = None
) -> go.Figure:
    """The logs, near to those that are similar; `marked` ones with a ring. Of very many, every so many-th is shown.

    `places`: what `project(store.embeddings())` gave, where it is known already.
    """
    ids = store.ids
    where, method = places or project(store.embeddings())
    step = -(-len(ids) // _MANY) or 1
    shown = [slot for slot, log in enumerate(ids) if slot % step == 0 or log in (marked or ())]
    table = logs_table(store, [ids[slot] for slot in shown])
    table["x"], table["y"] = where[shown, 0], where[shown, 1]
    table["marked"] = table.index.isin(marked or [])
    of = f" of {len(ids):,}" if step > 1 else ""
    return log_map(table, f"{len(table):,}{of} logs by similarity of question and last response ({method})")
