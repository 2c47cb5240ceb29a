"""Speed and size against their targets, as ratios within one run: `python -m benchmarks.targets --out FILE.json`.

Both sides of a ratio are measured in turns and compared by their medians: a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from lagkit.agent.loop import Agent
from lagkit.datasets import loaders as data
from lagkit.logs.header import Header
from lagkit.logs.retrieve import Embedder, PassageIndex, load_embedder
from lagkit.logs.store import LogStore
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.runs.manifest import machine, versions
from lagkit.studies import injection
from lagkit.types import Limits, Question, Round, Trace
from lagkit.util.errors import ConfigError
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import quiet, say

# Key -> (target, whether the value must be at most or at least that).
TARGETS: dict[str, tuple[float, str]] = {
    "inject_over_prefill": (0.03, "at most"),
    "inject_over_prefill_hot": (0.03, "at most"),
    "inject_over_prefill_qwen": (0.03, "at most"),
    "inject_over_prefill_qwen_hot": (0.03, "at most"),
    "batch_speedup": (3.0, "at least"),
    "store_open_s": (0.2, "at most"),
    "store_open_extra_mb": (50.0, "at most"),
    "search_ms": (5.0, "at most"),
    "bytes_overhead": (1.02, "at most"),
}
ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "sample"
Result = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured at; the defaults are those of the targets."""

    logs: int = 3
    log_tokens: int = 150
    repeats: int = 9
    questions: int = 16
    batch: int = 16
    max_rounds: int = 2
    max_new_tokens: int = 64
    agent_repeats: int = 1
    store_logs: int = 10_000
    small_store_logs: int = 10
    dim: int = 384
    store_repeats: int = 3
    searches: int = 200
    block_tokens: tuple[int, ...] = (28, 150, 500)


QUICK = Sizes(repeats=3, questions=4, batch=4, max_new_tokens=8, agent_repeats=1, store_logs=500, store_repeats=1)


def run_bench(
    out: Path, *, quick: bool = False, load: Callable[..., LM] | None = None, embedder: Embedder | None = None
) -> Result:
    """Measure everything, print a table, write JSON to `out` and return it.

    `load` gives a model by its name and `dtype`, by default on CPU. Injection is measured with SmolLM2 and Qwen, all
    else with SmolLM2. Raises ConfigError if `out` cannot be written, DataError if the sample is not there, and
    ModelNotFound, all before anything is measured.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"The results cannot be written to {out}: give a file in a folder that exists.")
    quiet()
    began, sizes = time.perf_counter(), QUICK if quick else Sizes()
    questions = data.load(SAMPLE)
    load = load or partial(LM.load, device="cpu")
    models = {dtype: load("smollm2", dtype=dtype) for dtype in ("float32", "bfloat16")}
    qwen = load("qwen", dtype="bfloat16")
    embedder = embedder or load_embedder("minilm")
    lm = models["bfloat16"]
    say("Measuring blocks ...")
    results = inject_over_prefill(lm, sizes) | inject_over_prefill(qwen, sizes, "_qwen")
    results["bytes_overhead"] = bytes_overhead(lm, sizes)
    del qwen  # its memory is not that of what follows
    say("Measuring stores ...")
    results |= store_speed(sizes)
    say("Measuring batches ...")
    results["batch_speedup"] = batch_speedup(models, embedder, questions, sizes)
    report = {key: {**results[key], "target": TARGETS[key], "met": _meets(key, results[key])} for key in TARGETS}
    print(table(report).to_string())
    about = {"quick": quick, "model": lm.name, "machine": machine(), "versions": versions()}
    write_json(out, {**report, **about, "seconds": round(time.perf_counter() - began, 3)})
    return report


def _meets(key: str, found: Result) -> bool:
    bound, kind = TARGETS[key]
    good = found["value"] <= bound if kind == "at most" else found["value"] >= bound
    return bool(good and found.get("same_answers", True))


def table(report: Result) -> pd.DataFrame:
    """One row per key: value, target, whether it is met, and the sizes."""
    rows = {
        key: {
            "value": f"{found['value']:.4g}",
            "target": f"{TARGETS[key][1]} {TARGETS[key][0]:g}",
            "met": "yes" if found["met"] else "NO",
            "measured at": ", ".join(f"{name} {value}" for name, value in found["sizes"].items()),
        }
        for key, found in report.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def inject_over_prefill(lm: LM, sizes: Sizes, suffix: str = "") -> dict[str, Result]:
    """Time to a cache with a store's logs re-aligned, over that of a prefill of their text; cold, and hot."""
    found = injection.measure(lm, logs=sizes.logs, tokens=sizes.log_tokens, repeats=sizes.repeats)
    at = {"model": lm.name, "logs": sizes.logs, "tokens each": sizes.log_tokens, "dtype": _dtype(lm)}
    at["repeats"] = sizes.repeats

    def result(share: float, ms: float, parts: Mapping[str, float]) -> Result:
        return {"value": share, "sizes": at, "inject_ms": ms, "prefill_ms": found.prefill_ms, "parts_ms": dict(parts)}

    return {
        f"inject_over_prefill{suffix}": result(found.cold_share, found.cold_ms, found.cold),
        f"inject_over_prefill{suffix}_hot": result(found.hot_share, found.hot_ms, found.hot),
    }


def bytes_overhead(lm: LM, sizes: Sizes) -> Result:
    """Bytes of a block's file over those of its keys and values; the worst of the sizes."""
    shape = lm.encode(Context((3,)), 0, 1).keys.shape
    found = {}
    with tempfile.TemporaryDirectory() as folder, _new_store(Path(folder), lm) as store:
        for tokens in sizes.block_tokens:
            keys, values = torch.randn(2, *shape[:2], tokens, shape[3]).to(lm.dtype)
            block = KVBlock(keys, values, torch.arange(tokens))
            store.add(_trace(tokens), np.eye(8)[0], {str(tokens): block})
            found[str(tokens)] = int(store.summary()["bytes"][str(tokens)]) / block.nbytes
    layers, kv_heads, _, head_dim = shape
    at = {"tokens": "/".join(found), "layers": layers, "kv_heads": kv_heads, "head_dim": head_dim, "dtype": _dtype(lm)}
    return {"value": max(found.values()), "sizes": at, "by_tokens": found}


def store_speed(sizes: Sizes) -> dict[str, Result]:
    """Opening a large store, the memory it takes beyond a small one, and searching it; all in fresh processes."""
    with tempfile.TemporaryDirectory() as name:
        numbers = {"large": sizes.store_logs, "small": sizes.small_store_logs}
        for size, logs in numbers.items():
            _fill_store(Path(name) / size, logs, sizes.dim)
        runs: dict[str, list[Result]] = {size: [] for size in numbers}
        for _ in range(sizes.store_repeats):
            for size in numbers:
                runs[size].append(_probe(Path(name) / size, sizes))
    large, small = ({key: median(run[key] for run in runs[size]) for key in runs[size][0]} for size in numbers)
    at = {"logs": sizes.store_logs, "dim": sizes.dim}
    extra = {"sizes": {**at, "against logs": sizes.small_store_logs}}
    searched = {**at, "queries": sizes.searches, "k": 3}
    return {
        "store_open_s": {"value": large["open_s"], "sizes": at, "with_first_search_s": large["first_search_s"]},
        "store_open_extra_mb": {
            "value": large["open_mb"] - small["open_mb"],
            **extra,
            "with_first_search_mb": large["search_mb"] - small["search_mb"],
        },
        "search_ms": {"value": large["search_ms"], "sizes": searched, "slowest_ms": large["slowest_ms"]},
    }


def _fill_store(folder: Path, logs: int, dim: int) -> None:
    """Logs of about the size of real ones, without blocks: opening and searching read none."""
    vectors = np.random.default_rng(0).normal(size=(logs, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with LogStore.new(folder, Header.new({"name": "none"}, "none", dim, "bfloat16")) as store:
        store.add_many((_trace(i, 4_000), vector, {}) for i, vector in enumerate(vectors))


def _probe(folder: Path, sizes: Sizes) -> Result:
    """`probe_store` in a process of its own."""
    code = "import sys; from benchmarks.targets import probe_store; probe_store(sys.argv[1], int(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(folder), str(sizes.searches)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def probe_store(folder: str, searches: int) -> None:
    """Print how long opening and searching take in this process, and what memory it has grown by, as JSON."""
    before, began = _memory_mb(), time.perf_counter()
    store = LogStore.open(folder)
    found = {"open_s": time.perf_counter() - began, "open_mb": _memory_mb() - before}
    queries = np.random.default_rng(1).normal(size=(searches, 1, store.dim)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=2, keepdims=True)
    store.search(queries[0], 3)
    found |= {"first_search_s": time.perf_counter() - began, "search_mb": _memory_mb() - before}
    times = [1e3 * _seconds(partial(store.search, query, 3)) for query in queries]
    print(json.dumps({**found, "search_ms": median(times), "slowest_ms": max(times)}))


def batch_speedup(models: dict[str, LM], embedder: Embedder, dataset: data.Dataset, sizes: Sizes) -> Result:
    """Questions per second of the whole agent loop in batches over one by one, for each dtype.

    The value is float32's if that meets the target, else the largest. `same_answers`: in float32, answers and
    responses do not depend on the batch (in bfloat16 rounding does, so that they may; they are counted).
    """
    questions = (*dataset.unseen, *dataset.seen)[: sizes.questions]
    passages = PassageIndex(dataset.passages, embedder)
    limits = {"max_rounds": sizes.max_rounds, "max_new_tokens": sizes.max_new_tokens}

    def agent(lm: LM, batch: int) -> Agent:
        wanted = Limits(**limits, batch_size=batch)
        return Agent(lm, prompt=Prompt.load("qa_examples"), embedder=embedder, passages=passages, limits=wanted)

    dtypes = {
        dtype: _race(agent(lm, sizes.batch), agent(lm, 1), questions, sizes.agent_repeats)
        for dtype, lm in models.items()
    }
    enough = dtypes["float32"]["speedup"] >= TARGETS["batch_speedup"][0]
    chosen = "float32" if enough else max(dtypes, key=lambda dtype: dtypes[dtype]["speedup"])
    at = {"batch": sizes.batch, "questions": len(questions), **limits, "repeats": sizes.agent_repeats, "dtype": chosen}
    same = dtypes["float32"]["same_answers"] == dtypes["float32"]["same_responses"] == len(questions)
    return {"value": dtypes[chosen]["speedup"], "sizes": at, "same_answers": same, "dtypes": dtypes}


def _race(batched: Agent, alone: Agent, questions: Sequence[Question], repeats: int) -> Result:
    """Both agents over the same questions, in turns, after one question to warm up."""
    list(alone.run(questions[:1]))
    agents, seconds = (batched, alone), ([], [])
    for _ in range(repeats):
        said = []
        for agent, times in zip(agents, seconds, strict=True):
            began = time.perf_counter()
            said.append({trace.question_id: trace for trace in agent.run(questions)})
            times.append(time.perf_counter() - began)
    pairs = [(said[0][q.id], said[1][q.id]) for q in questions]
    fast, slow = map(median, seconds)
    return {
        "speedup": slow / fast,
        "same_answers": sum(a.answer == b.answer and not (a.error or b.error) for a, b in pairs),
        "same_responses": sum([r.response for r in a.rounds] == [r.response for r in b.rounds] for a, b in pairs),
        "questions_per_second": {"batched": len(questions) / fast, "one by one": len(questions) / slow},
    }


def _new_store(folder: Path, lm: LM) -> LogStore:
    return LogStore.new(folder, Header.new(lm.fingerprint, "none", 8, lm.dtype))


def _trace(number: int, letters: int = 10) -> Trace:
    """A made-up trace of one round."""
    text = f"{number} " + "x" * letters
    return Trace(str(number), f"Question {number}?", "", (Round(text, text),))


def _dtype(lm: LM) -> str:
    return str(lm.dtype).removeprefix("torch.")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _memory_mb() -> float:
    """Resident memory of this process; where the system does not tell, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, show a table and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__)
    parser.add_argument("--out", type=at, required=True, help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: a check, no measurement")
    args = parser.parse_args(argv)
    run_bench(args.out, quick=args.quick)


if __name__ == "__main__":
    main()
