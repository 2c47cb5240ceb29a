"""`python -m tools.codec TIER --out FOLDER`: bytes, errors and answers of logs in fewer bits, on a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from lagkit.util import cli
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.terminal import tell

app = cli.application("Measure what KV blocks in fewer bits cost.")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.codec", words)


@app.command()
def codec(
    words: Annotated[list[str], Argument(metavar="TIER|CONFIG.yaml|key=value", help="runs, and settings of each")],
    out: Annotated[Path, Option(metavar="FOLDER", parser=at, help="for the runs")],
    page: Annotated[
        Path | None,
        Option(metavar="FILE.md", parser=at, help="for the tables and their rows [default: codec.md in it]"),
    ] = None,
    policy: Annotated[str, Option(metavar="NAME", help="whose blocks")] = "kv_last_round",
    cases: Annotated[int, Option(min=1, metavar="N", help="prompts to compare")] = 20,
) -> None:
    """Compare logs in fewer bits with uncompressed ones. The same command resumes."""
    tiers, pairs = cli.parted(words)
    if not tiers:
        raise ConfigError("Nothing is to be measured: name a tier or a file of settings.")
    overrides = cli.settings(pairs, {"out": "give --out", "policies": "give --policy", "codec": "all are compared"})
    from lagkit.runs.config import RunConfig
    from lagkit.runs.experiment import Experiment
    from lagkit.util.progress import quiet
    from tools.codec.loss import Loss
    from tools.codec.page import Measured, save

    quiet()
    chosen = {**overrides, "policies": ["no_logs", policy]}
    configs = {Path(tier).stem: RunConfig.of(tier, **chosen, out=out / Path(tier).stem) for tier in tiers}
    runs = {name: Experiment(config) for name, config in configs.items()}
    found = {}
    for name, run in runs.items():
        with run.writing():
            found[name] = Measured.of(Loss(run, policy, cases))
    page = page or out / "codec.md"
    save(page, found)
    tell(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
