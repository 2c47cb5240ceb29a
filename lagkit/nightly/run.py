"""Running a plan: notebooks in parallel processes, each with a time limit; what succeeded before is not run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.nightly import job
from lagkit.nightly.fingerprint import Fingerprint
from lagkit.nightly.profile import Plan, Task
from lagkit.util import files
from lagkit.util.files import write_json
from lagkit.util.progress import say
from lagkit.util.secrets import scrub_file

COMMAND = (sys.executable, "-m", "lagkit.nightly.job")  # of one job, followed by its folder

METRICS = "metrics.json"

_AGAIN = "delete the job's folder, and it runs again"
_POLL_SECONDS = 0.1
_STILL_SECONDS = 60.0  # how often running jobs are named
_GRACE_SECONDS = 10.0  # for a notebook to save what it has when it is stopped


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `ok`, `failed` or `timeout`. key: of what it was made with. started: UTC. error: a sentence."""

    job: str
    status: str
    key: str
    started: str
    seconds: float = 0.0
    error: str = ""


def run(plan: Plan, out: Path, *, jobs: int | None = None, fresh: bool = False) -> dict[str, Outcome]:
    """Run the plan's jobs into `out/jobs/NAME`; returns an outcome for each, in the plan's order.

    jobs: processes at once; by default as many as there are cores and jobs that need not wait for each other. fresh:
    run again what succeeded. Logs and answers that jobs share are in `out/answers`, those of other code or parameters
    are removed. A KeyboardInterrupt stops all processes; the same call resumes.
    """
    marks = Fingerprint.now()
    answers = out / "answers" / marks.answers(plan)
    for other in (out / "answers").glob("*"):
        if other != answers or fresh:
            shutil.rmtree(other)
    width = jobs or min(os.cpu_count() or 1, _width(plan))
    done: dict[str, Outcome] = {}
    waiting: list[Task] = []
    for task in plan.tasks:
        kept = None if fresh else _kept(task, out, marks.of(task))
        if kept and not any(other.name in task.after for other in waiting):
            done[task.name] = kept
            say(f"{task.name}: unchanged, not run again")
        else:
            waiting.append(task)
    _run_all(waiting, done, _Starter(out, answers, marks, width, len(waiting)))
    return {task.name: done[task.name] for task in plan.tasks}


def metrics(out: Path, outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    """The metrics of each job that succeeded; empty where its notebook wrote none."""
    found = {}
    for name, outcome in outcomes.items():
        if outcome.status == "ok":
            folder = out / "jobs" / name
            with files.intact(folder / METRICS, _AGAIN):
                found[name] = {key: float(value) for key, value in read_metrics(folder).get("metrics", {}).items()}
    return found


def read_metrics(folder: Path) -> dict[str, Any]:
    """What a job's notebook wrote; empty where it wrote nothing. Raises DataError if the file is damaged."""
    path = folder / METRICS
    with files.intact(path, _AGAIN):
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def answers(out: Path, outcomes: Mapping[str, Outcome]) -> dict[str, pd.DataFrame]:
    """The answers of each job that succeeded and whose notebook wrote some, as `flips.answers` gives them."""
    paths = {name: out / "jobs" / name / "answers.parquet" for name, done in outcomes.items() if done.status == "ok"}
    found = {}
    for name, path in paths.items():
        if path.exists():
            with files.intact(path, _AGAIN):
                found[name] = pd.read_parquet(path)
    return found


def covered(outcomes: Iterable[Outcome]) -> float:
    """Seconds during which at least one of the jobs ran: those that ran side by side count once."""
    begun = ((datetime.fromisoformat(outcome.started).timestamp(), outcome.seconds) for outcome in outcomes)
    total, until = 0.0, float("-inf")
    for start, seconds in sorted(begun):
        total += max(0.0, start + seconds - max(start, until))
        until = max(until, start + seconds)
    return total


def _width(plan: Plan) -> int:
    """How many of the jobs can run at the same time at most, but for what `after` asks."""
    shared = {task.run for task in plan.tasks if task.run}
    return len(shared) + sum(task.run is None for task in plan.tasks)


def _kept(task: Task, out: Path, key: str) -> Outcome | None:
    before = read_outcome(out, task.name)
    return before if before and before.status == "ok" and before.key == key else None


def read_outcome(out: Path, name: str) -> Outcome | None:
    """How the job ended that was run last in `out`; None if there was none."""
    path = out / "jobs" / name / "status.json"
    with files.intact(path, _AGAIN):
        return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _run_all(waiting: list[Task], done: dict[str, Outcome], starter: _Starter) -> None:
    running: list[_Running] = []
    with ExitStack() as stack:
        said = time.monotonic()
        while waiting or running:
            for task in [task for task in waiting if all(name in done for name in task.after)]:
                busy = task.run is not None and any(task.run == other.task.run for other in running)
                if len(running) < starter.width and not busy:
                    waiting.remove(task)
                    running.append(starter.start(task))
                    stack.callback(running[-1].stop)
            time.sleep(_POLL_SECONDS)
            for process in [process for process in running if process.is_over()]:
                running.remove(process)
                done[process.task.name] = process.end()
            if running and time.monotonic() - said > _STILL_SECONDS:
                said = time.monotonic()
                say("still running: " + ", ".join(f"{r.task.name} ({r.seconds:.0f} s)" for r in running))


@dataclass
class _Starter:
    """What all jobs of a run have in common."""

    out: Path
    answers: Path
    marks: Fingerprint
    width: int
    total: int
    started: int = 0

    def start(self, task: Task) -> _Running:
        """Start a job in its folder. Files of an attempt with the same code and parameters stay: it may resume."""
        folder, key = self.out / "jobs" / task.name, self.marks.of(task)
        before = read_outcome(self.out, task.name)
        if before is None or before.key != key or before.status == "ok":
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METRICS).unlink(missing_ok=True)
        outcome = Outcome(task.name, "interrupted", key, datetime.now(UTC).isoformat(timespec="milliseconds"))
        write_json(folder / "status.json", asdict(outcome))
        parameters = dict(task.parameters)
        if task.run is not None:
            self.answers.mkdir(parents=True, exist_ok=True)
            shared = self.answers / task.run
            parameters["run"] = os.path.relpath(shared.resolve(), task.notebook.resolve().parent)
        write_json(
            folder / job.FILE,
            {"notebook": str(task.notebook.resolve()), "parameters": parameters, "timeout": task.timeout},
        )
        self.started += 1
        say(f"{task.name}: started ({self.started} of {self.total})")
        threads = str(max(1, (os.cpu_count() or 1) // self.width))
        return _Running(task, folder, outcome, {"OMP_NUM_THREADS": threads, **os.environ})


class _Running:
    """A job's process."""

    def __init__(self, task: Task, folder: Path, outcome: Outcome, environment: Mapping[str, str]) -> None:
        self.task, self._folder, self._outcome = task, folder, outcome
        self._began, self._late = time.monotonic(), False
        self._log = folder / "log.txt"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*COMMAND, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # an interrupt from the terminal comes to this process only, which passes it on
            )

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def is_over(self) -> bool:
        """True when the process has ended, or was stopped because its time is up."""
        if self._process.poll() is None and self.seconds > self.task.timeout:
            self._late = True
            self.stop()
        return self._process.poll() is not None

    def stop(self) -> None:
        """End the process, which ends its kernel; at first politely. Does nothing once it has ended."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()  # kernels end when their parent does
            self._process.wait()

    def end(self) -> Outcome:
        """Note how the job ended."""
        scrub_file(self._log)
        status = "timeout" if self._late else "ok" if self._process.returncode == 0 else "failed"
        error = f"It took more than {self.task.timeout} s." if self._late else ""
        if status == "failed":
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            error = (
                lines[-1].removeprefix("lagkit: ") if lines else f"The process ended with {self._process.returncode}."
            )
        seconds = round(self.seconds, 1)
        outcome = Outcome(self.task.name, status, self._outcome.key, self._outcome.started, seconds, error)
        write_json(self._folder / "status.json", asdict(outcome))
        say(f"{self.task.name}: {status}, {seconds:.0f} s" + (f". {error}" if error else ""))
        return outcome
