"""`lagkit nightly`: run a profile, compare it with its baselines and report; or derive new baselines."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from lagkit.nightly import gates, history, page
from lagkit.nightly.profile import Plan, plan
from lagkit.nightly.run import Outcome, answers, covered, metrics, run
from lagkit.runs.summary import lift, shown
from lagkit.util import cli
from lagkit.util.errors import ConfigError, NotebookFailed
from lagkit.util.home import BUNDLED, laboratory
from lagkit.util.paths import at, refuse_links
from lagkit.util.progress import say
from lagkit.util.terminal import printable, tell


@dataclass(frozen=True)
class Night:
    """A profile of notebooks to run: `config` names it, `overrides` change its parameters, `out` takes the results.

    jobs: notebooks at once; None: by cores. fresh: run again what is unchanged, too.
    """

    config: Path | None
    profile: str
    overrides: Mapping[str, Any]
    out: Path | None
    jobs: int | None
    fresh: bool

    def run(self) -> int:
        """Run the profile and compare it with its baselines; returns 0, 1 when a gate failed, 2 when a job did."""
        with self._begun() as (wanted, out):
            baselines = gates.Baselines.load(wanted.baseline)
            began, before = time.monotonic(), history.read(out)
            outcomes = run(wanted, out, jobs=self.jobs, fresh=self.fresh)
            measured = gates.count(metrics(out, outcomes), answers(out, outcomes), _kept(wanted, baselines))
            compared = gates.compare(baselines, wanted, measured)
            past = history.record(out, wanted, outcomes, measured)
            table = ""
            if wanted.summary is not None and outcomes[wanted.summary].status == "ok":
                kept = set(zip(before["job"], before["started"], strict=True))  # these count with their own time
                earlier = covered(outcome for name, outcome in outcomes.items() if (name, outcome.started) in kept)
                table = shown(lift(out / "jobs" / wanted.summary, out, time.monotonic() - began + earlier))
            report = page.write(out, wanted, outcomes, measured, compared, past, table)
            return _tell(outcomes, compared, table, report)

    def update(self, seeds: int, write: bool) -> int:
        """Derive baselines from a number of seeds, show what changes, and write it if asked to.

        Raises NotebookFailed if a job fails, ConfigError where baselines cannot be derived, or may not be written.
        """
        with self._begun() as (wanted, out):
            if write and wanted.baseline.resolve().is_relative_to(BUNDLED):
                raise ConfigError(
                    f"The baselines of an installed lagkit stay as they are: copy {BUNDLED} to a folder of your own, "
                    "and give the nightly.yaml in it."
                )
            if seeds < 2:
                raise ConfigError("Tolerances come from the spread between seeds: give --seeds 2 or more.")
            before = gates.Baselines.load(wanted.baseline)
            after, given = self._derived(wanted, out, seeds)
            changed = gates.changes(before, after)
            cli.show(changed, f"{len(changed)} gates change in {wanted.baseline}")
            if not write:
                tell("\nNothing is written. Add --yes to write it.")
                return 0
            after.save(wanted.baseline, given)
            tell(f"\nWritten: {wanted.baseline}, and the answers beside it")
            return 0

    @contextmanager
    def _begun(self) -> Iterator[tuple[Plan, Path]]:
        """The plan, and the folder of results, locked against other runs."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the jobs' processes would live on
        wanted = self._plan()
        out = self.out or at(Path("runs/nightly") / self.profile)
        refuse_links(out, ConfigError, depth=3)
        out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(out / "lock", timeout=0):
                yield wanted, out
        except Timeout as error:
            raise ConfigError(
                f"Another nightly run is writing to {out}: wait for it, or give another --out."
            ) from error

    def _plan(self, **more: Any) -> Plan:
        here = Path("nightly.yaml")
        config = self.config or (here if here.exists() else laboratory() / here)
        return plan(config, self.profile, {**self.overrides, **more})

    def _derived(self, wanted: Plan, out: Path, seeds: int) -> tuple[gates.Baselines, dict[str, dict[str, Any]]]:
        """Baselines and answers of runs that differ in their seed."""
        own = {task.parameters["seed"] for task in wanted.tasks if "seed" in task.parameters}
        if len(own) != 1:
            raise ConfigError(
                f"The profile {wanted.profile} must give one `seed` to all its jobs, to vary it; it gives {own}."
            )
        [first] = own
        measured: list[dict[str, dict[str, float]]] = []
        given: dict[str, dict[str, Any]] = {}
        for seed in range(first, first + seeds):
            say(f"Seed {seed}")
            # The profile's own seed shares its folder with the nightly runs.
            folder = out if seed == first else out / "seeds" / str(seed)
            varied = wanted if seed == first else self._plan(seed=seed)
            outcomes = run(varied, folder, jobs=self.jobs, fresh=self.fresh)
            if failed := [outcome for outcome in outcomes.values() if outcome.status != "ok"]:
                raise NotebookFailed(f"No baselines without {failed[0].job}, seed {seed}: {failed[0].error}")
            measured.append(metrics(folder, outcomes))
            given = given or answers(folder, outcomes)
        after, left_out = gates.derive(wanted, range(first, first + seeds), measured, given)
        for sentence in left_out:
            tell(sentence)
        return after, given


def _kept(wanted: Plan, baselines: gates.Baselines | None) -> gates.Answers:
    """The stored answers of the jobs that run as they did for the baselines, with the same seed."""
    parameters = {task.name: gates.comparable(task.parameters) for task in wanted.tasks}
    jobs = baselines.jobs if baselines else {}
    stored = gates.load_answers(wanted.baseline).items()
    return {name: rows for name, rows in stored if name in jobs and jobs[name].parameters == parameters.get(name)}


def _tell(outcomes: Mapping[str, Outcome], compared: pd.DataFrame, table: str, report: Path) -> int:
    """Print the summary of a run; returns the exit code."""
    if table:
        tell(f"\n{table}")
    failed = [outcome for outcome in outcomes.values() if outcome.status != "ok"]
    worse = compared[compared["verdict"].isin(gates.FAILED)]
    if len(worse):
        cli.show(worse.set_index(["job", "metric"]), f"{len(worse)} of {len(compared)} gates failed")
    tell("")
    if (compared["verdict"] == "better").any():
        tell(
            "What is better fails, too. If it is meant, accept it with --update-baselines --yes, and commit the files."
        )
    for outcome in failed:
        tell(printable(f"{outcome.job} {outcome.status}: {outcome.error}"))
    passed = f"{len(compared) - len(worse)} of {len(compared)} gates passed" if len(compared) else "no gates"
    tell(f"{len(outcomes) - len(failed)} of {len(outcomes)} jobs succeeded, {passed}. Report: {report}")
    return 2 if failed else 1 if len(worse) else 0
