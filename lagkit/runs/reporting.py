"""What a run leaves for its readers: scores, tables and a page, remade from its rows at any time.

`results.parquet` holds the rows, `manifest.json` the settings, `report.json` (`Context`) all else that the page tells.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from lagkit.datasets import loaders as data
from lagkit.datasets import split as components
from lagkit.datasets.loaders import Stratum
from lagkit.runs import manifest, report
from lagkit.stats import metrics, strata
from lagkit.types import Trace, Usage
from lagkit.util import files
from lagkit.util.errors import DataError
from lagkit.util.paths import at

if TYPE_CHECKING:
    from lagkit.runs.experiment import Experiment

TABLES = ("summary.csv", "differences.csv", "strata.csv", "report.md")


def write(run: Experiment) -> pd.DataFrame:
    """Score the traces that there are and write `Experiment.report`'s files; returns the scores."""
    results = run.scored(run.config.policies, run.config.data.splits)
    with files.replacing(run.out / "results.parquet", durable=False) as aside:
        results.to_parquet(aside)
    asked = {question.id: question for split in run.config.data.splits for question in run.questions(split)}
    known = "unseen" in run.config.data.splits and not run.data.no_strata
    overlap = strata.overlaps(run).to_dict() if known else None
    with run.store() as store:
        blocks, facts = store.summary(), _facts(run, list(store.traces()))
    Context(facts, blocks, data.hops(asked.values()), overlap).save(run.out)
    remake(run.out)
    return results


@dataclass(frozen=True)
class Context:
    """facts: sentences that stand above the tables. logs: `Store.summary()`. hops: question id -> its hops.

    overlap: unseen question id -> what it shares with the logged ones; None where the data name no hops.
    """

    facts: list[str]
    logs: pd.DataFrame
    hops: Mapping[str, Collection[str]]
    overlap: Mapping[str, Stratum] | None

    def save(self, folder: Path) -> None:
        """Write `report.json`. Hops are numbered: the page needs to know which are shared, not their words."""
        numbers: dict[str, int] = {}
        hops = {id: [numbers.setdefault(hop, len(numbers)) for hop in own] for id, own in self.hops.items()}
        logs = self.logs.reset_index().to_dict("list")
        overlap = None if self.overlap is None else dict(self.overlap)
        files.write_json(folder / "report.json", {"facts": self.facts, "logs": logs, "hops": hops, "overlap": overlap})

    @classmethod
    def load(cls, folder: Path) -> Context:
        """Read `report.json`. Raises DataError if it is missing or damaged."""
        path = folder / "report.json"
        try:
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            logs = pd.DataFrame(kept["logs"])
            hops = {id: tuple(map(str, own)) for id, own in kept["hops"].items()}
            return cls(kept["facts"], logs.set_index(logs.columns[0]), hops, kept["overlap"])
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise DataError(f"{path} cannot be read ({error}): run the command that made the run once more.") from error


def remake(folder: str | Path, to: str | Path | None = None) -> None:
    """Write the tables of the run in `folder`, into `to` if given; a table that it does not have (any more) goes.

    Raises DataError if the rows or `report.json` are missing or damaged.
    """
    folder, out = at(folder), at(to or folder)
    if not (folder / "results.parquet").exists():
        raise DataError(f"There is no results.parquet in {folder}: name the folder of a run that is finished.")
    with files.intact(folder / "results.parquet", "run the command that made the run once more"):
        results = pd.read_parquet(folder / "results.parquet")
    context = Context.load(folder)
    summary, differences = metrics.summarize(results), metrics.compare(results, context.hops)
    files.write(out / "summary.csv", summary.to_csv(), durable=False)
    files.write(out / "differences.csv", differences.to_csv(), durable=False)
    by_overlap = None
    (out / "strata.csv").unlink(missing_ok=True)
    if context.overlap and "unseen" in set(results["split"]):
        kind = pd.Series(context.overlap, name="overlap").rename_axis("question_id")
        by_overlap = strata.by_overlap(
            results, kind.astype(pd.CategoricalDtype(get_args(Stratum), ordered=True)), context.hops
        )
        files.write(out / "strata.csv", by_overlap.table().to_csv(), durable=False)
    page = report.markdown(
        summary, differences, by_overlap, context.logs, manifest.read_manifest(folder), context.facts
    )
    files.write(out / "report.md", page, durable=False)


def _facts(run: Experiment, logs: Sequence[Trace]) -> list[str]:
    """What a reader should know before the scores."""
    right = sum(bool(log.correct) for log in logs)
    facts = [
        f"The log store holds {len(logs)} logs, of which {right} answer their question rightly.",
        *([components.told(run.loaded, run.data)] if run.config.data.split == "disjoint" else []),
        strata.about(run),
        "Injected tokens are those of logs, and of the prompt's shared head where it stands at position 0.",
        "Seconds are generation alone, a batch's wall time divided by its rows; encoding is not in them.",
    ]
    if run.config.model.api:
        used = _spent(run)
        facts.append(
            f"The endpoint read {used.prefilled:,} tokens and wrote {used.generated:,} for logs and answers, at a "
            f"cost of {run.config.model.api.cost(used):.4g}."
        )
    return facts


def _spent(run: Experiment) -> Usage:
    """What logs and answers have cost, counting those that were asked for before, too, and those that failed."""
    asked = [(name, split) for name in run.config.policies for split in run.config.data.splits]
    books = {"log", *(f"{name}.{split}" for name, split in asked if (name, split) != ("no_logs", "seen"))}
    return sum((trace.usage for book in sorted(books) for trace in run.journal(book).traces()), Usage())
