"""`python -m tools.choice RUN... --page FILE.md`: finished runs on multiple choice, with traces to read."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from typer import Argument, Option

from lagkit.datasets.letters import choice_letter
from lagkit.model.prompts.prompt import LETTERS
from lagkit.runs import load, manifest
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics
from lagkit.stats.wording import interval
from lagkit.types import Question, Trace
from lagkit.util import cli, markdown
from lagkit.util.paths import at
from lagkit.util.terminal import tell
from tools import provenance, sections

TRACED = ("no_logs", "kv_last_round")

app = cli.application("Show runs on multiple choice.")


def save(page: Path, name: str, run: Experiment, results: pd.DataFrame, shown: int) -> None:
    """Write a run's rows and `shown` traces, and the page of all runs."""
    logs = {log.id: log for log in run.logs}
    right = sum(bool(log.correct) for log in logs.values())
    traces = []
    for question in run.questions("unseen")[:shown]:
        told = {policy: _trace(run, policy, question, logs) for policy in TRACED}
        traces.append({"question": question.text, "choices": question.choices, "right": question.answers, "told": told})
    session = manifest.read_manifest(run.out)["sessions"][-1]
    made = sections.made(run.config, data={"folder"}) | {"versions": session["versions"], "git": session["git"]}
    made |= {"logs": len(logs), "right logs": right, "traces": traces}
    sections.save(page, name, results, made, remade)


def _trace(run: Experiment, policy: str, question: Question, logs: Mapping[str, Trace]) -> dict[str, Any]:
    """A question's trace under a policy: its answer, and of each round the turn, the logs and the response."""
    traces = {trace.question_id: trace for trace in run.answers(policy, "unseen").traces()}
    trace = traces[question.id]
    rounds = [
        {"prompt": r.prompt, "logs": [logs[hit.id].question for hit in r.logs], "response": r.response}
        for r in trace.rounds
    ]
    return {"answer": trace.answer, "error": trace.error, "rounds": rounds}


def remade(folder: Path) -> str:
    """The page of the rows and traces in a folder."""
    parts = []
    for name, results, made in reversed([*sections.kept(folder)]):
        settings, n = made["settings"], results["question_id"].nunique()
        parts.append(
            f"## {name}\n\n{settings['model']} in {settings['dtype']}: {n} unseen questions, {made['logs']} logs, "
            f"{made['right logs']} of them right.\n\n{_scores(results)}"
        )
        parts += [_told(number, trace) for number, trace in enumerate(made["traces"], 1)]
        parts.append(provenance.made_with(f"lagkit run docs/results/choice/{name}.yaml", made["versions"], made["git"]))
    return markdown.page(Path(__file__).with_name("choice.md.j2"), sections="\n\n".join(parts))


def _scores(results: pd.DataFrame) -> str:
    means = metrics.summarize(results).droplevel("split")
    apart = metrics.compare(results, dict.fromkeys(results["question_id"], ())).droplevel("split")
    rows = []
    for policy, row in means.iterrows():
        cells = [f"`{policy}`"]
        for metric, scale, digits in (("accuracy", 100, 1), ("accuracy_flexible", 100, 1), ("rounds", 1, 2)):
            behind = "" if policy == "no_logs" else f" ({interval(apart.loc[(policy, metric)], metric)})"
            cells.append(f"{scale * row[metric]:.{digits}f}{behind}")
        given = results.loc[results["policy"] == policy, "answer"].dropna()
        letters = Counter(letter for answer in given if (letter := choice_letter(answer, len(LETTERS), strict=False)))
        chosen = ", ".join(f"{letter} {n}" for letter, n in sorted(letters.items()))
        rows.append([*cells, f"{row['abstention']:.0%}", int(row["failures"]), chosen])
    return markdown.table(["variant", "accuracy", "flexible", "rounds", "abstained", "failed", "letters"], rows)


def _told(number: int, trace: Mapping[str, Any]) -> str:
    """A question and what was read and said in each round, without the worked examples in front."""
    right = " and ".join(f"({letter}) {trace['choices'][LETTERS.index(letter)]}" for letter in trace["right"])
    parts = [f"### Trace {number}", f"{markdown.literal(trace['question'])} Right is {markdown.literal(right)}."]
    for policy, told in trace["told"].items():
        ended = told["error"] or (f"answer {told['answer']}" if told["answer"] else "no answer")
        parts.append(f"**{policy}**: {markdown.literal(ended)}")
        for i, round_ in enumerate(told["rounds"], 1):
            logs = "; ".join(map(markdown.literal, round_["logs"]))
            parts.append(f"Round {i}" + (f", in which it found the logs of: {logs}" if logs else ""))
            parts.append(_fenced(f"[user]\n{round_['prompt']}\n\n[assistant]\n{round_['response']}"))
    return "\n\n".join(parts)


def _fenced(text: str) -> str:
    """A block of text that nothing in it ends."""
    return "~~~text\n" + text.replace("~~~", "~ ~ ~") + "\n~~~"


@app.command()
def choice(
    runs: Annotated[list[Path], Argument(metavar="RUN", parser=at, help="folders of finished runs")],
    page: Annotated[Path, Option(metavar="FILE.md", parser=at, help="its rows go into the folder of its name")],
    show: Annotated[list[str] | None, Option(metavar="NAME", help="a run whose questions may be shown")] = None,
    traces: Annotated[int, Option(min=1, metavar="N", help="questions of such a run to show")] = 2,
) -> None:
    """Write the page of finished runs."""
    for folder in runs:
        run, results = load.reopen(folder)
        save(page, folder.name, run, results, traces if folder.name in (show or ()) else 0)
    tell(page.read_text(encoding="utf-8"))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.choice", words)


if __name__ == "__main__":
    sys.exit(main())
