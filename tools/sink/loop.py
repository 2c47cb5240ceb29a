"""`python -m tools.sink.loop CONFIG --page FILE.md`: first responses of a run of the whole loop, beside the study's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from typer import Argument, Option

from lagkit.datasets import loaders
from lagkit.model.prompts.actions import action_spans
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.util import cli
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from tools.sink.page import LOOP, about, broken, save

app = cli.application("Look for broken tags in the first responses of a run.")


def first_responses(run: Experiment) -> pd.DataFrame:
    """A row for each unseen question and variant that has answered all of them: whether its first response acts, and
    whether it breaks a tag."""
    asked, rows = run.questions("unseen"), []
    for policy in run.config.policies:
        found = {trace.question_id: trace for trace in run.answers(policy, "unseen").traces() if trace.rounds}
        if all(question.id in found for question in asked):
            for question in asked:
                said = found[question.id].rounds[0].response
                acts, torn = float(bool(action_spans(said))), float(broken(said))
                rows.append({"policy": policy, "question_id": question.id, "acts": acts, "broken": torn})
    if not rows:
        raise ConfigError(f"No variant of the run in {run.out} has answered all unseen questions: run it to its end.")
    hops = loaders.numbered(loaders.hops(asked))
    return pd.DataFrame(rows).assign(hops=lambda table: table["question_id"].map(hops))


@app.command()
def loop(
    words: Annotated[list[str], Argument(metavar="CONFIG.yaml|key=value", help="a run that is done, and its settings")],
    page: Annotated[Path, Option(metavar="FILE.md", parser=at, help="its rows go into the folder of its name")],
) -> None:
    """Add the first responses of a run to the page of the sink. No model is loaded."""
    configs, pairs = cli.parted(words)
    if len(configs) != 1:
        raise ConfigError("One run is looked at: name one file of settings.")
    run = Experiment(RunConfig.of(configs[0], **cli.settings(pairs)))
    save(page, LOOP, first_responses(run), about(run))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.sink.loop", words)


if __name__ == "__main__":
    sys.exit(main())
