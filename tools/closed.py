"""`python -m tools.closed CONFIG --page FILE.md`: what a model answers from memory, without passages or logs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from typer import Argument, Option

from lagkit.agent.loop import Agent
from lagkit.datasets import loaders
from lagkit.model.prompts.prompt import Prompt
from lagkit.runs.answers import result_row
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.runs.report import read_table
from lagkit.stats.metrics import normalize
from lagkit.types import Question, Trace
from lagkit.util import cli, markdown
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.progress import progress, quiet
from lagkit.util.terminal import tell
from tools import provenance, sections

CLOSED = Prompt(
    name="closed",
    kind="qa",
    system="You answer questions from memory. Reply with the answer alone: a name, a number or a place. If you are not "
    "sure, guess.",
    user="Question: $question",
    opening="In a word or two:",
)
NEW_TOKENS = 32

app = cli.application("Ask the unseen questions of a run in a closed book.")


def row(question: Question, trace: Trace) -> dict[str, Any]:
    """Outcome of a question, with the whole response as its answer, and whether that has `named` a right one."""
    said = trace.rounds[0].response if trace.rounds else ""
    words = filter(None, map(normalize, question.answers))
    named = any(f" {answer} " in f" {normalize(said)} " for answer in words)
    return result_row(question, replace(trace, answer=said or None)) | {"named": named}


def measure(run: Experiment) -> pd.DataFrame:
    """Outcome of each unseen question, answered in one round without passages.

    With its hops by number, and its `overlap` with the log questions, empty where that is not known. Raises ConfigError
    for multiple choice.
    """
    if run.data.kind != "qa":
        raise ConfigError(f"{run.data.name} has no passages, so that its book is always closed: give other data.")
    limits = replace(run.config.limits, max_rounds=1, max_new_tokens=NEW_TOKENS)
    asked = {question.id: question for question in run.questions("unseen")}
    agent = Agent(run.lm, prompt=CLOSED, embedder=run.embedder, passages=run.passages, limits=limits)
    traces = progress(agent.run(asked.values()), "Answering from memory", total=len(asked))
    rows = pd.DataFrame([row(asked[trace.question_id], trace) for trace in traces])
    shared = loaders.overlaps(run.log_questions, asked.values())
    overlap = {id: "" if run.data.no_strata else stratum for id, stratum in zip(asked, shared, strict=True)}
    numbers = loaders.numbered(loaders.hops(asked.values()))
    return rows.assign(overlap=rows["question_id"].map(overlap), hops=rows["question_id"].map(numbers))


def beside(rows: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """With `open`: exact match of the same questions without logs, but with passages; NaN where they were not asked."""
    same = results[(results["policy"] == "no_logs") & (results["split"] == "unseen")].set_index("question_id")["em"]
    return rows.assign(open=rows["question_id"].map(same))


def save(page: Path, rows: pd.DataFrame, run: Experiment) -> None:
    """Write the rows of a data set, and the page of all of them."""
    unused = {"policies": True, "limits": True, "store": True, "model": {"wording"}}
    sections.save(page, run.data.name, rows, sections.made(run.config, data={"folder"}, **unused), remade)


def remade(folder: Path) -> str:
    """The page of the rows in a folder, a section for each data set."""
    parts = []
    for name, rows, made in sections.kept(folder):
        settings = made["settings"]
        given = f"CONFIG.yaml dtype={settings['dtype']} unseen_questions={len(rows)}"
        command = f"python -m tools.closed {given} --beside RESULTS.parquet --page FILE.md"
        parts += [
            f"## {name}",
            f"{settings['model']} in {settings['dtype']}, at most {NEW_TOKENS} new tokens.",
            _table(rows),
            *_told(rows),
            provenance.made_with(command, made["versions"], made["git"]),
        ]
    return markdown.page(Path(__file__).with_name("closed.md.j2"), sections="\n\n".join(parts))


def _table(rows: pd.DataFrame) -> str:
    kinds = {"all questions": rows}
    kinds |= {f"overlap `{name}`": rows[rows["overlap"] == name] for name in ("all", "final", "other", "none")}
    kinds |= {f"{n} hops": own for n, own in rows.groupby(rows["hops"].map(len)) if n}
    told = []
    for kind, own in kinds.items():
        if not own.empty:
            hops, own = sections.hops(own), own.set_index("question_id")
            shares = (sections.share(own[name], hops) for name in ("em", "named"))
            told.append([kind, len(own), *shares, f"{own['f1'].mean():.2f}", int(own["failed"].sum())])
    return markdown.table(["questions", "n", "right", "named", "f1", "failed"], told)


def _told(rows: pd.DataFrame) -> list[str]:
    """The same questions with passages, in a sentence, if they are there."""
    asked = rows[rows["open"].notna()] if "open" in rows else rows[:0]
    if asked.empty:
        return []
    hops, own = sections.hops(asked), asked.set_index("question_id")
    closed, opened = (sections.share(own[name], hops) for name in ("em", "open"))
    both = int((own["em"] * own["open"]).sum())
    return [
        f"With passages and without logs, {len(own)} of them were asked in the study: {opened} right, and {closed} in "
        f"the closed book; {both} in both."
    ]


@app.command()
def closed(
    words: Annotated[list[str], Argument(metavar="CONFIG.yaml|key=value", help="the run, and settings of it")],
    page: Annotated[Path, Option(metavar="FILE.md", parser=at, help="its rows go into the folder of its name")],
    study: Annotated[
        Path | None, Option("--beside", metavar="FILE.parquet", parser=at, help="results of the same questions")
    ] = None,
) -> None:
    """Answer a run's unseen questions from memory alone."""
    configs, pairs = cli.parted(words)
    if len(configs) != 1:
        raise ConfigError("Give one file of settings.")
    quiet()
    run = Experiment(RunConfig.of(configs[0], **cli.settings(pairs)))
    results = None if study is None else read_table(study, pd.read_parquet)
    rows = measure(run)
    rows = rows if results is None else beside(rows, results)
    save(page, rows, run)
    tell(page.read_text(encoding="utf-8"))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.closed", words)


if __name__ == "__main__":
    sys.exit(main())
