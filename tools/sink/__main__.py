"""`python -m tools.sink CONFIG --out FOLDER`: first responses to logs with an attention sink and without, on a page."""

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

app = cli.application("Measure what the attention sink of logs does.")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.sink", words)


@app.command()
def sink(
    words: Annotated[list[str], Argument(metavar="TIER|CONFIG.yaml|key=value", help="a run, and settings of it")],
    out: Annotated[Path, Option(metavar="FOLDER", parser=at, help="for the run; its name is that of the rows")],
    page: Annotated[
        Path | None,
        Option(metavar="FILE.md", parser=at, help="its rows go into the folder of its name [default: sink.md]"),
    ] = None,
    questions: Annotated[int, Option(min=1, metavar="N", help="unseen questions to ask")] = 30,
) -> None:
    """Ask unseen questions behind logs whose blocks have a sink, and none. The same command resumes the logs."""
    tiers, pairs = cli.parted(words)
    if len(tiers) != 1:
        raise ConfigError("One run is measured: name one tier or one file of settings.")
    overrides = cli.settings(pairs, {"out": "give --out", "policies": "the study has its own"})
    from lagkit.runs.config import RunConfig
    from lagkit.runs.experiment import Experiment
    from lagkit.util.progress import quiet
    from tools.sink.page import measure, save

    quiet()
    config = RunConfig.of(tiers[0], **{**overrides, "policies": ["no_logs"], "out": out, "splits": ["unseen"]})
    page = page or out.parent / "sink.md"
    save(page, Path(tiers[0]).stem, *measure(Experiment(config), questions))
    tell(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
