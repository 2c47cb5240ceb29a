"""The commands of lagkit: `lagkit run testbed out=runs/mine`, or `python -m lagkit`; `--help` behind each says more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option
from typer.core import TyperCommand

from lagkit.logs import command as store
from lagkit.util.cli import Settings, application, call, parted, settings, show
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.terminal import printable, tell

if TYPE_CHECKING:
    from lagkit.runs.experiment import Experiment

# Commands import what they need themselves: torch and transformers take seconds, and `--help` needs neither.
app = application("Log-augmented generation: reuse the KV cache of past reasoning.")
app.add_typer(store.app, name="store")
testbed = application("Make a test world: questions with known ground truth.")
app.add_typer(testbed, name="testbed")

Tier = Annotated[
    str, Argument(metavar="TIER|CONFIG.yaml", help="testbed, smollm2, laptop, paper, or a file of settings")
]
Count = Annotated[int | None, Option(min=1, metavar="N", help="share the work out to N processes, by Ray")]
Ray = Annotated[str | None, Option(metavar="ADDRESS", help="of a cluster: auto, HOST:6379 [default: this machine]")]
Gpus = Annotated[float | None, Option(metavar="N", help="[default: 1 if the cluster has GPUs, else 0]")]
Threads = Annotated[int | None, Option(min=1, metavar="N", help="[default: 1 with GPUs, else a fair share]")]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (`verify` or a gate), 2 (an error), 130 (interrupted)."""
    return call(app, "lagkit", words)


@app.command()
def run(
    tier: Tier,
    changes: Settings = None,
    workers: Count = None,
    ray: Ray = None,
    gpus_per_worker: Gpus = None,
    threads_per_worker: Threads = None,
) -> None:
    """Build logs, encode them, answer the questions. The same command resumes."""
    experiment = _experiment(tier, changes)
    from lagkit.stats import metrics

    with experiment.writing(), _workers(experiment, workers, ray, gpus_per_worker, threads_per_worker):
        results = experiment.run()
    show(metrics.summarize(results), f"Summary of {len(results)} answers")
    show(experiment.differences(results), "Differences to no_logs, with 95% intervals")
    tell(f"\nresults.parquet, summary.csv, differences.csv, manifest.json, traces and store: {experiment.out}")


@app.command()
def encode(
    tier: Tier,
    changes: Settings = None,
    workers: Count = None,
    ray: Ray = None,
    gpus_per_worker: Gpus = None,
    threads_per_worker: Threads = None,
) -> None:
    """Build and encode the logs of a run, no more. The same command resumes."""
    experiment = _experiment(tier, changes)
    with experiment.writing(), _workers(experiment, workers, ray, gpus_per_worker, threads_per_worker):
        experiment.build()
        experiment.encode()
        with experiment.store() as logs:
            store.describe(logs)


@app.command()
def ask(
    folder: Annotated[Path, Argument(metavar="RUN", parser=at, help="folder of a finished run")],
    question: Annotated[str, Argument(metavar="QUESTION")],
    variant: Annotated[list[str] | None, Option(metavar="NAME", help="[default: all of the run]")] = None,
) -> None:
    """Answer a question under each variant. Logs and passages are those of a run."""
    from lagkit.runs.load import reopen
    from lagkit.util.progress import quiet
    from lagkit.views import lab

    quiet()
    experiment, _ = reopen(folder)
    answers = lab.ask(experiment, question, variant or experiment.config.policies)
    with experiment.store() as logs:
        for name, trace in answers.items():
            for number, turn in enumerate(trace.rounds, 1):
                tell(f"\n{printable(name)}, round {number}")
                for hit in turn.logs:
                    tell(printable(f"  log {hit.id} ({hit.score:.3f}): {logs.get(hit.id).question}"))
                tell(turn.response)
    show(answers.table().drop(columns="right"), question)  # words have no gold answer


@app.command()
def overlap(
    folders: Annotated[list[Path], Argument(metavar="FOLDER", parser=at, help="of questions")],
    dataset: Annotated[str | None, Option(metavar="NAME", help="layout of folders not named by theirs")] = None,
) -> None:
    """Show what unseen questions share with seen ones. A table in Markdown, for both splits."""
    from lagkit.datasets import loaders, split
    from lagkit.datasets.layouts import LAYOUTS
    from lagkit.util.markdown import table

    found = {
        folder.name: split.survey(loaders.load(folder, None if folder.name in LAYOUTS else dataset))
        for folder in folders
    }
    rows = {name: [numbers[name] for numbers in found.values()] for name in next(iter(found.values()))}
    tell(table(["", *found], [[name, *numbers] for name, numbers in rows.items()]))


@app.command()
def nightly(
    words: Annotated[
        list[str] | None,
        Argument(metavar="FILE.yaml|key=value", help="profiles [default: nightly.yaml, here or in lagkit]; settings"),
    ] = None,
    profile: Annotated[str, Option(metavar="NAME", help="which of the file's profiles")] = "demo",
    out: Annotated[
        Path | None, Option(metavar="FOLDER", parser=at, help="for results [default: runs/nightly/NAME]")
    ] = None,
    jobs: Annotated[int | None, Option(min=1, metavar="N", help="notebooks at once [default: by cores]")] = None,
    fresh: Annotated[bool, Option("--fresh", help="run again what is unchanged, too")] = False,
    update_baselines: Annotated[
        bool, Option("--update-baselines", help="derive the gates from several seeds; show them")
    ] = False,
    seeds: Annotated[int | None, Option(min=1, metavar="N", help="how many seeds for that [default: 3]")] = None,
    yes: Annotated[bool, Option("--yes", help="and write them")] = False,
) -> int:
    """Run notebooks and compare them with baselines. Exit code 1 if a gate fails. The same command resumes."""
    if not update_baselines and (yes or seeds):
        raise ConfigError("--seeds and --yes are for --update-baselines: add that, or leave them out.")
    files, pairs = parted(words)
    if len(files) > 1:
        raise ConfigError(f"{files[1]!r} is neither a setting nor the one file of profiles, {files[0]}.")
    overrides = settings(pairs)
    from lagkit.nightly import command

    night = command.Night(at(files[0]) if files else None, profile, overrides, out, jobs=jobs, fresh=fresh)
    return night.update(seeds or 3, write=yes) if update_baselines else night.run()


class _Pairs(TyperCommand):
    """A command whose option `-p` takes a name and a value; Typer's lists take one word each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the two words behind each `-p` by `=`."""
        words, joined = iter(args), []
        for word in words:
            joined += [word, "=".join(islice(words, 2))] if word == "-p" else [word]
        return super().parse_args(ctx, joined)


@app.command(cls=_Pairs)
def notebook(
    source: Annotated[Path, Argument(metavar="NOTEBOOK", parser=at)],
    out: Annotated[Path, Argument(metavar="OUT", parser=at, help="folder for the executed copy and what it writes")],
    parameters: Annotated[
        list[str] | None, Option("-p", metavar="NAME VALUE", help="a parameter; may be given again")
    ] = None,
    timeout: Annotated[int, Option(min=1, metavar="S", help="seconds for one cell")] = 900,
) -> None:
    """Run a notebook without a person. Its parameters are checked first."""
    given = [pair.partition("=") for pair in parameters or ()]
    if bare := [name for name, equals, _ in given if not equals]:
        raise ConfigError(f"-p takes a name and a value; {bare[0]!r} has none.")
    names = [name for name, _, _ in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"-p gives {twice[0]} twice: give it once.")
    from lagkit.nightly.notebook import execute, from_words

    tell(str(execute(source, out, from_words(source, {name: value for name, _, value in given}), timeout)))


@app.command()
def gallery(
    executed: Annotated[Path, Argument(metavar="EXECUTED", parser=at, help="folder of executed notebooks")],
    pages: Annotated[Path | None, Option(metavar="DIR", parser=at, help="for the HTML [default: EXECUTED]")] = None,
    copies: Annotated[Path | None, Option(metavar="DIR", parser=at, help="for copies for GitHub")] = None,
) -> None:
    """Make pages of executed notebooks. They work offline; figures of copies for GitHub show as pictures."""
    from lagkit.nightly.gallery import make

    make(executed, pages or executed, copies)


@app.command()
def page(
    executed: Annotated[Path, Argument(metavar="NOTEBOOK", parser=at, help="an executed copy")],
    out: Annotated[Path | None, Argument(metavar="OUT", parser=at, help="[default: beside it, .html]")] = None,
) -> None:
    """Make one HTML file of an executed notebook, to be sent alone: figures in it work without a network."""
    from lagkit.nightly.gallery import write_page

    tell(str(write_page(executed, out or executed.with_suffix(".html"))))


@testbed.command()
def world(
    folder: Annotated[Path, Argument(metavar="FOLDER", parser=at)],
    controls: Settings = None,
) -> None:
    """Write a test world as a data set in MuSiQue's shape."""
    from lagkit.datasets.loaders import load
    from lagkit.datasets.world.controls import controls_of
    from lagkit.datasets.world.dataset import write

    tell(f"{folder}: {load(write(folder, controls_of(settings(controls))), 'musique')}")


def _experiment(tier: str, changes: Sequence[str] | None) -> Experiment:
    overrides = settings(changes)
    from lagkit.runs.config import RunConfig

    config = RunConfig.of(tier, **overrides)  # refused, where it is, before torch is loaded
    from lagkit.runs.experiment import Experiment
    from lagkit.util.progress import quiet

    quiet()
    return Experiment(config)


def _workers(
    experiment: Experiment, count: int | None, ray: str | None, gpus: float | None, threads: int | None
) -> AbstractContextManager[object]:
    """The workers that the options ask for, at work on a run."""
    if count is None:
        options = {"--ray": ray, "--gpus-per-worker": gpus, "--threads-per-worker": threads}
        if given := [option for option, value in options.items() if value is not None]:
            raise ConfigError(f"{given[0]} is for workers: say how many with --workers.")
        return nullcontext()
    from lagkit.runs.workers import Workers

    return Workers(experiment, count, address=ray, gpus=gpus, threads=threads)


if __name__ == "__main__":
    sys.exit(main())
