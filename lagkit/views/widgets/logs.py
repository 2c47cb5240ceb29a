"""A store's logs: searched, in tables and on a map, as `LogExplorer` lists and draws them."""

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
from lagkit.logs.listing import JUDGED, OLDEST_FIRST, Filter, Order
from lagkit.logs.retrieve import Embedder, load_embedder
from lagkit.logs.store import Store
from lagkit.model.prompts.untrusted import encodable
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.views.plots.explore import log_map

# Neighbourhoods of more logs take t-SNE too long to draw while somebody waits.
_MANY = 3000
_FEW = 5
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


def logs_table(store: Store, logs: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per log, named by its id: for those of `logs`, in that order, or for all, oldest first.

    Columns: `question`, `answer` (empty if none was given), `right` ("right", "wrong" or "not judged"), `rounds`, and
    over its KV blocks of all policies `tokens` and `bytes`.
    """
    rows = [
        (t.id, encodable(t.question), encodable(t.answer or ""), JUDGED[t.correct], len(t.rounds))
        for t in store.traces(logs)
    ]
    table = pd.DataFrame(rows, columns=["log", "question", "answer", "right", "rounds"]).set_index("log")
    return table.join(store.sizes(logs)[["tokens", "bytes"]])


def texts(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The columns of a `search_table` that people are shown, and its rows as they read them."""
    shown = [name for name in COLUMNS if name in table]
    return shown, [[_told(name, row[name]) for name in shown] for row in table[shown].to_dict("records")]


def _told(name: str, value: Any) -> str:
    if name == "cosine":
        return f"{value:.2f}"
    if name == "bytes":
        return f"{value / 1024:,.0f}" if value else _NOTHING
    return f"{value:,}" if isinstance(value, Integral) else short(str(value) or _NOTHING)


def short(text: str) -> str:
    """A text as it stands in a table; the whole one stands in the trace."""
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 1].rstrip()}…"


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

    embedder: None for the store's own. Raises EmptyStore.
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


def search_table(
    store: Store,
    embedder: Embedder | None,
    query: str = "",
    *,
    k: int | None = None,
    filter: Filter = _ALL,
    order: Order = OLDEST_FIRST,
    least: float = -math.inf,
) -> pd.DataFrame:
    """The first `k` rows of `logs_table`, best first by the `cosine` of `query` and the log's key; raises as `find`.

    Another order sorts all that is found. least: the cosine to exceed, such as `unrelated(store, embedder)`.
    """
    nearest = k if order == OLDEST_FIRST else None
    found, scores = find(store, embedder, Wanted(query, filter, order, least, nearest))
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


def told(store: Store, wanted: Wanted, found: Sequence[str], scores: Mapping[str, float]) -> str:
    """How many logs were found, and by what; or why none was."""
    if not len(store):
        return "The store has no logs yet."
    if wanted.query and not scores:
        return (
            f"Nothing is similar to “{short(wanted.query)}”: no log that fits is nearer to it than everyday "
            f"sentences are to logs (cosine {wanted.least:.2f})."
        )
    if not found:
        return f"No log fits: 0 of {len(store):,} logs."
    inside, similar = " inside the lasso" if wanted.among else "", ""
    if wanted.query:
        most = "the nearest " if wanted.nearest == len(found) else ""
        similar = f", {most}similar to “{short(wanted.query)}” (cosine above {wanted.least:.2f})"
    return f"{len(found):,} of {len(store):,} logs{inside}{similar}."


def run_store(run: Experiment) -> Store:
    """A run's logs for reading. Where all are there, no model is loaded; else they are made and encoded first."""
    asked = {question.id for question in run.log_questions}
    if asked <= {log.question_id for log in run.made()}:
        store = run.config.store.applied(Store.open(run.place("trace")))
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
    """Vectors `[n, dim]` as places `[n, 2]`, and the name of the method: t-SNE, unless they are very many or few."""
    if len(vectors) < 2:
        return vectors[:, :2] * 0, "a single log"
    if not _FEW <= len(vectors) <= _MANY:
        return PCA(2, random_state=0).fit_transform(vectors), "two principal components"
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=0).fit_transform(vectors)
    return places, "t-SNE"


def placed(
    store: Store, always: Sequence[str] = (), where: tuple[Vectors, str] | None = None
) -> tuple[pd.DataFrame, str]:
    """Rows of `logs_table` at their places `x` and `y` on a map, and its title.

    Of very many logs, every so many-th and those of `always`. where: what `project(store.embeddings())` gave, if known.
    """
    ids = store.ids
    places, method = where or project(store.embeddings())
    step, kept = -(-len(ids) // _MANY) or 1, {*always}
    shown = [slot for slot, log in enumerate(ids) if slot % step == 0 or log in kept]
    table = logs_table(store, [ids[slot] for slot in shown])
    table["x"], table["y"] = places[shown, 0], places[shown, 1]
    of = f" of {len(ids):,}" if step > 1 else ""
    return table, f"{len(table):,}{of} logs by similarity of question and last response ({method})"


def similarity_map(store: Store, marked: Sequence[str] = ()) -> go.Figure:
    """The logs, near to those that are similar; `marked` ones with a ring. Of very many, every so many-th is shown."""
    table, title = placed(store, marked)
    return log_map(table.assign(marked=table.index.isin([*marked])), title)
