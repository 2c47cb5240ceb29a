"""A run's tables and page, from its rows: at the end of the run, and again at any time without its data or traces.

`results.parquet` holds the rows, `manifest.json` the settings, `report.json` (`Context`) all else that the page tells.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from lagkit import manifest, metrics, report, strata
from lagkit.data import Stratum
from lagkit.errors import DataError

TABLES = ("summary.csv", "differences.csv", "strata.csv", "report.md")


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
        manifest.write_json(
            folder / "report.json", {"facts": self.facts, "logs": logs, "hops": hops, "overlap": overlap}
        )

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

    Raises DataError if the rows or `report.json` are missing.
    """
    folder, out = Path(folder), Path(to or folder)
    if not (folder / "results.parquet").exists():
        raise DataError(f"There is no results.parquet in {folder}: name the folder of a run that is finished.")
    results, context = pd.read_parquet(folder / "results.parquet"), Context.load(folder)
    summary, differences = metrics.summarize(results), metrics.compare(results, context.hops)
    summary.to_csv(out / "summary.csv")
    differences.to_csv(out / "differences.csv")
    by_overlap = None
    (out / "strata.csv").unlink(missing_ok=True)
    if context.overlap and "unseen" in set(results["split"]):
        kind = pd.Series(context.overlap, name="overlap").rename_axis("question_id")
        by_overlap = strata.by_overlap(
            results, kind.astype(pd.CategoricalDtype(get_args(Stratum), ordered=True)), context.hops
        )
        by_overlap.table().to_csv(out / "strata.csv")
    page = report.markdown(
        summary, differences, by_overlap, context.logs, manifest.read_manifest(folder), context.facts
    )
    (out / "report.md").write_text(page, encoding="utf-8")
