"""What a run leaves for its readers: scores, summaries and differences as tables, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from lagkit import components, files, manifest, metrics, report, strata
from lagkit.types import Trace, Usage

if TYPE_CHECKING:
    from lagkit.experiment import Experiment


def write(run: Experiment) -> pd.DataFrame:
    """Score the traces that there are and write the tables of `Experiment.report`, which can be made again."""
    results = run.scored(run.config.policies, run.config.splits)
    with files.replacing(run.out / "results.parquet", durable=False) as aside:
        results.to_parquet(aside)
    summary, differences = metrics.summarize(results), run.differences(results)
    files.write(run.out / "summary.csv", summary.to_csv(), durable=False)
    files.write(run.out / "differences.csv", differences.to_csv(), durable=False)
    by_overlap = None
    if "unseen" in run.config.splits and not run.data.no_strata:
        by_overlap = strata.outcomes(run, results)
        files.write(run.out / "strata.csv", by_overlap.table().to_csv(), durable=False)
    with run.store() as store:
        blocks, facts = store.summary(), _facts(run, list(store.traces()))
    page = report.markdown(summary, differences, by_overlap, blocks, manifest.read_manifest(run.out), facts)
    files.write(run.out / "report.md", page, durable=False)
    return results


def _facts(run: Experiment, logs: Sequence[Trace]) -> list[str]:
    """What a reader should know before the scores."""
    right = sum(bool(log.correct) for log in logs)
    facts = [
        f"The log store holds {len(logs)} logs, of which {right} answer their question rightly.",
        *([components.told(run.loaded, run.data)] if run.config.split == "disjoint" else []),
        strata.about(run),
        "Injected tokens are those of logs, and of the prompt's shared head where it stands at position 0.",
        "Seconds are generation alone, a batch's wall time divided by its rows; encoding is not in them.",
    ]
    if run.config.api:
        used = _spent(run)
        facts.append(
            f"The endpoint read {used.prefilled:,} tokens and wrote {used.generated:,} for logs and answers, at a "
            f"cost of {run.config.api.cost(used):.4g}."
        )
    return facts


def _spent(run: Experiment) -> Usage:
    """What logs and answers have cost, counting those that were asked for before, too, and those that failed."""
    asked = [(name, split) for name in run.config.policies for split in run.config.splits]
    books = {"log", *(f"{name}.{split}" for name, split in asked if (name, split) != ("no_logs", "seen"))}
    return sum((trace.usage for book in sorted(books) for trace in run.journal(book).traces()), Usage())
