"""Embedding of passages against what this machine can do: `python -m benchmarks.embed --data FOLDER --out FILE.json`.

The limit is the time of the embedder's matrix products alone, of as many rows as the passages have tokens: no padding,
no attention, no tokenizer. Passages go the way of a run, through a cache that is empty, and once more when it is full.
Limit and embedding are timed in turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from sentence_transformers import SentenceTransformer
from torch import nn

from benchmarks.limits import products
from lagkit.datasets import loaders
from lagkit.logs.retrieve import CachedEmbedder, SentenceEmbedder
from lagkit.model.hub import resolve_embedder
from lagkit.model.prompts.prompt import Prompt
from lagkit.runs.manifest import git_state, machine, versions
from lagkit.util.cli import show
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import quiet

ROOT = Path(__file__).parents[1]
ROWS, PRODUCTS = 4_096, 5  # that tell the limit: those of all tokens would not fit into memory
REPEATS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, show the table and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed", description=__doc__)
    parser.add_argument("--data", type=at, default=ROOT / "data" / "sample", help="folder of a data set with passages")
    parser.add_argument("--passages", type=int, default=1_000, help="at most so many, drawn by a seed")
    parser.add_argument("--out", type=at, help="the JSON file")
    args = parser.parse_args(argv)
    quiet()
    data = loaders.load(args.data)
    drawn = random.Random(0).sample(data.passages, min(args.passages, len(data.passages)))
    name = "minilm"
    model = SentenceTransformer(str(resolve_embedder(name, {})), device="cpu")
    row = {"embedder": name, "data": data.name} | measured(model, [Prompt.of("qa").embedded(one) for one in drawn])
    show(pd.DataFrame([row]).set_index("embedder"), "Passages embedded")
    if args.out:
        write_json(args.out, {"rows": [row], "machine": machine(), "versions": versions(), "git": git_state()})


def measured(model: SentenceTransformer, texts: Sequence[str]) -> dict[str, Any]:
    """`limit_s`, `took_s`, `cached_s`: seconds of the products alone, of embedding, and of reading the cache.

    tokens: of all texts, without padding. share = limit_s / took_s. gflops: the rate of the products.
    """
    tokens = sum(map(len, model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]))
    named = model.named_modules()  # without the pooler, which reads one token of a text, and whose words nobody uses
    layers = [module for name, module in named if isinstance(module, nn.Linear) and "pooler" not in name]
    turns = [(_limit(layers), *_seconds(model, texts)) for _ in range(REPEATS)]
    limit, took, cached = (median(side) for side in zip(*turns, strict=True))
    limit *= tokens
    weights = sum(layer.weight.numel() for layer in layers)
    return {
        "passages": len(texts),
        "tokens": tokens,
        "limit_s": limit,
        "took_s": took,
        "share": limit / took,
        "cached_s": cached,
        "passages_per_s": len(texts) / took,
        "gflops": 2e-9 * weights * tokens / limit,
    }


def _limit(layers: Sequence[nn.Linear]) -> float:
    """Seconds of the products for a token."""
    return median([products(layers, ROWS) for _ in range(PRODUCTS + 1)][1:]) / ROWS


def _seconds(model: SentenceTransformer, texts: Sequence[str]) -> list[float]:
    """Of embedding the texts, and of reading them from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        embedder = CachedEmbedder(SentenceEmbedder(model, "measured"), Path(folder) / "vectors.sqlite")
        times = [time.perf_counter()]
        for _ in range(2):
            embedder.documents(texts)
            times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]


if __name__ == "__main__":
    main()
