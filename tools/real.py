"""`python -m tools.real RESULTS --page FILE.md`: a closer look at the study on a real model, from its committed rows.

RESULTS: a folder with `results.parquet`, `report.json` and `traces.tar.xz` of a run. Nothing is measured anew.
"""

from __future__ import annotations

import json
import lzma
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
from typer import Argument, Option

from lagkit.policy import Variant
from lagkit.runs.journal import Journal
from lagkit.runs.report import read_table
from lagkit.stats import metrics
from lagkit.stats.intervals import Hops
from lagkit.stats.wording import interval, judged
from lagkit.types import Trace
from lagkit.util import cli, files, markdown
from lagkit.util.errors import DataError
from lagkit.util.paths import at
from lagkit.util.terminal import tell
from tools import sections

PRIMARY = "kv_last_round"
LEVEL = 0.975  # of each of the plan's two primary outcomes, so that both hold together at 95%
OUTCOMES = ("em", "rounds")
FILES = ("results.parquet", "report.json", "traces.tar.xz")
_AGAIN = "take it from the repository once more"

app = cli.application("A closer look at a study, from its committed rows.")


def echoes(traces: dict[str, list[Trace]], results: pd.DataFrame) -> pd.DataFrame:
    """For each answer under a variant that injects logs: whether it is that of a log which the question was given.

    traces: by journal, that of the logs under `log`. Columns: policy, question_id, `em`, `echo`, and of the answer
    without logs, held against the same logs, `em_without` and `echo_without`. Answers are compared in the normal form
    of exact match; none is no echo.
    """
    logs = {log.id: metrics.normalize(log.answer or "") for log in traces["log"]}
    without = {trace.question_id: trace.answer for trace in traces["no_logs.unseen"]}
    unseen = results[results["split"] == "unseen"]
    em = unseen.set_index(["policy", "question_id"])["em"]
    rows = []
    for name in unseen["policy"].unique():
        policy = Variant.parse(name).policy
        for trace in traces[f"{name}.unseen"] if policy and policy.inject != "copy" else ():
            id, given = trace.question_id, {logs[hit.id] for turn in trace.rounds for hit in turn.logs} - {""}
            row = {"policy": name, "question_id": id, "em": em[name, id], "em_without": em["no_logs", id]}
            said = {"echo": trace.answer, "echo_without": without[id]}
            rows.append(row | {key: metrics.normalize(answer or "") in given for key, answer in said.items()})
    return pd.DataFrame(rows)


def remade(folder: Path) -> str:
    """The page. Raises DataError where a file is missing or damaged, ConfigError where no row is of `PRIMARY`."""
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise DataError(f"There is no {missing[0]} in {folder}: name a folder such as docs/results/real/own.")
    results = read_table(folder / "results.parquet", pd.read_parquet)
    with files.intact(folder / "report.json", _AGAIN):
        kept = json.loads((folder / "report.json").read_text(encoding="utf-8"))["hops"]
        hops: Hops = {question: tuple(map(str, own)) for question, own in kept.items()}
    others = metrics.compare(results[results["policy"] != "no_logs"], hops, PRIMARY)
    planned = metrics.compare(results, hops, level=LEVEL).loc[[PRIMARY]]
    with files.intact(folder / "traces.tar.xz", _AGAIN):
        echoed = echoes(_traces(folder / "traces.tar.xz"), results)
    return markdown.page(
        Path(__file__).with_name("real.md.j2"),
        primary=_differences(planned),
        others=_differences(others),
        echoes=_echoes(echoed, hops),
    )


def _traces(path: Path) -> dict[str, list[Trace]]:
    """The traces of a run's archive by journal. Raises ValueError for a damaged one."""
    with TemporaryDirectory() as folder:
        try:
            with tarfile.open(path, "r:xz") as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise ValueError(error) from error
        return {journal.stem: Journal(journal).traces() for journal in sorted(Path(folder).rglob("*.jsonl"))}


def _differences(found: pd.DataFrame) -> str:
    """A row for each variant and outcome, with the verdict of the margins."""
    told = found[found.index.get_level_values("metric").isin(OUTCOMES)]
    rows = [[f"`{name}`", what, interval(row, what), judged(row, what)] for (name, _, what), row in told.iterrows()]
    return markdown.table(["variant", "outcome", "difference", "verdict"], rows)


def _echoes(rows: pd.DataFrame, hops: Hops) -> str:
    told = []
    for name, own in rows.groupby("policy", sort=False):
        lost, won = own[own["em"] < own["em_without"]], own[own["em"] > own["em_without"]]
        counts = [f"{part['echo'].sum()} of {len(part)}" for part in (own[own["em"] == 0], lost, won)]
        by_question = own.set_index("question_id")
        shares = (sections.share(by_question[column], hops) for column in ("echo", "echo_without"))
        told.append([f"`{name}`", len(own), *shares, *counts])
    of = ("of wrong answers", "of those turned wrong", "of those turned right")
    return markdown.table(["variant", "n", "a log's answer", "`no_logs`", *of], told)


@app.command()
def real(
    folder: Annotated[Path, Argument(metavar="RESULTS", parser=at, help="rows and traces of a finished run")],
    page: Annotated[Path, Option(metavar="FILE.md", parser=at)],
) -> None:
    """Write the page."""
    files.write(page, remade(folder))
    tell(page.read_text(encoding="utf-8"))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 (an error), 130 (interrupted)."""
    return cli.call(app, "python -m tools.real", words)


if __name__ == "__main__":
    sys.exit(main())
