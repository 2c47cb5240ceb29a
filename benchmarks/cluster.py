"""What workers gain: `python -m benchmarks.cluster --out FILE.json` runs one world here, by one worker and by two.

All have one thread each. Results have to be the same or the command fails: traces, logs and their order, KV bit by bit;
only a confidence, in its last digits, depends on which questions share a batch (`ROUNDING`). Starting Ray and the
workers is measured apart from the stages, which begin when all workers are ready.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.runs.workers import Workers
from lagkit.runs.workers.start import cluster
from lagkit.types import Trace
from lagkit.util import files
from lagkit.util.cli import exit_code, show
from lagkit.util.errors import DataError
from lagkit.util.paths import at
from lagkit.util.progress import quiet, say

POLICIES = ("no_logs", "kv_last_round")
WORKERS = (0, 1, 2)
STAGES = ("build", "encode", "answer")
THREADS = 1
ROUNDING = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--out", required=True, type=at, metavar="FILE.json")
    parser.add_argument("--questions", type=int, default=80, metavar="N", help="of each split (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of each (default: %(default)s)")
    return exit_code(lambda: measure(parser.parse_args()))


def measure(args: argparse.Namespace) -> None:
    """Run in turns, compare, show medians and write."""
    quiet()
    torch.set_num_threads(THREADS)
    sizes = {f"{which}_questions": args.questions for which in ("log", "seen", "unseen")}
    seconds: dict[int, list[dict[str, float]]] = {count: [] for count in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.repeats):
            for count in WORKERS:
                run, spent = _run(Path(folder) / f"{count}-{number}", count, sizes)
                if not number and not count:
                    reference = run
                _assert_same(run, reference)
                seconds[count].append({name: round(value, 3) for name, value in spent.items()})
        flat = reference.config.flat()
        settings = {name: flat[name] for name in ("model", "dtype", "batch_size", "policies", *sizes)}
    medians = pd.DataFrame({count: pd.DataFrame(rows).median() for count, rows in seconds.items()})
    medians.loc["all stages"] = medians.loc[list(STAGES)].sum()
    speed_up = medians.loc[[*STAGES, "all stages"]].rdiv(medians.loc[[*STAGES, "all stages"], 0], axis=0)
    record = {
        "settings": {**settings, "threads": THREADS},
        "seconds": {str(count): rows for count, rows in seconds.items()},
        "speed_up": {str(count): speed_up[count].round(3).to_dict() for count in WORKERS},
        "same_results": True,
        "load": os.getloadavg()[0],
        "machine": manifest.machine(),
        "versions": {**manifest.versions(), "ray": version("ray")},
        "git": manifest.git_state(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(args.out, record)
    show(medians, f"Seconds by workers (0: in this process), medians of {args.repeats}")
    show(speed_up, "Times as fast as in this process")


def _run(out: Path, count: int, sizes: dict[str, int]) -> tuple[Experiment, dict[str, float]]:
    """A run by so many workers (0: in this process), and the seconds that it took to start and for each stage."""
    say(f"With {count} workers")
    run = Experiment(RunConfig.of("testbed", out=out, policies=POLICIES, **sizes))
    seconds: dict[str, float] = {"ray": 0.0}
    with ExitStack() as stack:
        if count:
            with _timed(seconds, "ray"):
                stack.enter_context(cluster(None, count * THREADS))
            with _timed(seconds, "models"):
                stack.enter_context(Workers(run, count, threads=THREADS)).pool.greeting(count)
        else:
            with _timed(seconds, "models"):
                run.lm.fingerprint  # noqa: B018
        with _timed(seconds, "build"):
            run.build()
        with _timed(seconds, "encode"):
            run.encode()
        with _timed(seconds, "answer"):
            for name in POLICIES:
                for split in ("seen", "unseen"):
                    run.answer(name, split)
    return run, seconds


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - began


def _assert_same(run: Experiment, reference: Experiment) -> None:
    """Raise DataError unless traces, without what a clock said, the order of logs and their blocks are the same."""
    ours, theirs = _traces(run), _traces(reference)
    if {key: _exact(trace) for key, trace in ours.items()} != {key: _exact(trace) for key, trace in theirs.items()}:
        raise DataError(f"The traces of {run.out} are others than those of {reference.out}.")
    if any(abs((ours[key].confidence or 0) - (theirs[key].confidence or 0)) > ROUNDING for key in theirs):
        raise DataError(f"The confidences of {run.out} are others than those of {reference.out}.")
    with reference.store() as expected, reference.store(folder=run.out / "store") as found:
        if found.ids != expected.ids:
            raise DataError(f"The logs of {run.out} are others than those of {reference.out}, or in another order.")
        for log in expected:
            for key in expected.block_keys(log):
                block, other = found.block(log, key), expected.block(log, key)
                if not (torch.equal(block.keys, other.keys) and torch.equal(block.values, other.values)):
                    raise DataError(f"Block {key} of log {log} is another in {run.out} than in {reference.out}.")


def _traces(run: Experiment) -> dict[tuple[str, str], Trace]:
    """By journal and question."""
    books = sorted((run.out / "traces").iterdir())
    return {(book.name, trace.question_id): trace for book in books for trace in Journal(book).traces()}


def _exact(trace: Trace) -> Trace:
    """What does not depend on a clock or on rounding."""
    rounds = tuple(replace(r, usage=replace(r.usage, seconds=0.0)) for r in trace.rounds)
    return replace(trace, rounds=rounds, confidence=None)


if __name__ == "__main__":
    sys.exit(main())
