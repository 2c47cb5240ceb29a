"""`python -m tools.pilot CONFIG --wording NAME... --page FILE.md`: wordings compared on log questions, without logs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from typer import Argument, Option

from lagkit.datasets import loaders
from lagkit.model.prompts.actions import action_spans, parse
from lagkit.runs.answers import Answers, in_reach, result_row
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics
from lagkit.types import Question, Trace
from lagkit.util import cli, markdown
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.progress import quiet
from lagkit.util.terminal import tell
from tools import provenance, sections

MEANS = {"f1": 2, "rounds": 1, "prefilled": 0, "generated": 0}

app = cli.application("Compare wordings of the prompt on questions of the log store.")


def tagged(response: str) -> bool:
    """Whether a response holds one action, at its end."""
    spans = action_spans(response)
    return len(spans) == 1 and not response[spans[0][1] :].strip()


def row(question: Question, trace: Trace) -> dict[str, Any]:
    """Outcome of a question, how many of its rounds are `tagged`, and whether it `searched` before it answered."""
    said = [round_.response for round_ in trace.rounds]
    asked = [parse(response, question.kind).kind == "search" and tagged(response) for response in said]
    return result_row(question, trace) | {
        "tagged": sum(map(tagged, said)),
        "searched": any(asked),
    }


def measure(run: Experiment) -> pd.DataFrame:
    """Rows of a run's log questions; its logs are built, or it takes up where it stopped."""
    run.build()
    traces = Answers(run.journal("log"), run.log_questions, in_reach(None)).found
    rows = pd.DataFrame([row(question, traces[question.id]) for question in run.log_questions])
    return rows.assign(hops=rows["question_id"].map(loaders.numbered(loaders.hops(run.log_questions))))


def save(page: Path, rows: pd.DataFrame, run: Experiment) -> None:
    """Write the rows of a data set, and the page of all of them."""
    made = sections.made(run.config, data={"folder"}, model={"wording"})
    sections.save(page, run.data.name, rows, made, remade)


def remade(folder: Path) -> str:
    """The page of the rows in a folder, a section for each data set."""
    parts = []
    for name, rows, made in sections.kept(folder):
        settings, asked = made["settings"], rows["question_id"].nunique()
        wordings = " ".join(f"--wording {wording}" for wording in rows["wording"].unique())
        given = f"data=FOLDER dtype={settings['dtype']} out=RUNS {wordings}"
        command = f"python -m tools.pilot docs/results/real/pilot.yaml {given} --page FILE.md"
        parts += [
            f"## {name}",
            f"{settings['model']} in {settings['dtype']}: {asked} questions, {settings['passages']} passages a query, "
            f"{settings['max_rounds']} rounds.",
            _table(rows),
            provenance.made_with(command, made["versions"], made["git"]),
        ]
    return markdown.page(Path(__file__).with_name("pilot.md.j2"), sections="\n\n".join(parts))


def _table(rows: pd.DataFrame) -> str:
    told, means = [], {name: digits for name, digits in MEANS.items() if name in rows}
    for wording, own in rows.groupby("wording", sort=False):
        hops, own = sections.hops(own), own.set_index("question_id")
        # A question's rounds hang together: its share of tagged ones counts once in the interval.
        shares = own.assign(tagged=own["tagged"] / own["rounds"].clip(lower=1))
        told.append(
            [
                f"`{wording}`",
                sections.share(shares[metrics.first_score(own)], hops),
                f"{own['tagged'].sum()} of {own['rounds'].sum()}: {sections.share(shares['tagged'], hops)}",
                sections.share(shares["searched"], hops),
                *(f"{own[name].mean():.{digits}f}" for name, digits in means.items()),
                int(own["failed"].sum()),
            ]
        )
    return markdown.table(["wording", "right", "tags", "searched", *means, "failed"], told)


@app.command()
def pilot(
    words: Annotated[list[str], Argument(metavar="CONFIG.yaml|key=value", help="the run, and settings of it")],
    wording: Annotated[list[str], Option(metavar="NAME", help="a wording to ask in")],
    page: Annotated[Path, Option(metavar="FILE.md", parser=at, help="its rows go into the folder of its name")],
) -> None:
    """Answer the log questions under each wording; the same command takes up where it stopped."""
    configs, pairs = cli.parted(words)
    settings = cli.settings(pairs)
    if len(configs) != 1 or "out" not in settings:
        raise ConfigError("Give one file of settings, and `out=FOLDER` for the runs, one for each wording.")
    quiet()
    out = Path(settings["out"])
    # All are made before the first is asked: a name that is none is told at once.
    runs = {
        name: Experiment(RunConfig.of(configs[0], **{**settings, "wording": name, "out": out / name}))
        for name in wording
    }
    found = [measure(run).assign(wording=name) for name, run in runs.items()]
    save(page, pd.concat(found, ignore_index=True), runs[wording[-1]])
    tell(page.read_text(encoding="utf-8"))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.pilot", words)


if __name__ == "__main__":
    sys.exit(main())
