"""`python -m lagkit nightly`: run a profile, hold it against its baselines, tell; or derive new baselines."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from lagkit import cli
from lagkit.errors import ConfigError, NotebookFailed
from lagkit.nightly import gates, history, page
from lagkit.nightly.profile import Plan, plan
from lagkit.nightly.run import Outcome, covered, metrics, run
from lagkit.nightly.summary import lift, shown
from lagkit.paths import at, refuse_links
from lagkit.progress import say


def nightly(args: argparse.Namespace) -> int:
    """Returns the exit code: 0, 1 when a gate failed, 2 when a job did."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the jobs' processes would live on
    overrides = cli.settings(args.set)
    wanted = plan(args.config, args.profile, overrides)
    out = args.out or at(Path("runs/nightly") / args.profile)
    refuse_links(out, ConfigError, depth=3)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / "lock", timeout=0):
            if args.update_baselines:
                return _update(args, wanted, overrides, out)
            return _night(args, wanted, out)
    except Timeout as error:
        raise ConfigError(f"Another nightly run is writing to {out}: wait for it, or give another --out.") from error


def _night(args: argparse.Namespace, wanted: Plan, out: Path) -> int:
    baselines = gates.Baselines.load(wanted.baseline)
    began, before = time.monotonic(), history.read(out)
    outcomes = run(wanted, out, jobs=args.jobs, fresh=args.fresh)
    measured = metrics(out, outcomes)
    compared = gates.compare(baselines, wanted, measured)
    past = history.record(out, wanted, outcomes, measured)
    kept = set(zip(before["job"], before["started"], strict=True))
    earlier = covered(outcome for name, outcome in outcomes.items() if (name, outcome.started) in kept)
    table = _summarize(wanted, outcomes, out, time.monotonic() - began + earlier)
    report = page.write(out, wanted, outcomes, measured, compared, past, table)
    return _tell(outcomes, compared, table, report)


def _summarize(wanted: Plan, outcomes: Mapping[str, Outcome], out: Path, seconds: float) -> str:
    """Write `summary.json` where the profile asks for it; returns its table. Kept jobs count with their own time."""
    if wanted.summary is None or outcomes[wanted.summary].status != "ok":
        return ""
    return shown(lift(out / "jobs" / wanted.summary, out, seconds))


def _tell(outcomes: Mapping[str, Outcome], compared: pd.DataFrame, table: str, report: Path) -> int:
    """Print what a person wants to know at the end; returns the exit code."""
    if table:
        print(f"\n{table}")
    failed = [outcome for outcome in outcomes.values() if outcome.status != "ok"]
    worse = compared[compared["verdict"].isin(gates.FAILED)]
    if len(worse):
        cli.show(worse.set_index(["job", "metric"]), f"{len(worse)} of {len(compared)} gates failed")
    better = compared[compared["verdict"] == "better"]
    if len(better):
        cli.show(better.set_index(["job", "metric"]), "Better than the baselines by more than their tolerance")
    print()
    for outcome in failed:
        print(f"{outcome.job} {outcome.status}: {outcome.error}")
    passed = f"{len(compared) - len(worse)} of {len(compared)} gates passed" if len(compared) else "no gates"
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} jobs succeeded, {passed}. Report: {report}")
    return 2 if failed else 1 if len(worse) else 0


def _update(args: argparse.Namespace, wanted: Plan, overrides: Mapping[str, Any], out: Path) -> int:
    """Derive baselines from several seeds, show what changes, and write it if that was asked for."""
    before = gates.Baselines.load(wanted.baseline)
    if args.seeds < 2:
        raise ConfigError("Tolerances come from the spread between seeds: give --seeds 2 or more.")
    own = {task.parameters["seed"] for task in wanted.tasks if "seed" in task.parameters}
    if len(own) != 1:
        raise ConfigError(
            f"The profile {wanted.profile} must give one `seed` to all its jobs, to vary it; it gives {own}."
        )
    first = own.pop()
    measured = []
    for seed in range(first, first + args.seeds):
        say(f"Seed {seed}")
        # The profile's own seed shares its folder with the nightly runs.
        folder = out if seed == first else out / "seeds" / str(seed)
        varied = wanted if seed == first else plan(args.config, args.profile, {**overrides, "seed": seed})
        outcomes = run(varied, folder, jobs=args.jobs, fresh=args.fresh)
        if failed := [outcome for outcome in outcomes.values() if outcome.status != "ok"]:
            raise NotebookFailed(f"No baselines without {failed[0].job}, seed {seed}: {failed[0].error}")
        measured.append(metrics(folder, outcomes))
    after, left_out = gates.derive(wanted, range(first, first + args.seeds), measured)
    for sentence in left_out:
        print(sentence)
    changed = gates.changes(before, after)
    cli.show(changed, f"{len(changed)} gates change in {wanted.baseline}")
    if not args.yes:
        print("\nNothing is written. Add --yes to write it.")
        return 0
    after.save(wanted.baseline)
    print(f"\nWritten: {wanted.baseline}")
    return 0
