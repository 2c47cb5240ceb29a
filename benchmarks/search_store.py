"""Searching whole stores: exactly, and by codes, from the first search of a process on.

    python -m benchmarks.search_store --out benchmarks/results/search_store.json [--sizes 10000 30000]

The logs' embeddings and the queries are made up (`benchmarks.embeddings`), their traces are short. Each way of
searching runs in a fresh process on one thread, with the store's files in the page cache of the system.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embeddings import Embeddings, Shape
from lagkit.logs import quantised, vectors
from lagkit.logs.header import Header
from lagkit.logs.store import LogStore
from lagkit.runs.manifest import machine, versions
from lagkit.types import Round, Trace
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import say

SIZES = (10_000, 20_000, 30_000, 50_000, 100_000, 300_000, 1_000_000)
K, BATCH, TIMED = 3, 32, 256
Row = dict[str, Any]


def fill(folder: Path, n: int) -> Row:
    """A store of `n` logs and beside it its queries; how long adding and closing took."""
    vectors.QUANTISED_FROM, made = 1, Embeddings(Shape.load(), n)
    np.save(folder / "queries.npy", made.queries(TIMED))
    with LogStore.new(folder / "store", Header.new({}, "made-up", made.dim, "bfloat16")) as store:
        began = time.perf_counter()
        told = (Trace(str(i), f"Question {i}?", "", (Round("?", "!"),)) for i in range(n))
        store.add_many((trace, row, {}) for trace, row in zip(told, made.logs, strict=True))
        added, began = time.perf_counter() - began, time.perf_counter()
    file = folder / "store" / quantised.NAME
    size = {"codes_mb": file.stat().st_size / 1e6, "store_mb": store.nbytes / 1e6}
    return {"add_s": added, "close_s": time.perf_counter() - began, **size}


def probe(folder: Path, exact: bool) -> Row:
    """Open and search in this process; with the slots found, to compare."""
    vectors.QUANTISED_FROM, queries = 1, np.load(folder / "queries.npy")
    before, began = _memory_mb(), time.perf_counter()
    with LogStore.open(folder / "store") as store:
        store.exact_search = exact
        opened = time.perf_counter() - began
        store.search(queries[:1], K)
        first, memory = time.perf_counter() - began, _memory_mb() - before
        found = [store.search(queries[i : i + 1], K)[0] for i in range(8)]  # warms up
        single, batches = [], []
        for i in range(TIMED):
            began = time.perf_counter()
            found[i:] = store.search(queries[i : i + 1], K)
            single.append(1e3 * (time.perf_counter() - began))
        for i in range(0, TIMED, BATCH):
            began = time.perf_counter()
            assert store.search(queries[i : i + BATCH], K) == found[i : i + BATCH]
            batches.append(1e3 * (time.perf_counter() - began) / BATCH)
    times = {"ms": np.median(single), "p95_ms": np.quantile(single, 0.95), "batch_ms": np.median(batches)}
    told = {"open_ms": 1e3 * opened, "first_search_s": first, "memory_mb": memory, **times}
    return {**{k: float(v) for k, v in told.items()}, "found": [[hit.id for hit in hits] for hits in found]}


def measure(n: int) -> list[Row]:
    """Both ways of searching a store of `n` logs; recall is the share of the exact three that codes find."""
    with tempfile.TemporaryDirectory() as name:
        made = _apart(f"fill(Path({name!r}), {n})")
        rows = {search: _apart(f"probe(Path({name!r}), {search == 'exact'})") for search in ("exact", "codes")}
    wanted, found = (rows[search].pop("found") for search in ("exact", "codes"))
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(wanted, found, strict=True)])
    rows["exact"]["recall"], rows["codes"]["recall"] = 1.0, float(recall)
    return [{"logs": n, "search": search, **made, **row} for search, row in rows.items()]


def _apart(call: str) -> Row:
    code = f"import json; from benchmarks.search_store import *; print(json.dumps({call}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _memory_mb() -> float:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def main() -> None:
    """Measure what `--out` lacks."""
    parser = argparse.ArgumentParser(prog="benchmarks.search_store", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=at, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    args = parser.parse_args()
    rows: list[Row] = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    for n in args.sizes:
        if not any(row["logs"] == n for row in rows):
            rows += measure(n)
            write_json(args.out, {"rows": rows, "k": K, "batch": BATCH, "machine": machine(), "versions": versions()})
            for row in rows[-2:]:
                say(json.dumps(row))


if __name__ == "__main__":
    main()
