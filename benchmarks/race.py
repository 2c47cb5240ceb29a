"""lagkit against the authors' procedure: `python -m benchmarks.race --out FILE.json [--data FOLDER]`.

Each side runs in processes of its own, in turns, on the same stores and questions, with the same model and number of
threads. What is compared: questions per second, start-up and peak memory; and, question by question in one process,
seconds until a response of one token. A machine's speed may halve within minutes: lagkit, whose runs are much the
shorter, has one before the authors' and one behind it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.authors import Authors
from benchmarks.workloads import WORKLOADS, experiment, prepare, questions, read_settings, save_settings, the_policy
from lagkit.logs.store import LogStore
from lagkit.runs.experiment import Experiment
from lagkit.runs.manifest import git_state, machine, versions
from lagkit.types import Limits, Question
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import quiet, say

SIDES = ("lagkit", "authors")
ORDER, BOTH = ("lagkit", "authors", "lagkit"), "both"
BATCH = 32
FIRST, TURNS = 8, 3  # questions whose first token is timed, and how often
Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Race, show a table and write JSON; or, as one of the processes of a race, measure one side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("--out", type=at, help="the JSON file; what else it has stays")
    parser.add_argument("--data", type=at, help="a folder of multiple-choice questions, for long answers")
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, help="by default all that have what they need, but Qwen's"
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of logs, instead of each workload's own")
    parser.add_argument("--repeats", type=int, default=3, help="turns of both sides")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FOLDER", "LOGS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    quiet()
    if args.side:
        side, folder, logs = args.side
        print(json.dumps(measure(side, Path(folder), int(logs))))
        return
    chosen = args.workload or [name for name, work in WORKLOADS.items() if work.can_run(args.data) and not work.slow]
    results = json.loads(args.out.read_text())["workloads"] if args.out and args.out.exists() else {}
    for name in chosen:
        results[name] = race(name, args.data, args.sizes, args.repeats)
        print(table(name, results[name]))
        if args.out:
            write_json(args.out, {"workloads": results})


def race(name: str, data: Path | None, sizes: Sequence[int] | None, repeats: int) -> Result:
    """All sizes of one workload."""
    work = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_settings(folder, name, data)
        run = experiment(work, folder, data)
        wanted = tuple(sizes or work.sizes)
        prepare(run, folder, wanted)
        about = {"model": run.lm.name, "dtype": str(run.lm.dtype).removeprefix("torch."), "batch": BATCH}
        about["max_new_tokens"] = run.config.limits.max_new_tokens
        rows = {str(size): _both(folder, size, repeats) for size in wanted}
    return {**about, "sizes": rows, "machine": machine(), "versions": versions(), "git": git_state()}


def _both(folder: Path, logs: int, repeats: int) -> Result:
    """Both sides at one size: medians, ratios of medians, and in how many questions they said the same."""
    runs: dict[str, list[Result]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in ORDER:
            say(f"{side}, {logs:,} logs ...")
            runs[side].append(_in_a_process(side, folder, logs))
    say(f"first tokens, {logs:,} logs ...")
    first = _in_a_process(BOTH, folder, logs)
    responses = {side: [run.pop("said") for run in runs[side]] for side in SIDES}
    said = {side: one for side, (one, *_) in responses.items()}
    medians = {side: {key: median(run[key] for run in runs[side]) for key in runs[side][0]} for side in SIDES}
    found = {side: medians[side] | {"first_token_s": first[side]} for side in SIDES}
    ours, theirs = (found[side] for side in SIDES)
    return {
        **found,
        "runs": runs,
        "speedup": ours["questions_per_s"] / theirs["questions_per_s"],
        "same_responses": sum(said["lagkit"][q] == said["authors"][q] for q in said["authors"]),
        "same_answers": sum(said["lagkit"][q][0] == said["authors"][q][0] for q in said["authors"]),
        "questions": len(said["authors"]),
    }


def _in_a_process(side: str, folder: Path, logs: int) -> Result:
    """`measure`, where nothing of the other side is in memory."""
    command = [sys.executable, "-m", "benchmarks.race", "--side", side, str(folder), str(logs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side} failed with {logs} logs:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, folder: Path, logs: int) -> Result:
    """One side in this process, or `both` sides' first tokens.

    `start_s`: from a loaded model to the first hits of a search among all logs.
    """
    settings = read_settings(folder)
    work = WORKLOADS[settings["workload"]]
    run = experiment(work, folder, at(settings["data"]) if settings["data"] else None)
    warm, asked = questions(run, work)
    run.lm.fingerprint, run.embedder, run.passages  # noqa: B018 (loaded here, for neither side's account)
    if side == BOTH:
        return _first_tokens(run, folder, logs, warm, asked)
    before = _peak_mb()
    found = (_lagkit if side == "lagkit" else _authors)(run, folder, logs, warm, asked) | {"before_mb": before}
    if torch.cuda.is_available():
        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def _lagkit(run: Experiment, folder: Path, logs: int, warm: list[Question], asked: list[Question]) -> Result:
    vector = run.embedder.queries([asked[0].text])
    began = time.perf_counter()
    store = LogStore.open(folder / str(logs), run.lm)
    opened = time.perf_counter()
    store.search(vector, 3)
    started = time.perf_counter()
    limits = replace(run.config.limits, batch_size=BATCH)
    list(run.agent(the_policy(), "race", store, limits=limits).run(warm))
    at = time.perf_counter()
    traces = {trace.question_id: trace for trace in run.agent(the_policy(), "race", store, limits=limits).run(asked)}
    seconds = time.perf_counter() - at
    usage = [trace.usage for trace in traces.values()]
    return {
        "said": {q.id: [traces[q.id].answer, *(r.response for r in traces[q.id].rounds)] for q in asked},
        "open_s": opened - began,
        "start_s": started - began,
        "questions_per_s": len(asked) / seconds,
        "peak_mb": _peak_mb(),
        "rounds": sum(len(trace.rounds) for trace in traces.values()) / len(asked),
        **{key: sum(getattr(u, key) for u in usage) / len(asked) for key in ("prefilled", "injected", "generated")},
    }


def _authors(run: Experiment, folder: Path, logs: int, warm: list[Question], asked: list[Question]) -> Result:
    vector = run.embedder.queries([asked[0].text])
    began = time.perf_counter()
    authors = _procedure(run, folder, logs, run.config.limits)
    opened = time.perf_counter()
    authors.index.search(vector, 3)
    started = time.perf_counter()
    list(authors.run(warm))
    at = time.perf_counter()
    said = {id: [answer, *responses] for id, answer, responses in authors.run(asked)}
    seconds = time.perf_counter() - at
    return {
        "said": said,
        "open_s": opened - began,
        "start_s": started - began,
        "questions_per_s": len(asked) / seconds,
        "peak_mb": _peak_mb(),
    }


def _procedure(run: Experiment, folder: Path, logs: int, limits: Limits) -> Authors:
    rounds = run.agent(None, "race", None, limits=limits).max_rounds
    sizes = {"k_passages": limits.passages, "k_logs": limits.logs, "new_tokens": limits.max_new_tokens}
    return Authors(run.lm, run.prompt, run.embedder, run.passages, folder / f"{logs}.pickle", rounds=rounds, **sizes)


def _first_tokens(run: Experiment, folder: Path, logs: int, warm: list[Question], asked: list[Question]) -> Result:
    """Seconds that each side takes for a response of one token, medians; each begins with every other question."""
    one = replace(run.config.limits, batch_size=BATCH, max_rounds=1, max_new_tokens=1)
    authors, store = _procedure(run, folder, logs, one), LogStore.open(folder / str(logs), run.lm)
    answer: dict[str, Callable[[Question], object]] = {
        "lagkit": lambda question: list(run.agent(the_policy(), "race", store, limits=one).run([question])),
        "authors": lambda question: list(authors.run([question])),
    }
    for side in SIDES:
        for question in warm:
            answer[side](question)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number, question in enumerate(asked[:FIRST] * TURNS):
        for side in SIDES[:: 1 if number % 2 else -1]:
            at = time.perf_counter()
            answer[side](question)
            seconds[side].append(time.perf_counter() - at)
    return {side: median(of) for side, of in seconds.items()}


def table(name: str, found: Result) -> str:
    """One line for each size, as text."""
    machine = f"{found['machine']['threads']} threads"
    lines = [f"{name}: {found['model']}, {found['dtype']}, {machine}, batch {found['batch']}"]
    for size, row in found["sizes"].items():

        def pair(key: str, scale: float, digits: int, row: Result = row) -> str:
            return " against ".join(f"{scale * row[side][key]:,.{digits}f}" for side in SIDES)

        lines.append(
            f"  {int(size):>6,} logs: {pair('questions_per_s', 1, 2)} questions/s ({row['speedup']:.2f}x), first token "
            f"{pair('first_token_s', 1e3, 0)} ms, start {pair('start_s', 1e3, 0)} ms, peak {pair('peak_mb', 1, 0)} MB, "
            f"{row['same_answers']} of {row['questions']} answers and {row['same_responses']} responses the same"
        )
    return "\n".join(lines)


def _peak_mb() -> float:
    """The most resident memory that this process had; what `getrusage` tells includes the process that began it."""
    status = Path("/proc/self/status")
    if status.exists():
        [peak] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(peak) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
