"""Attribution of retrieval: a log's score, and the words of the query that the score rests on."""

from __future__ import annotations

import re

import pandas as pd

from lagkit.logs.retrieve import Embedder
from lagkit.logs.store import Store
from lagkit.runs.experiment import Experiment
from lagkit.types import Question

_WORD = re.compile(r"\w+")


def retrieved(store: Store, embedder: Embedder, query: str, k: int = 3) -> pd.DataFrame:
    """The `k` logs nearest to a query, best first, with reasons; indexed by log id.

    Columns: `score` (cosine), the log's `question` and `answer`, whether that is `right`, and `because`: the words of
    the query without which the score would be lower, each with what it adds, the largest first. Raises EmptyStore.
    """
    [hits] = store.search(embedder.queries([query]), k)
    rows = {}
    for hit in hits:
        trace = store.get(hit.id)
        words = contributions(embedder, query, trace.key)
        rows[hit.id] = {
            "score": hit.score,
            "question": trace.question,
            "answer": trace.answer,
            "right": {True: "right", False: "wrong", None: "not judged"}[trace.correct],
            "because": ", ".join(f"{word} {added:+.2f}" for word, added in words.items() if added >= 0.005),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("log")


def contributions(embedder: Embedder, query: str, text: str) -> pd.Series:
    """Contribution of each word of `query` to its cosine with `text`: the score less that without the word.

    By word in its first spelling, the largest first.
    """
    words = list({word.lower(): word for word in reversed(_WORD.findall(query))}.values())[::-1]
    without = [re.sub(rf"\b{re.escape(word)}\b", " ", query, flags=re.IGNORECASE) for word in words]
    scores = embedder.queries([query, *without]) @ embedder.documents([text])[0]
    return pd.Series(scores[0] - scores[1:], words, dtype=float).sort_values(ascending=False, kind="stable")


def found_by_rank(experiment: Experiment) -> pd.Series:
    """Share of unseen questions with a log that shares a hop among the first k, by k up to the run's number of logs.

    Of those that share a hop with any log; empty if there are none, as for data without hops.
    """
    hops = {question.id: {hop.id for hop in question.hops} for question in experiment.log_questions}
    with experiment.store() as store:
        owners = {trace.id: trace.question_id for trace in store.traces()}
        known = {hop for owner in owners.values() for hop in hops[owner]}
        asked = [question for question in experiment.questions("unseen") if _shares(question, known)]
        if not asked:
            return pd.Series(dtype=float, name="found").rename_axis("logs")
        found = store.search(experiment.embedder.queries([q.text for q in asked]), experiment.config.limits.logs)
    useful = [[_shares(q, hops[owners[hit.id]]) for hit in hits] for q, hits in zip(asked, found, strict=True)]
    shares = {k: sum(any(row[:k]) for row in useful) / len(asked) for k in range(1, experiment.config.limits.logs + 1)}
    return pd.Series(shares, name="found").rename_axis("logs")


def _shares(question: Question, hops: set[str]) -> bool:
    return any(hop.id in hops for hop in question.hops)
