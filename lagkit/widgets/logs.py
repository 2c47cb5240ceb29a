"""A store's logs as tables and as a map: what `LogExplorer` lists, searches and draws."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lagkit.errors import StoreError
from lagkit.index import Vectors
from lagkit.plots.explore import log_map
from lagkit.retrieve import Embedder
from lagkit.store import Store

JUDGED = {True: "right", False: "wrong", None: "not judged"}
# Neighbourhoods of more logs take t-SNE too long to draw while somebody waits.
_MANY = 3000
_FEW = 5


def logs_table(store: Store) -> pd.DataFrame:
    """One row per log, oldest first, named by its id.

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
        for t in store.traces()
    ]
    table = pd.DataFrame(rows, columns=["log", "question", "answer", "right", "rounds"]).set_index("log")
    return table.join(store.sizes()[["tokens", "bytes"]])


def search_table(
    store: Store,
    embedder: Embedder | None,
    query: str = "",
    *,
    k: int | None = None,
    right: str = "",
    rounds: tuple[int, int] | None = None,
    nbytes: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """The rows of `logs_table` that fit, best first by the `cosine` of `query` and the log's key; all logs without one.

    right: "right", "wrong" or "not judged". rounds, nbytes: lowest and highest, both included. k: at most so many.
    Raises EmptyStore for a query to an empty store, and StoreError for a query without words.
    """
    table = logs_table(store)
    if query.strip():
        if embedder is None:
            raise StoreError("A query needs the store's embedder: give it, or search without a query.")
        hits = store.search(embedder.queries([query.strip()]), k=max(len(table), 1))[0]
        table = table.loc[[hit.id for hit in hits]]
        table.insert(0, "cosine", [hit.score for hit in hits])
    if right:
        table = table[table["right"] == right]
    for column, limits in (("rounds", rounds), ("bytes", nbytes)):
        if limits is not None:
            table = table[table[column].between(*limits)]
    return table if k is None else table.head(k)


def delete_log(store: Store, log: str) -> None:
    """Delete a log and its blocks, through `store` or, if it is open for reading, as a writer of the moment.

    Raises StoreLocked while another process writes, and StoreError for an unknown log; then nothing is deleted.
    """
    if store.writable:
        store.delete([log])
        return
    with type(store).open(store.path, model=store.model, embedder=store.embedder, write=True) as writer:
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
    """All logs, near to those that are similar; `marked` ones with a ring.

    `places`: what `project(store.embeddings())` gave, where it is known already.
    """
    table = logs_table(store)
    where, method = places or project(store.embeddings())
    table["x"], table["y"] = where[:, 0], where[:, 1]
    table["marked"] = table.index.isin(marked or [])
    return log_map(table, f"{len(table):,} logs by similarity of question and last response ({method})")
