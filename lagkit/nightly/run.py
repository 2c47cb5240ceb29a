"""A plan's jobs: notebooks in parallel processes, each with a time limit; what succeeded before is not run again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.model.hub import resolve_model
from lagkit.nightly import job
from lagkit.nightly.profile import Plan, Task
from lagkit.runs.manifest import versions
from lagkit.util import files
from lagkit.util.files import write_json
from lagkit.util.progress import say
from lagkit.util.secrets import scrub_file

COMMAND = (sys.executable, "-m", "lagkit.nightly.job")  # of one job, followed by its folder

METRICS = "metrics.json"

_AGAIN = "delete the job's folder, and it runs again"
_STILL_SECONDS = 60  # how often running jobs are named
_GRACE_SECONDS = 10.0  # for a notebook to save what it has when it is stopped


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `ok`, `failed` or `timeout`. key: its fingerprint. started: UTC, ISO 8601. error: a sentence."""

    job: str
    status: str
    key: str
    started: str
    seconds: float = 0.0
    error: str = ""


def run(plan: Plan, out: Path, *, jobs: int | None = None, fresh: bool = False) -> dict[str, Outcome]:
    """Run the plan's jobs into `out/jobs/NAME`; returns an outcome for each, in the plan's order.

    jobs: processes at once; by default as many as there are cores and jobs that need not wait for each other. fresh:
    run again what succeeded. Logs and answers that jobs share are in `out/answers`; those of other code or parameters
    are removed. A KeyboardInterrupt stops all processes; the same call resumes.
    """
    code = code_hash()
    answers = out / "answers" / fingerprint(code, plan.tasks, notebooks=False)
    for other in (out / "answers").glob("*"):
        if other != answers or fresh:
            shutil.rmtree(other)
    done: dict[str, Outcome] = {}
    waiting: list[Task] = []
    for task in plan.tasks:
        before = None if fresh else read_outcome(out, task.name)
        kept = before is not None and before.status == "ok" and before.key == fingerprint(code, [task])
        if before and kept and not any(other.name in task.after for other in waiting):
            done[task.name] = before
            say(f"{task.name}: unchanged, not run again")
        else:
            waiting.append(task)
    # Jobs that share a run never run at the same time.
    shared = {task.run or task.name for task in plan.tasks}
    width = jobs or min(os.cpu_count() or 1, len(shared))
    asyncio.run(_Night(out, answers, code, width, len(waiting), done).run(waiting))
    return {task.name: done[task.name] for task in plan.tasks}


def code_hash() -> str:
    """Of lagkit's sources, the testbed's model and the versions of libraries."""
    package = Path(__file__).parents[1]
    paths = [path for path in sorted(package.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    paths += sorted(Path(resolve_model("testbed")).glob("*.safetensors"))
    names = [path.relative_to(package.parent).as_posix() for path in paths]
    return _hash(versions(), names, *(path.read_bytes() for path in paths))


def fingerprint(code: str, tasks: Iterable[Task], *, notebooks: bool = True) -> str:
    """What the results of tasks depend on, as a hash: code, parameters and the files that these name, and notebooks.

    Without `notebooks`: what the logs and answers depend on that the tasks share.
    """
    parts: list[Any] = [code]
    for task in tasks:
        parts += [[task.name, task.parameters, task.run], *_read(task)]
        parts += [task.notebook.read_bytes()] if notebooks else []
    return _hash(*parts)


def _read(task: Task) -> Iterator[bytes]:
    """Contents of the files that the parameters `data` and `tier` name: the same path may hold other questions."""
    for name in ("data", "tier"):
        path = task.notebook.parent / str(task.parameters.get(name) or "")
        found = sorted(path.glob("dev_*")) if name == "data" else [path]
        yield from (file.read_bytes() for file in found if file.is_file())


def _hash(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part if isinstance(part, bytes) else json.dumps(part).encode()).digest())
    return digest.hexdigest()[:16]


def metrics(out: Path, outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    """The metrics of each job that succeeded; empty where its notebook wrote none."""
    found = {}
    for folder in _succeeded(out, outcomes):
        with files.intact(folder / METRICS, _AGAIN):
            found[folder.name] = {key: float(value) for key, value in read_metrics(folder).get("metrics", {}).items()}
    return found


def read_metrics(folder: Path) -> dict[str, Any]:
    """What a job's notebook wrote; empty where it wrote nothing. Raises DataError if the file is damaged."""
    path = folder / METRICS
    with files.intact(path, _AGAIN):
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def answers(out: Path, outcomes: Mapping[str, Outcome]) -> dict[str, pd.DataFrame]:
    """The answers of each job that succeeded and whose notebook wrote some, as `changed.answers` gives them."""
    found = {}
    for folder in _succeeded(out, outcomes):
        if (path := folder / "answers.parquet").exists():
            with files.intact(path, _AGAIN):
                found[folder.name] = pd.read_parquet(path)
    return found


def _succeeded(out: Path, outcomes: Mapping[str, Outcome]) -> list[Path]:
    return [out / "jobs" / name for name, outcome in outcomes.items() if outcome.status == "ok"]


def covered(outcomes: Iterable[Outcome]) -> float:
    """Seconds during which at least one of the jobs ran: those that ran side by side count once."""
    begun = ((datetime.fromisoformat(outcome.started).timestamp(), outcome.seconds) for outcome in outcomes)
    total, until = 0.0, float("-inf")
    for start, seconds in sorted(begun):
        total += max(0.0, start + seconds - max(start, until))
        until = max(until, start + seconds)
    return total


def read_outcome(out: Path, name: str) -> Outcome | None:
    """How the job's last execution in `out` ended; None if there was none."""
    path = out / "jobs" / name / "status.json"
    with files.intact(path, _AGAIN):
        return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


@dataclass
class _Night:
    """Executes the jobs of one run. width: processes at once. total: jobs to run. done: outcomes so far."""

    out: Path
    answers: Path
    code: str
    width: int
    total: int
    done: dict[str, Outcome]
    running: dict[str, float] = field(default_factory=dict)  # job -> when it began
    started: int = 0

    async def run(self, waiting: Sequence[Task]) -> None:
        """Execute all: each after those that it waits for, alone in its run's folder, `width` at once."""
        free = asyncio.Semaphore(self.width)
        folders: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        ended = {task.name: asyncio.Event() for task in waiting}

        async def one(task: Task) -> None:
            for name in task.after:
                if name in ended:
                    await ended[name].wait()
            async with folders[task.run or task.name], free:
                self.done[task.name] = await self._execute(task)
            ended[task.name].set()

        still = asyncio.create_task(self._still())
        try:
            await asyncio.gather(*map(one, waiting))
        finally:
            still.cancel()

    async def _still(self) -> None:
        """Name the running jobs now and then. Wakes each second: a signal is only acted on when the loop is awake."""
        for second in range(1, sys.maxsize):
            await asyncio.sleep(1)
            if self.running and second % _STILL_SECONDS == 0:
                now = time.monotonic()
                say(
                    "still running: " + ", ".join(f"{job} ({now - began:.0f} s)" for job, began in self.running.items())
                )

    async def _execute(self, task: Task) -> Outcome:
        """Run a job in its folder. Files of an attempt with the same code and parameters stay: it may resume."""
        folder, key = self.out / "jobs" / task.name, fingerprint(self.code, [task])
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
        written = {"notebook": str(task.notebook.resolve()), "parameters": parameters, "timeout": task.timeout}
        write_json(folder / job.FILE, written)
        self.started += 1
        say(f"{task.name}: started ({self.started} of {self.total})")
        began = self.running[task.name] = time.monotonic()
        try:
            status, error = await self._ended(task, folder)
        finally:
            del self.running[task.name]
        outcome = replace(outcome, status=status, seconds=round(time.monotonic() - began, 3), error=error)
        write_json(folder / "status.json", asdict(outcome))
        say(f"{task.name}: {status}, {outcome.seconds:.0f} s" + (f". {error}" if error else ""))
        return outcome

    async def _ended(self, task: Task, folder: Path) -> tuple[str, str]:
        """Status and error of a job's process; stops it when its time is up or the run is interrupted."""
        log, threads = folder / "log.txt", str(max(1, (os.cpu_count() or 1) // self.width))
        with open(log, "wb") as told:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                str(folder),
                stdin=DEVNULL,
                stdout=told,
                stderr=STDOUT,
                env={"OMP_NUM_THREADS": threads, **os.environ},
                start_new_session=True,  # an interrupt from the terminal comes to this process only: it passes it on
            )
        try:
            code = await asyncio.wait_for(process.wait(), task.timeout)
        except TimeoutError:
            return "timeout", f"It took more than {task.timeout} s."
        finally:
            await _stop(process)
            scrub_file(log)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].removeprefix("lagkit: ") if lines else f"The process ended with {code}."
        return ("failed", last) if code else ("ok", "")


async def _stop(process: Process) -> None:
    """End a process, which ends its kernel; at first politely. Does nothing once it has ended."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError, TimeoutError):
            if process.returncode is None:
                process.send_signal(sign)  # kernels end when their parent does
                await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
