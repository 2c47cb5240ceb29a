"""Flat, HNSW, IVF or a scan of 4-bit codes: recall, time and memory of FAISS's indexes of up to a million logs.

    python -m benchmarks.search --out benchmarks/results/search.json [--sizes 1000 10000] [--seconds 200]

The logs are made up (`benchmarks.embeddings`), so are the queries; recall@3 is the share of the exact three nearest
that are found. Each index is built in a process of its own, on one thread. A row is written for each way of searching
it as soon as it is measured; the same command resumes. With `--seconds` a long build stops after so many and is kept
beside the results, for the next time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.embeddings import Array, Embeddings, Shape
from lagkit.runs.manifest import machine, versions
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import say

SIZES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
K, BATCH, QUERIES, TIMED = 3, 32, 1_000, 200
Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """An index to build, and the efforts to search it with: efSearch of a graph, nprobe of an inverted file."""

    name: str
    build: Callable[[int, int], faiss.Index]  # of the dimension and the number of logs
    efforts: tuple[int, ...] = (0,)
    largest: int = SIZES[-1]
    wide: int = 0  # candidates that are scored again, for vectors that are not kept as they are

    def search(self, index: faiss.Index, queries: Array, effort: int, k: int) -> Any:
        """Slots [queries, k], by falling score."""
        made: Any = faiss  # which declares neither class of parameters as it is
        if isinstance(index, faiss.IndexHNSW):
            return index.search(queries, k, params=made.SearchParametersHNSW(efSearch=max(effort, k)))[1]
        if isinstance(index, faiss.IndexIVF):
            return index.search(queries, k, params=made.SearchParametersIVF(nprobe=effort))[1]
        return index.search(queries, k)[1]


def graph(links: int, width: int, bits: int | None = None) -> Callable[[int, int], faiss.Index]:
    """HNSW with so many links and so wide a search while it is built."""

    def build(dim: int, n: int) -> faiss.Index:
        inner = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWFlat(dim, links, inner) if bits is None else faiss.IndexHNSWSQ(dim, bits, links, inner)
        index.hnsw.efConstruction = width
        return index

    return build


def lists(factor: float, bits: int | None = None) -> Callable[[int, int], faiss.Index]:
    """IVF with `factor` times the root of the number of logs as lists."""

    def build(dim: int, n: int) -> faiss.Index:
        quantiser, count, inner = faiss.IndexFlatIP(dim), max(1, round(factor * n**0.5)), faiss.METRIC_INNER_PRODUCT
        if bits is None:
            index = faiss.IndexIVFFlat(quantiser, dim, count, inner)
        else:
            index = faiss.IndexIVFScalarQuantizer(quantiser, dim, count, bits, inner, False)
        index.cp.max_points_per_centroid, index.cp.niter, index.cp.min_points_per_centroid = 64, 10, 1
        return index

    return build


def codes(factor: float | None = None) -> Callable[[int, int], faiss.Index]:
    """Product quantisation of each two numbers to 4 bits, scanned in registers: all codes, or lists of them."""

    def build(dim: int, n: int) -> faiss.Index:
        inner = faiss.METRIC_INNER_PRODUCT
        if factor is None:
            return faiss.IndexPQFastScan(dim, dim // 2, 4, inner)
        quantiser, count = faiss.IndexFlatIP(dim), max(1, round(factor * n**0.5))
        index = faiss.IndexIVFPQFastScan(quantiser, dim, count, dim // 2, 4, inner)
        index.cp.max_points_per_centroid, index.cp.niter, index.cp.min_points_per_centroid = 64, 10, 1
        return index

    return build


EF, PROBES = (16, 32, 64, 128, 256, 512, 1024, 2048), (4, 8, 16, 32, 64, 128, 256, 512)
SQ8 = faiss.ScalarQuantizer.QT_8bit
KINDS = (
    Kind("flat", lambda dim, n: faiss.IndexFlatIP(dim)),
    Kind("scan of 8 bits", lambda dim, n: faiss.IndexScalarQuantizer(dim, SQ8, faiss.METRIC_INNER_PRODUCT), wide=32),
    Kind("scan of 4-bit codes", codes(), wide=128),
    Kind("IVF, lists = sqrt(n), 4-bit codes", codes(1), PROBES, wide=128),
    Kind("IVF, lists = sqrt(n)", lists(1), PROBES),
    Kind("IVF, lists = 4 sqrt(n)", lists(4), PROBES, largest=100_000),
    Kind("IVF, lists = 4 sqrt(n), 8 bits", lists(4, SQ8), PROBES, largest=100_000, wide=32),
    Kind("HNSW, M=16", graph(16, 40), EF),
    Kind("HNSW, M=32", graph(32, 80), EF),
    Kind("HNSW, M=16, 8 bits", graph(16, 40, SQ8), EF, largest=100_000, wide=32),
)


@dataclass(frozen=True)
class Task:
    """One size: files with logs, queries and the exact answers in `folder`."""

    n: int
    folder: Path

    def prepare(self) -> None:
        """Draw logs and queries, and search them exactly."""
        made = Embeddings(Shape.load(), self.n)
        queries = made.queries(QUERIES)
        best = np.full((QUERIES, K), -np.inf, np.float32), np.zeros((QUERIES, K), np.int64)
        for start in range(0, self.n, 1 << 16):
            scores = queries @ made.logs[start : start + (1 << 16)].T
            slots = np.broadcast_to(start + np.arange(scores.shape[1]), scores.shape)
            both = np.hstack([best[0], scores]), np.hstack([best[1], slots])
            top = np.argpartition(-both[0], K - 1, axis=1)[:, :K]
            best = np.take_along_axis(both[0], top, 1), np.take_along_axis(both[1], top, 1)
        for name, rows in (("queries", queries), ("exact", best[1]), ("logs", made.logs)):
            np.save(self.folder / f"{name}.npy", rows)

    def load(self, name: str) -> Any:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def measure(task: Task, kind: Kind, kept: Path, seconds: float) -> Iterator[Row]:
    """The rows of one index; none when it is not built within `seconds`: then it waits in `kept`."""
    faiss.omp_set_num_threads(1)
    logs, queries, exact = (task.load(name) for name in ("logs", "queries", "exact"))
    before = _private_mb()
    index, spent = _built(kind, logs, kept, seconds)
    if index is None:
        return
    memory = _private_mb() - before
    path = task.folder / "index"
    faiss.write_index(index, str(path))
    size = path.stat().st_size
    path.unlink()
    for effort in kind.efforts:
        if effort > getattr(index, "nlist", task.n):
            continue
        search = _search(kind, index, logs, effort)
        found = search(queries)
        hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True))
        single = [_ms(search, queries[q : q + 1]) for q in range(TIMED)]
        batches = [_ms(search, queries[q : q + BATCH]) / BATCH for q in range(0, TIMED, BATCH)]
        yield {
            **{"logs": task.n, "index": kind.name, "effort": effort, "recall": hits / exact.size},
            **{"ms": float(np.median(single)), "p95_ms": float(np.quantile(single, 0.95))},
            **{"batch_ms": float(np.median(batches)), "build_s": spent, "memory_mb": memory, "disk_mb": size / 1e6},
        }
        if hits > 0.999 * exact.size:
            break  # more effort finds no more
    added = [_ms(index.add, queries[q : q + 1]) for q in range(TIMED)]
    yield {"logs": task.n, "index": kind.name, "add_ms": float(np.median(added))}


def _built(kind: Kind, logs: Array, kept: Path, seconds: float) -> tuple[faiss.Index | None, float]:
    """The whole index and the seconds that it took, or None and those so far."""
    began, spent = time.perf_counter(), 0.0
    if kept.exists():
        index, spent = faiss.read_index(str(kept)), float(kept.with_suffix(".seconds").read_text())
        began = time.perf_counter()
    else:
        index = kind.build(logs.shape[1], len(logs))
        if not index.is_trained:
            sample = np.random.default_rng(0).permutation(len(logs))[: max(65_536, 64 * getattr(index, "nlist", 1))]
            index.train(np.ascontiguousarray(logs[np.sort(sample)]))
    step = 10_000
    for start in range(index.ntotal, len(logs), step):
        if time.perf_counter() - began > seconds:
            faiss.write_index(index, str(kept))
            kept.with_suffix(".seconds").write_text(str(spent + time.perf_counter() - began))
            say(f"{kind.name}: {start:,} of {len(logs):,} logs; run it again to go on")
            return None, 0.0
        index.add(np.ascontiguousarray(logs[start : start + step]))
    return index, spent + time.perf_counter() - began


def _search(kind: Kind, index: faiss.Index, logs: Array, effort: int) -> Callable[[Array], Any]:
    """Of queries [n, dim], the slots [n, K]; candidates of compressed vectors are scored again."""

    def search(queries: Array) -> Any:
        queries = np.ascontiguousarray(queries)
        if not kind.wide:
            return kind.search(index, queries, effort, K)
        wide = kind.search(index, queries, effort, kind.wide)
        scores = np.stack([logs[row] @ query for row, query in zip(wide, queries, strict=True)])
        return np.take_along_axis(wide, np.argsort(-np.where(wide < 0, -9, scores), axis=1)[:, :K], axis=1)

    return search


def _ms(work: Callable[[Array], object], rows: Array) -> float:
    began = time.perf_counter()
    work(rows)
    return 1e3 * (time.perf_counter() - began)


def _private_mb() -> float:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def _child(task: Task, kind: Kind, kept: Path, seconds: float, sender: Any) -> None:
    for row in measure(task, kind, kept, seconds):
        sender.send(row)
    sender.send(None)


def run(out: Path, sizes: tuple[int, ...], seconds: float, only: str) -> bool:
    """Measure what `out` lacks; returns whether it is whole then."""
    rows: list[Row] = json.loads(out.read_text())["rows"] if out.exists() else []
    about = {"k": K, "batch": BATCH, "queries": QUERIES, "timed": TIMED, "machine": machine(), "versions": versions()}
    whole = True
    for n in sizes:
        missing = [kind for kind in KINDS if only in kind.name and n <= kind.largest and not _done(rows, n, kind.name)]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            task = Task(n, Path(folder))
            _apart(_prepare, task)
            for kind in missing:
                rows = [row for row in rows if (row["logs"], row["index"]) != (n, kind.name)]
                kept = out.with_name(f"{kind.name.replace(' ', '')}-{n}.partial")
                for row in _rows(task, kind, kept, seconds):
                    rows.append(row)
                    write_json(out, {"rows": rows, **about})
                    say(json.dumps(row))
                if _done(rows, n, kind.name):
                    kept.unlink(missing_ok=True)
                    kept.with_suffix(".seconds").unlink(missing_ok=True)
                else:
                    whole = False
    return whole


def _done(rows: list[Row], n: int, name: str) -> bool:
    return any((row["logs"], row["index"]) == (n, name) and "add_ms" in row for row in rows)


def _prepare(task: Task, sender: Any) -> None:
    task.prepare()
    sender.send(None)


def _apart(work: Callable[..., None], *args: Any) -> Iterator[Any] | list[Any]:
    return list(_stream(work, *args))


def _rows(task: Task, kind: Kind, kept: Path, seconds: float) -> Iterator[Row]:
    yield from _stream(_child, task, kind, kept, seconds)


def _stream(work: Callable[..., None], *args: Any) -> Iterator[Any]:
    """What `work` sends from a process of its own, until it sends None."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=work, args=(*args, sender))
    child.start()
    sender.close()
    try:
        while (value := receiver.recv()) is not None:
            yield value
    finally:
        child.join()


def main() -> int:
    """Measure, and tell by the exit code whether all is measured."""
    parser = argparse.ArgumentParser(prog="benchmarks.search", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=at, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", default="", help="indexes whose name holds this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of a build, until it is kept for later")
    args = parser.parse_args()
    return 0 if run(args.out, tuple(args.sizes), args.seconds, args.only) else 3


if __name__ == "__main__":
    raise SystemExit(main())
