"""A store under a cap of bytes while tasks come for a long time: are its size, memory and latency flat?

    python -m benchmarks.stream --out benchmarks/results/stream.json     # 20,000 updates, some minutes
    python -m benchmarks.stream --plot benchmarks/results/stream.json    # its figure, a PNG beside it

An update is what one task does to a store and asks of it: search with the question's embedding, read the blocks found
and lay them in a cache as an agent does, add a log with its trace, embedding and KV block, evict the oldest logs above
the cap. Decoding is left out: the logs are 150 that the testbed's model really gave, and encoded, once. Each comes many
times, under a question that names the task, so with an id and an embedding of its own, and with a block whose first
token id is the task's number, so in a file of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lagkit.logs.encode import Encoder
from lagkit.logs.index import VectorIndex
from lagkit.logs.retrieve import Embedder, load_embedder
from lagkit.logs.store import LogStore
from lagkit.model.block_cache import BlockCache, PendingBlock
from lagkit.model.cache import build_cache
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.policy import POLICIES
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.runs.manifest import git_state, machine, versions
from lagkit.types import Trace
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import progress, quiet

POLICY = "kv_last_round"
FOUND = 3  # logs that a task reads
CAPACITY = 64  # slots for what the model would write
HOT = 64 << 20  # bytes of blocks kept in memory: less than the store, so that they too come and go
STEPS = ("search", "read", "add", "evict")
# The machine's own drift: a search of as many embeddings that never change, and a file as large as a block that is
# written and synced, at every `CONTROLLED`th update.
CONTROLS, CONTROLLED = ("scan", "write"), 5
RATIOS = {
    "search_over_scan": ("search", "scan"),
    "read_over_scan": ("read", "scan"),
    "add_over_write": ("add", "write"),
}
BEHIND = "follow"  # the search of a reader that has searched `PART` updates ago
SIZES = ("rss_mb", "store_mb", "database_mb", "wal_mb", "blocks_mb", "logs", "open_files")
PART = 100  # updates in a row of the result


@dataclass(frozen=True)
class Source:
    """A log that the model really gave, and its KV."""

    trace: Trace
    block: KVBlock

    def task(self, number: int) -> Source:
        """The same log of task `number`: its id, its embedding and its block's file are its own."""
        question = f"{self.trace.question} (task {number})"
        ids = self.block.ids.clone()
        ids[0] = number
        trace = replace(self.trace, question_id=f"{self.trace.question_id}-{number}", question=question)
        return Source(trace, KVBlock(self.block.keys, self.block.values, ids))

    def nbytes(self, dim: int) -> int:
        """What it takes in a store: block, embedding and trace."""
        text = json.dumps(self.trace.to_dict())
        return self.block.nbytes + 4 * dim + len(text)


def sources(run: Experiment) -> list[Source]:
    """The logs of a run's log questions that did not fail, encoded."""
    run.build()
    encoder = Encoder(run.lm, run.prompt)
    return [Source(trace, encoder.encode(trace, POLICIES[POLICY])) for trace in progress(run.logs, "Encoding logs")]


@dataclass
class Stream:
    """Tasks one after the other on one open store; `source` of each is drawn by `seed`."""

    store: LogStore
    lm: LM
    embedder: Embedder
    sources: Sequence[Source]
    cap: int
    seed: int = 0
    binds: int | None = None  # the first update that evicted a log
    wrong: int = 0  # searches in which a reader found other logs than the writer
    _hot: BlockCache = field(default_factory=lambda: BlockCache(HOT))
    _times: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in (*STEPS, *CONTROLS, BEHIND)})

    def run(self, updates: int) -> pd.DataFrame:
        """A row for each `PART` updates: steps in milliseconds (median and `_p95`), and `SIZES` after the last."""
        drawn = np.random.default_rng(self.seed).integers(len(self.sources), size=(updates + 1, 2))
        self._add(self.sources[drawn[-1, 1]].task(0))
        rows = []
        with LogStore.open(self.store.path) as reader:
            for number in progress(range(1, updates + 1), "Updates"):
                asks, logs = drawn[number - 1]
                question = f"{self.sources[asks].trace.question} (task {number})"
                self._update(question, self.sources[logs].task(number))
                if not number % CONTROLLED:
                    self._control(question)
                if not number % PART:
                    self._follow(reader, question)
                    rows.append({"updates": number, **self._speeds(), **self._sizes()})
        return pd.DataFrame(rows).set_index("updates")

    def _update(self, question: str, log: Source) -> None:
        query = self.embedder.queries([question])
        with self._timed("search"):
            [hits] = self.store.search(query, FOUND)
        with self._timed("read"):
            parts = [self._part(hit.id) for hit in hits]
            build_cache([parts], self.lm.model, self.lm.realigner, CAPACITY)
        self._add(log)
        with self._timed("evict"):
            gone = self.store.evict(self.cap)
        if gone and self.binds is None:
            self.binds = int(log.trace.question_id.rpartition("-")[2])

    @cached_property
    def _unchanged(self) -> VectorIndex:
        index, count = VectorIndex(self.embedder.dim), self.cap // self.sources[0].nbytes(self.embedder.dim)
        texts = [self.sources[i % len(self.sources)].task(i).trace.key for i in range(count)]
        index.add([str(i) for i in range(count)], self.embedder.documents(texts))
        return index

    def _control(self, question: str) -> None:
        index, query, path = self._unchanged, self.embedder.queries([question]), self.store.path.parent / "control"
        with self._timed("scan"):
            index.search(query, FOUND)
        with self._timed("write"), open(path, "wb") as file:
            file.write(bytes(self.sources[0].block.nbytes))
            file.flush()
            os.fsync(file.fileno())

    def _follow(self, reader: LogStore, question: str) -> None:
        query = self.embedder.queries([question])
        with self._timed(BEHIND):
            found = reader.search(query, FOUND)
        self.wrong += found != self.store.search(query, FOUND)

    def _part(self, log: str) -> PendingBlock:
        row = self.store.find(log, POLICY)
        return self._hot.fetch(row.digest, row.tokens, row.bytes, partial(self.store.load, row))

    def _add(self, log: Source) -> None:
        [vector] = self.embedder.documents([log.trace.key])
        with self._timed("add"):
            self.store.add(log.trace, vector, {POLICY: log.block})

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._times[step].append(1e3 * (time.perf_counter() - began))

    def _speeds(self) -> dict[str, float]:
        found = {}
        for step, times in self._times.items():
            found |= {step: float(np.median(times)), f"{step}_p95": float(np.quantile(times, 0.95))}
            times.clear()
        return found

    def _sizes(self) -> dict[str, float]:
        files = {path: path.stat().st_size for path in self.store.path.rglob("*") if path.is_file()}
        blocks = sum(size for path, size in files.items() if path.suffix == ".safetensors")
        named = {path.name: size for path, size in files.items()}
        found = {
            "rss_mb": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            "store_mb": sum(files.values()),
            "database_mb": named["logs.sqlite"],
            "wal_mb": named.get("logs.sqlite-wal", 0),
            "blocks_mb": blocks,
        }
        mb = {name: value / 1e6 for name, value in found.items()}
        return {**mb, "logs": len(self.store), "open_files": len(os.listdir("/proc/self/fd"))}


def flatness(table: pd.DataFrame, binds: int, window: int) -> pd.DataFrame:
    """Each measure in the first `window` updates after the cap binds, and in the last: a row per measure.

    table: as `Stream.run` gives it. Columns: `first` and `last`, means over rows; `change` between them with `low` and
    `high` (Welch's 95% interval); `slope`, the change in 10,000 updates of a straight line through all rows after the
    cap binds, with `slope_low` and `slope_high`. Rows are taken for independent, which on a machine that does other
    things too they are not quite: the intervals of times are rather too narrow.
    """
    full = table[table.index >= binds + PART]
    first, last = full[full.index < binds + PART + window], full[full.index > full.index[-1] - window]
    rows = {}
    for name in table.columns:
        a, b = first[name].to_numpy(float), last[name].to_numpy(float)
        apart = _half_width(a, b)
        change, line = b.mean() - a.mean(), stats.linregress(full.index / 1e4, full[name])
        half = stats.t.ppf(0.975, len(full) - 2) * line.stderr if full[name].nunique() > 1 else 0.0
        ends = {"first": a.mean(), "last": b.mean(), "change": change, "low": change - apart, "high": change + apart}
        slope = {"slope": line.slope, "slope_low": line.slope - half, "slope_high": line.slope + half}
        rows[name] = ends | slope
    return pd.DataFrame.from_dict(rows, orient="index")


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[step] / table[control] for name, (step, control) in RATIOS.items()})


def _half_width(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of Welch's 95% interval of a difference of means; 0 where neither varies."""
    spread = [part.var(ddof=1) / len(part) for part in (a, b)]
    if sum(spread) == 0:
        return 0.0
    freedom = sum(spread) ** 2 / sum(s**2 / (len(part) - 1) for s, part in zip(spread, (a, b), strict=True))
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(sum(spread)))


def measure(folder: Path, *, updates: int, logs: int, questions: int, embedder: str) -> dict[str, Any]:
    """The whole measurement in an empty `folder`, as plain values; `logs` is about how many the cap holds."""
    run = Experiment(RunConfig.of("testbed", out=folder / "run", log_questions=questions, embedder=embedder))
    found, searcher = sources(run), load_embedder(embedder)
    cap = int(logs * np.mean([source.nbytes(searcher.dim) for source in found]))
    began = time.perf_counter()
    with run.store(folder=folder / "store", write=True) as store:
        stream = Stream(store, run.lm, searcher, found, cap)
        table = stream.run(updates)
        faults = {"problems": len(store.verify()), "wrong_searches": stream.wrong}
    sizes = {"updates": updates, "sources": len(found), "cap_mb": cap / 1e6, "binds": stream.binds}
    tokens = float(np.mean([len(source.block) for source in found]))
    return {
        "sizes": {**sizes, "embedder": embedder, "tokens": tokens, "window": logs, "found": FOUND, "hot_mb": HOT / 1e6},
        "seconds": round(time.perf_counter() - began, 3),
        **faults,
        "flat": flatness(_with_ratios(table), stream.binds or 0, logs).astype(float).round(5).to_dict("index"),
        "rows": table.astype(float).round(4).reset_index().to_dict("list"),
        "about": {"machine": machine(), "versions": versions(), "git": git_state()},
    }


def main() -> None:
    """Measure and write the result, or draw one."""
    parser = argparse.ArgumentParser(prog="benchmarks.stream", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=at, help="measure, and write JSON there")
    parser.add_argument("--plot", type=at, metavar="JSON", help="draw the figure of a result, beside it")
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--logs", type=int, default=2_000, help="about how many the cap holds (default: 2000)")
    parser.add_argument("--questions", type=int, default=150, help="that the model answers (default: 150)")
    parser.add_argument("--embedder", default="hash-4096")
    args = parser.parse_args()
    quiet()
    if args.out:
        with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
            given = {name: getattr(args, name) for name in ("updates", "logs", "questions", "embedder")}
            result = measure(Path(folder), **given)
        write_json(args.out, result)
        print(pd.DataFrame.from_dict(result["flat"], orient="index").round(3).to_string())
    if args.plot:
        from lagkit.views import plots
        from lagkit.views.pictures import png
        from lagkit.views.plots.scale import stream

        plots.for_notebooks()
        figure = stream(json.loads(args.plot.read_text(encoding="utf-8")))
        args.plot.with_suffix(".png").write_bytes(png(json.loads(figure.to_json())))


if __name__ == "__main__":
    main()
