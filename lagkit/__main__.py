"""Headless use: `python -m lagkit run|encode|store|overlap|codec|nightly`; `--help` behind each says more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lagkit.util.cli import add_settings, count, exit_code, settings, show
from lagkit.util.errors import ConfigError, EmptyStore
from lagkit.util.paths import at
from lagkit.util.terminal import printable, tell

if TYPE_CHECKING:
    from lagkit.logs.store import Store
    from lagkit.runs.experiment import Experiment

# Commands import what they need themselves: torch and transformers take seconds, and `--help` needs neither.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (`verify` or a gate), 2 (an error), 130 (interrupted)."""
    args = _parser().parse_args(_store_first(sys.argv[1:] if argv is None else argv))
    return exit_code(args.command, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lagkit", description="Log-augmented generation: reuse the KV of past reasoning."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("run", run, "build logs, encode them, answer the questions, report"),
        ("encode", encode, "build and encode the logs of a run, and stop there"),
    ):
        sub = commands.add_parser(name, help=text, description=f"From a run file: {text}. The same command resumes.")
        sub.add_argument(
            "tier",
            metavar="TIER|CONFIG.yaml",
            help="testbed, smollm2, paper, or a file of settings (RunConfig)",
        )
        add_settings(sub)
        _add_workers(sub)
        sub.set_defaults(command=command)
    _add_store(commands.add_parser("store", help="look after a log store; needs no model"))
    _add_overlap(commands.add_parser("overlap", help="what the unseen questions of data folders share with seen ones"))
    _add_codec(commands.add_parser("codec", help="measure what KV blocks in fewer bits cost"))
    _add_nightly(commands.add_parser("nightly", help="run a profile of notebooks and hold it against its baselines"))
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workers", "share the work out to processes with a model each, by Ray")
    group.add_argument("--workers", type=count, metavar="N", help="how many (default: none, all in this process)")
    group.add_argument("--ray", metavar="ADDRESS", help="a cluster: auto, HOST:6379 (default: one on this machine)")
    group.add_argument("--gpus-per-worker", type=float, metavar="N", help="default: 1 if the cluster has GPUs, else 0")
    group.add_argument("--threads-per-worker", type=count, metavar="N", help="default: 1 with GPUs, else a fair share")


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="STORE", help="a folder, FOLDER.lance, or s3://... (docs/stores.md)")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(command=command)
        return action

    add("summary", summary, "logs, tokens and bytes for each kind of block")
    add("verify", verify, "read every byte and list what is wrong; exit code 1 if something is")
    pruning = add("prune", prune, "remove damaged blocks and files that no log names")
    pruning.add_argument("--max-bytes", type=int, metavar="N", help="remove the oldest logs too, down to N bytes")
    add("export", export, "write all of it into one file").add_argument("file", metavar="FILE", type=at)
    importing = add("import", import_, "add the logs of an exported file; makes the store if there is none")
    importing.add_argument("file", metavar="FILE", type=at)
    copying = add("copy", copy, "copy all of it to another place, and compare; the same command completes a copy")
    copying.add_argument("target", metavar="TO", help="another STORE, which is made if there is none")
    searching = add("search", search, "the logs nearest to a text, by the store's own embedder")
    searching.add_argument("text", metavar="TEXT")
    searching.add_argument("-k", type=count, default=3, help="how many (default: 3)")
    searching.add_argument("--exact", action="store_true", help="miss none, in a store of 30,000 logs and more either")


def _add_overlap(parser: argparse.ArgumentParser) -> None:
    parser.description = "What unseen questions share with seen ones, under both splits, as a table in Markdown."
    parser.add_argument("folders", nargs="+", type=at, metavar="FOLDER", help="of questions")
    parser.add_argument("--dataset", metavar="NAME", help="the layout of folders that are not named by theirs")
    parser.set_defaults(command=overlap)


def _add_codec(parser: argparse.ArgumentParser) -> None:
    parser.description = "Bytes, errors and answers of logs in fewer bits, against uncompressed ones; it resumes."
    parser.add_argument("tiers", nargs="+", metavar="TIER|CONFIG.yaml", help="settings of each run, as for `run`")
    parser.add_argument("--out", required=True, type=at, metavar="FOLDER", help="for the runs")
    parser.add_argument(
        "--page", type=at, metavar="FILE.md", help="where to write the tables, and their rows (default: codec.md in it)"
    )
    parser.add_argument("--policy", default="kv_last_round", metavar="NAME", help="whose blocks (default: %(default)s)")
    parser.add_argument(
        "--cases", type=count, default=20, metavar="N", help="prompts to compare (default: %(default)s)"
    )
    add_settings(parser)
    parser.set_defaults(command=codec)


def _add_nightly(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run a profile of notebooks; exit code 1 when a gate failed, 2 on an error. It resumes."
    parser.add_argument(
        "config",
        nargs="?",
        type=at,
        metavar="FILE.yaml",
        help="default: nightly.yaml, here or as it comes with lagkit",
    )
    parser.add_argument(
        "--profile", default="demo", metavar="NAME", help="which of the file's profiles (default: demo)"
    )
    parser.add_argument("--out", type=at, metavar="FOLDER", help="for results (default: runs/nightly/NAME)")
    parser.add_argument("--jobs", type=count, metavar="N", help="notebooks at once (default: by cores)")
    parser.add_argument("--fresh", action="store_true", help="run again what is unchanged, too")
    parser.add_argument(
        "--update-baselines", action="store_true", help="derive the gates from several seeds; show them"
    )
    parser.add_argument("--seeds", type=count, metavar="N", help="how many seeds for that (default: 3)")
    parser.add_argument("--yes", action="store_true", help="and write them")
    add_settings(parser)
    parser.set_defaults(command=nightly)


def run(args: argparse.Namespace) -> None:
    """All stages of a run, then its tables."""
    from lagkit.stats import metrics

    experiment = _experiment(args)
    with experiment.writing(), _workers(args, experiment):
        results = experiment.run()
    show(metrics.summarize(results), f"Summary of {len(results)} answers")
    show(experiment.differences(results), "Differences to no_logs, with 95% intervals")
    tell(f"\nresults.parquet, summary.csv, differences.csv, manifest.json, traces and store: {experiment.out}")


def encode(args: argparse.Namespace) -> None:
    """The stages up to the encoded logs."""
    experiment = _experiment(args)
    with experiment.writing(), _workers(args, experiment):
        experiment.build()
        experiment.encode()
        with experiment.store() as store:
            _describe(store)


def summary(args: argparse.Namespace) -> None:
    """What a store holds."""
    with _open(args.path) as store:
        _describe(store)


def verify(args: argparse.Namespace) -> int:
    """What is wrong in a store; 1 if anything is."""
    with _open(args.path) as store:
        problems = store.verify()
        if problems.empty:
            tell(f"All {len(store)} logs of {store.path} and their blocks are sound.")
            return 0
    show(problems, f"{len(problems)} problems; prune removes damaged blocks and orphans")
    return 1


def prune(args: argparse.Namespace) -> None:
    """Remove what is damaged, and the oldest logs above a size."""
    with _open(args.path, write=True) as store:
        gone = store.prune(args.max_bytes)
        if not gone.empty:
            show(gone, "Removed")
        tell(f"{gone['bytes'].sum():,} bytes removed; {len(store)} logs are left in {store.nbytes:,} bytes.")


def export(args: argparse.Namespace) -> None:
    """A whole store into one file."""
    with _open(args.path) as store:
        path = store.export(args.file)
        tell(f"{len(store)} logs are in {path} ({path.stat().st_size:,} bytes).")


def import_(args: argparse.Namespace) -> None:
    """An exported file into a store, which is made for its model if there is none."""
    from lagkit.logs.archive import Archive
    from lagkit.logs.base import Store

    with Archive(args.file) as archive:
        whose = archive.header
    with Store.new(args.path, whose, exist_ok=True) as store:
        before = len(store)
        found = store.import_archive(args.file)
        tell(f"{len(store) - before} of {len(found)} logs were new; {store.path} now has {len(store)}.")


def copy(args: argparse.Namespace) -> None:
    """A whole store to another place, which is made if there is none."""
    from lagkit.logs import copying
    from lagkit.logs.base import Store

    with _open(args.path) as source, Store.new(args.target, source.header, exist_ok=True) as target:
        done = copying.copy(source, target)
        speed, checking = (f"{n / 1e6 / max(s, 1e-9):.1f} MB/s" for n, s in done.rates)
        tell(
            f"{target.path} is a copy of {source.path}: {done.logs} logs; {done.new} blocks were new ({done.bytes:,} "
            f"bytes, {speed}), {done.checked:,} bytes of blocks were compared ({checking})."
        )


def search(args: argparse.Namespace) -> None:
    """The logs nearest to a text, best first."""
    from lagkit.logs.retrieve import load_embedder

    with _open(args.path) as store:
        if not len(store):
            raise EmptyStore(f"The log store at {store.path} has no logs yet: there is nothing to search.")
        [hits] = store.search(load_embedder(store.embedder).queries([args.text]), args.k, exact=args.exact)
        for hit in hits:
            trace = store.get(hit.id)
            tell(printable(f"{hit.score:.3f}  {hit.id}  {trace.question}  ->  {trace.answer or 'no answer'}"))


def overlap(args: argparse.Namespace) -> None:
    """A column for each folder."""
    from lagkit.datasets import loaders as data
    from lagkit.datasets import split as components
    from lagkit.datasets.layouts import LAYOUTS
    from lagkit.runs.report import table

    found = {
        folder.name: components.survey(data.load(folder, None if folder.name in LAYOUTS else args.dataset))
        for folder in args.folders
    }
    rows = {name: [numbers[name] for numbers in found.values()] for name in next(iter(found.values()))}
    tell(table(["", *found], [[name, *numbers] for name, numbers in rows.items()]))


def codec(args: argparse.Namespace) -> None:
    """Measure each run's loss, print the page and write it down."""
    overrides = settings(args.set, {"out": "give --out", "policies": "give --policy", "codec": "all are compared"})
    from lagkit.runs.config import RunConfig
    from lagkit.runs.experiment import Experiment
    from lagkit.studies.codecs import Loss
    from lagkit.util.progress import quiet
    from tools.codecs_page import Measured, save

    quiet()
    chosen = {**overrides, "policies": ["no_logs", args.policy]}
    configs = {Path(tier).stem: RunConfig.of(tier, **chosen, out=args.out / Path(tier).stem) for tier in args.tiers}
    runs = {name: Experiment(config) for name, config in configs.items()}
    found = {}
    for name, run in runs.items():
        with run.writing():
            found[name] = Measured.of(Loss(run, args.policy, args.cases))
    page = args.page or args.out / "codec.md"
    save(page, found)
    tell(page.read_text(encoding="utf-8"))


def nightly(args: argparse.Namespace) -> int:
    """Run a profile, or derive its baselines."""
    if not args.update_baselines and (args.yes or args.seeds):
        raise ConfigError("--seeds and --yes are for --update-baselines: add that, or leave them out.")
    args.seeds = args.seeds or 3
    from lagkit.nightly import command

    return command.nightly(args)


def _experiment(args: argparse.Namespace) -> Experiment:
    overrides = settings(args.set)
    from lagkit.runs.config import RunConfig
    from lagkit.runs.experiment import Experiment
    from lagkit.util.progress import quiet

    quiet()
    return Experiment(RunConfig.of(args.tier, **overrides))


def _store_first(argv: Sequence[str]) -> list[str]:
    """`store copy FROM TO` as `store FROM copy TO`, which is how all that is done with a store is put."""
    if list(argv[:2]) == ["store", "copy"] and len(argv) == 4:
        return ["store", argv[2], "copy", argv[3]]
    return list(argv)


def _workers(args: argparse.Namespace, experiment: Experiment) -> AbstractContextManager[object]:
    """The workers that the options ask for, at work on a run."""
    if args.workers is None:
        given = [name for name in ("ray", "gpus_per_worker", "threads_per_worker") if getattr(args, name) is not None]
        if given:
            raise ConfigError(f"--{given[0].replace('_', '-')} is for workers: say how many with --workers.")
        return nullcontext()
    from lagkit.runs.workers import Workers

    return Workers(
        experiment, args.workers, address=args.ray, gpus=args.gpus_per_worker, threads=args.threads_per_worker
    )


def _open(place: str, *, write: bool = False) -> Store:
    from lagkit.logs.base import Store

    return Store.open(place, write=write)


def _describe(store: Store) -> None:
    size = f"{len(store)} logs, {store.nbytes:,} bytes, {store.dtype}, codec {store.codec}"
    tell(printable(f"{store.path}: {size}, embedder {store.embedder}"))
    tell(printable(f"model: {', '.join(f'{key} {value}' for key, value in store.model.items())}"))
    blocks = store.summary()
    if blocks.empty:
        tell("No KV blocks.")
    else:
        show(blocks, "KV blocks")


if __name__ == "__main__":
    sys.exit(main())
