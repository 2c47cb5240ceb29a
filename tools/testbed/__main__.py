"""`python -m tools.testbed train|study`: the testbed's model, and what it shows; `--help` behind either says more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from lagkit.util import cli, files
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.terminal import tell

# Commands import what they need themselves: torch and transformers take seconds, and `--help` needs neither.
app = cli.application("Train the testbed's model, and study it on test worlds.")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.testbed", words)


@app.command()
def train(out: Annotated[Path, Argument(metavar="FOLDER", parser=at)], changes: cli.Settings = None) -> None:
    """Train the model. The same command resumes."""
    from lagkit.util.progress import quiet
    from tools.testbed.train import TrainConfig, train

    quiet()
    tell(f"The model is in {train(out, TrainConfig.parse(cli.settings(changes)))}.")


@app.command()
def carry(out: Annotated[Path, Argument(metavar="FOLDER", parser=at)], changes: cli.Settings = None) -> None:
    """Continue the shipped model on logs with aliases; hidden_rounds=true trains the positive control. Resumes."""
    from lagkit.util.progress import quiet
    from tools.testbed.carry import CarryConfig, train

    quiet()
    tell(f"The model is in {train(out, CarryConfig.parse(cli.settings(changes)))}.")


@app.command("carry-study")
def carry_study(
    models: Annotated[list[str], Argument(metavar="NAME=FOLDER", help="models; `plain` and `control` among them")],
    page: Annotated[Path, Option(metavar="FILE.md", parser=at, help="for what is carried; rows go to FILE.parquet")],
    sites: Annotated[
        Path | None, Option(metavar="FILE.md", parser=at, help="for where it sits; rows go to FILE.parquet")
    ] = None,
    questions: Annotated[int, Option(min=2, help="of each rung")] = 60,
    seed: Annotated[int, Option(help="of the world")] = 301,
) -> None:
    """Ask models in the carry world what kept tokens carry, and in which layers."""
    from lagkit.util.progress import quiet
    from tools.testbed import carry_page
    from tools.testbed.carry_page import CONTROL, PLAIN

    quiet()
    folders = dict(word.partition("=")[::2] for word in models)
    if missing := [name for name in (PLAIN, CONTROL) if not folders.get(name)]:
        raise ConfigError(f"The study compares two models: add {missing[0]}=FOLDER.")
    carry_page.save(page, carry_page.measured(folders, questions, seed), carry_page.markdown)
    tell(page.read_text(encoding="utf-8"))
    if sites:
        carry_page.save(sites, carry_page.sited(folders, questions, seed), carry_page.sites)
        tell(sites.read_text(encoding="utf-8"))


@app.command()
def study(
    tier: Annotated[str, Argument(metavar="TIER|CONFIG.yaml", help="settings of each world's run")],
    changes: cli.Settings = None,
    world: Annotated[list[int], Option(metavar="SEED", help="one of the worlds")] = [101, 102, 103],  # noqa: B006
    contradicted: Annotated[float, Option(metavar="SHARE", help="of the facts, in changed worlds")] = 0.3,
    page: Annotated[
        Path | None, Option(metavar="FILE.md", parser=at, help="for the tables; their rows go to FILE/")
    ] = None,
) -> None:
    """Measure base quality and all variants, controls included, on several worlds. The same command resumes."""
    from lagkit.datasets.world.controls import Controls
    from lagkit.policy import CONTROLS
    from lagkit.runs.config import RunConfig
    from lagkit.util.progress import quiet
    from tools.testbed.page import markdown
    from tools.testbed.study import run

    quiet()
    settings = cli.settings(changes)
    config = RunConfig.of(tier, **settings)
    if "policies" not in config.model_fields_set:
        config = RunConfig.of(tier, **settings, policies=[*config.policies, *CONTROLS])
    controls = Controls.parse(config.data.world or {})
    for name, option in (("seed", "--world"), ("contradicted", "--contradicted")):
        if getattr(controls, name):
            raise ConfigError(f"A study has worlds of its own: give {option} in the place of {name} in `world`.")
    if page:
        page.parent.mkdir(parents=True, exist_ok=True)
    found = run(config, controls, world, contradicted)
    tell(told := markdown(found))
    if page:
        found.save(page.with_suffix(""))
        files.write(page, told)


if __name__ == "__main__":
    sys.exit(main())
