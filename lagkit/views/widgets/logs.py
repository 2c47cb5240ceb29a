"""A store's logs as tables and as a map: what `LogExplorer` lists and draws."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lagkit.logs.index import Vectors
from lagkit.logs.listing import JUDGED
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


def logs_table(store: Store, logs: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per log, named by its id: for those of `logs`, in that order, or for all, oldest first.

    Columns: `question`, `answer` (empty if none was given), `right` ("right", "wrong" or "not judged"), `rounds`, and
    over its KV blocks of all policies `tokens` and `bytes`.
    """
    rows = [
        {
            "log": t.id,
            "question": encodable(t.question),
            "answer": encodable(t.answer or ""),
            "right": JUDGED[t.correct],
            "rounds": len(t.rounds),
        }
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
