"""The testbed's command line: `python -m tools.testbed world|train|study`; `--help` behind any of them says more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lagkit.util import cli, files
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.terminal import tell

# Commands import what they need themselves: torch and transformers take seconds, and `--help` needs neither.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    args = _parser().parse_args(argv)
    return cli.exit_code(args.command, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.testbed", description="A world with known ground truth.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("world", world, "write a test world as a data set in MuSiQue's shape"),
        ("train", train, "train the model; the same command resumes"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("out", type=at, metavar="FOLDER")
        cli.add_settings(sub)
        sub.set_defaults(command=command)
    text = "measure base quality and all variants on several worlds; the same command resumes"
    sub = commands.add_parser("study", help=text, description=text)
    sub.add_argument("tier", metavar="TIER|CONFIG.yaml", help="settings of each world's run, as for `lagkit run`")
    sub.add_argument(
        "--worlds", nargs="+", type=int, default=[101, 102, 103], metavar="SEED", help="default: %(default)s"
    )
    sub.add_argument("--contradicted", type=float, default=0.3, metavar="SHARE", help="of the facts, in changed worlds")
    sub.add_argument("--page", type=at, metavar="FILE.md", help="where to write the tables; their rows go to FILE/")
    cli.add_settings(sub)
    sub.set_defaults(command=study)
    return parser


def world(args: argparse.Namespace) -> None:
    """Write a world and say what is in it."""
    from lagkit.datasets.loaders import load
    from lagkit.datasets.world.dataset import Controls, write

    controls = Controls.parse(cli.settings(args.set))
    tell(f"{args.out}: {load(write(args.out, controls), 'musique')}")


def train(args: argparse.Namespace) -> None:
    """Train, or go on training."""
    from lagkit.util.progress import quiet
    from tools.testbed.train import TrainConfig, train

    quiet()
    tell(f"The model is in {train(args.out, TrainConfig.parse(cli.settings(args.set)))}.")


def study(args: argparse.Namespace) -> None:
    """Run the worlds, print the tables and write them down."""
    from lagkit.datasets.world.dataset import Controls
    from lagkit.runs.config import RunConfig
    from lagkit.util.progress import quiet
    from tools.testbed.page import markdown
    from tools.testbed.study import run

    quiet()
    config = RunConfig.of(args.tier, **cli.settings(args.set))
    controls = Controls.parse(config.world or {})
    for name, option in (("seed", "--worlds"), ("contradicted", "--contradicted")):
        if getattr(controls, name):
            raise ConfigError(f"A study has worlds of its own: give {option} in the place of {name} in `world`.")
    if args.page:
        args.page.parent.mkdir(parents=True, exist_ok=True)
    found = run(config, controls, args.worlds, args.contradicted)
    tell(page := markdown(found))
    if args.page:
        found.save(args.page.with_suffix(""))
        files.write(args.page, page)


if __name__ == "__main__":
    sys.exit(main())
