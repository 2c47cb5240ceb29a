"""Rows of a page of results: in the folder of its name a parquet file a section, and in JSON what it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.stats.intervals import Hops, share_interval
from lagkit.util import files


def made(config: RunConfig, **excluded: Any) -> dict[str, Any]:
    """What rows are made with now: settings (without `out`, and fields that are `excluded`), versions and commit."""
    settings = config.flat(exclude_none=True, exclude={"out": True, **excluded})
    return {"settings": settings, "versions": manifest.versions(), "git": manifest.git_state()}


def save(page: Path, name: str, rows: pd.DataFrame, about: Mapping[str, Any], remade: Callable[[Path], str]) -> None:
    """Write a section's rows, and the page of all sections, which `remade` makes of their folder."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / f"{name}.json", about)
    files.write_table(folder / f"{name}.parquet", rows)  # last: a section is there once its rows are
    files.write(page, remade(folder))


def kept(folder: Path) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Name, rows, and what they were made with, of each section in a folder, by name."""
    for path in sorted(folder.glob("*.parquet")):
        yield path.stem, pd.read_parquet(path), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def hops(rows: pd.DataFrame) -> Hops:
    """The hops of each question, of rows that have them as numbers (`loaders.numbered`)."""
    return dict(zip(rows["question_id"], map(tuple, rows["hops"]), strict=True))


def share(values: pd.Series, hops: Hops) -> str:
    """A share by question with its interval, in percent."""
    found = share_interval(values.astype(float), hops)
    return f"{found.mean:.0%} [{100 * found.low:.0f}, {100 * found.high:.0f}]"
