"""`python -m tools.forms CONFIG... --page FILE`: forms of answers behind worked examples, on a page.

A small model tends to answer in the form of the last worked example. Questions of the log store alone are asked: once
behind examples in one order, and once as a run asks them, in an order that turns with the question
(`Prompt.for_question`). Either both in one round in which an answer is forced, or in the loop of two runs, `--before`
and after the order turned.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from typer import Argument, Option

from lagkit.agent.loop import Agent
from lagkit.datasets import loaders
from lagkit.datasets.letters import choice_letter
from lagkit.model.prompts.actions import parse
from lagkit.model.prompts.prompt import Prompt
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.stats.intervals import Hops
from lagkit.stats.metrics import normalize
from lagkit.types import Question, TaskKind
from lagkit.util import cli, markdown
from lagkit.util.paths import at
from lagkit.util.progress import quiet
from lagkit.util.terminal import tell
from tools import provenance, sections

LAST: dict[TaskKind, str] = {"qa": "no", "choice": "(C)"}  # answer of the last example, in the fixed order
FORCED = "One round, in which an answer is forced."
LOOPS = (
    "The whole loop without logs, in two runs: the earlier one was in bfloat16 and had fewer examples, in one order, "
    "so that more than the order differs."
)
FIXED, TURNING, GOLD = "fixed", "turning", "right answers"
YES_NO, OTHER, NONE = "yes or no", "other", "none"

app = cli.application("Measure in which form a model answers behind worked examples.")


class Fixed(Prompt):
    """A prompt whose worked tasks stand in one order for all questions."""

    @classmethod
    def ending(cls, prompt: Prompt) -> Fixed:
        """The prompt with the worked task last whose answer is that of `LAST`."""
        ends = [parse(task[-1]["response"], prompt.kind).text for task in prompt.tasks]
        first = (ends.index(LAST[prompt.kind]) + 1) % len(ends)
        return cls(**{field.name: getattr(replace(prompt, first=first), field.name) for field in fields(prompt)})

    def for_question(self, id: str) -> Prompt:
        return self


def form(question: Question, answer: str | None) -> str:
    """The form of an answer: `yes or no` if it begins so, or the letter of its option."""
    if question.kind == "choice":
        letter = choice_letter(answer, len(question.choices), strict=False)
        return f"({letter})" if letter else NONE
    words = normalize(answer or "").split()
    return NONE if not words else YES_NO if words[0] in ("yes", "no") else OTHER


def measure(run: Experiment, questions: int) -> pd.DataFrame:
    """Forms of the answers to the first log questions: a row per question and order, and one of its right answer."""
    limits = replace(run.config.limits, max_rounds=1, force_answer=True)
    asked, rows = run.log_questions[:questions], []
    for order, prompt in ((FIXED, Fixed.ending(run.prompt)), (TURNING, run.prompt)):
        agent = Agent(run.lm, prompt=prompt, embedder=run.embedder, passages=run.passages, limits=limits)
        found = {trace.question_id: trace.answer for trace in agent.run(asked)}
        rows += [{"order": order, "question_id": q.id, "form": form(q, found[q.id])} for q in asked]
    return _with_gold(rows, asked)


def of_runs(before: pd.DataFrame, run: Experiment) -> pd.DataFrame:
    """As `measure`, of a run's answers without logs and those of an earlier run's results, where both have one."""
    seen = before[(before["policy"] == "no_logs") & (before["split"] == "seen")].set_index("question_id")["answer"]
    after = {trace.question_id: trace.answer for trace in run.logs}
    asked = [question for question in run.log_questions if question.id in seen and question.id in after]
    given = {FIXED: {id: None if pd.isna(answer) else answer for id, answer in seen.items()}, TURNING: after}
    rows = [
        {"order": order, "question_id": q.id, "form": form(q, answers[q.id])}
        for order, answers in given.items()
        for q in asked
    ]
    return _with_gold(rows, asked)


def _with_gold(rows: list[dict[str, str]], asked: Sequence[Question]) -> pd.DataFrame:
    """With rows of the right answers, and columns of the questions."""
    right = [q.answers[0] if q.kind == "qa" else f"({q.answers[0]})" for q in asked]
    gold = [{"order": GOLD, "question_id": q.id, "form": form(q, said)} for q, said in zip(asked, right, strict=True)]
    hops = loaders.numbered(loaders.hops(asked))
    return pd.DataFrame(rows + gold).assign(kind=asked[0].kind, hops=lambda table: table["question_id"].map(hops))


def remade(folder: Path) -> str:
    """The page of the rows in a folder."""
    parts = []
    for name, rows, made in sections.kept(folder):
        settings = made["settings"]
        kind: TaskKind = rows["kind"].iloc[0]
        n = rows["question_id"].nunique()
        made_with = provenance.made_with("python -m tools.forms CONFIG.yaml data=FOLDER", made["versions"], made["git"])
        parts.append(
            f"## {name}\n\n{settings['model']} on {n} questions of the log store. In the "
            f"fixed order the last example's answer is `{LAST[kind]}`. {made['how']}\n\n{_table(rows)}\n\n{made_with}"
        )
    return markdown.page(Path(__file__).with_name("forms.md.j2"), sections="\n\n".join(parts))


def _table(rows: pd.DataFrame) -> str:
    forms = sorted(rows["form"].unique(), key=lambda name: (name in (OTHER, NONE), name == NONE, name))
    told = []
    for order, own in rows.groupby("order", sort=False):
        hops, held = sections.hops(own), own.set_index("question_id")["form"]
        told.append([order, *(_share(held == name, hops) for name in forms)])
    return markdown.table(["order of the examples", *forms], told)


def _share(holds: pd.Series, hops: Hops) -> str:
    return f"{int(holds.sum())} of {len(holds)} ({sections.share(holds, hops)})"


def save(page: Path, name: str, rows: pd.DataFrame, run: Experiment, how: str) -> None:
    """Write the rows of a run, and the page of all runs. how: in a sentence, how the questions were asked."""
    sections.save(page, name, rows, sections.made(run.config, data={"folder"}) | {"how": how}, remade)


@app.command()
def forms(
    words: Annotated[list[str], Argument(metavar="CONFIG.yaml|key=value", help="runs, and settings of each")],
    page: Annotated[Path, Option(metavar="FILE.md", parser=at, help="its rows go into the folder of its name")],
    questions: Annotated[int, Option(min=1, metavar="N", help="log questions to ask")] = 24,
    before: Annotated[
        Path | None, Option(metavar="FILE.parquet", parser=at, help="results of a run before the order turned")
    ] = None,
) -> None:
    """Count the forms of answers to log questions, behind a fixed order of the worked examples and a turning one."""
    configs, pairs = cli.parted(words)
    overrides = cli.settings(pairs)
    quiet()
    for config in configs:
        name = Path(config).stem
        run = Experiment(RunConfig.of(config, **{"out": page.parent / name, **overrides}))
        rows = measure(run, questions) if before is None else of_runs(pd.read_parquet(before), run)
        save(page, name, rows, run, FORCED if before is None else LOOPS)
    tell(page.read_text(encoding="utf-8"))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.forms", words)


if __name__ == "__main__":
    sys.exit(main())
