"""Whether codes suit embeddings of hashed words: recall over the sentences of real passages.

python -m benchmarks.search_words DATA/musique DATA/wikihop --out benchmarks/results/search_words.json
"""

from __future__ import annotations

import argparse
import re

import numpy as np

from lagkit.datasets import loaders as data
from lagkit.logs.quantised import SAMPLE, QuantisedIndex
from lagkit.logs.retrieve import HashEmbedder
from lagkit.util.files import write_json
from lagkit.util.paths import at

K, QUERIES, WIDTHS = 3, 300, (128, 512, 2048)


def main() -> None:
    """A log is a sentence behind its passage's title; one found counts if it is as near as the exact third."""
    parser = argparse.ArgumentParser(prog="benchmarks.search_words", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=at, help="data folders (lagkit.datasets.loaders)")
    parser.add_argument("--out", type=at, required=True)
    args = parser.parse_args()
    datasets = [data.load(folder) for folder in args.folders]
    texts = [
        f"{passage.title}: {sentence}"
        for dataset in datasets
        for passage in dataset.passages
        for sentence in re.split(r"(?<=[.;!?])\s+", passage.text)
    ]
    texts = list(dict.fromkeys(texts))
    questions = [question.text for dataset in datasets for question in (*dataset.unseen, *dataset.seen)][:QUERIES]
    embedder = HashEmbedder()
    logs, queries = embedder.documents(texts), embedder.queries(questions)
    codes = QuantisedIndex.learn(logs[np.linspace(0, len(logs) - 1, SAMPLE).astype(int)], len(logs))
    codes.add(range(len(logs)), logs)
    scores = queries @ logs.T
    third = np.partition(scores, -K, axis=1)[:, -K] - 1e-6
    recalls = {}
    for width in WIDTHS:
        near = [codes.nearest(query, width)[1] for query in queries]
        hits = [min(K, (row[seqs] >= least).sum()) for row, seqs, least in zip(scores, near, third, strict=True)]
        recalls[width] = float(np.mean(hits) / K)
    print(f"{len(logs):,} sentences: " + ", ".join(f"{recall:.4f} of {w}" for w, recall in recalls.items()))
    about = {"embedder": embedder.name, "data": [folder.name for folder in args.folders], "logs": len(logs)}
    write_json(args.out, {**about, "queries": len(queries), "k": K, "recall_by_width": recalls})


if __name__ == "__main__":
    main()
