"""Notebooks executed headlessly, with what all of them promise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from lagkit.nightly import notebook as nb
from tests.helpers.cells import NOTEBOOKS

FIGURE = "application/vnd.plotly.v1+json"


@dataclass(frozen=True)
class Executed:
    """An executed notebook: its copy, the outputs of its cells, and the record that it leaves."""

    copy: Path
    outputs: list[Any]
    record: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        return self.record["metrics"]

    @property
    def findings(self) -> list[str]:
        return self.record["findings"]

    @property
    def shown(self) -> list[Any]:
        """What was displayed, as MIME bundles."""
        return [output.data for output in self.outputs if "data" in output]

    @property
    def figures(self) -> list[Any]:
        return [data[FIGURE] for data in self.shown if FIGURE in data]

    @property
    def printed(self) -> str:
        return "".join(output["text"] for output in self.outputs if output.get("name") == "stdout")


def execute(name: str, out: Path, **parameters: Any) -> Executed:
    """Execute a notebook into `out`. A cell that fails or warns, and findings that are not shown, fail the test."""
    copy = nb.execute(NOTEBOOKS[name], out, parameters)
    cells = nbformat.read(copy, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    record = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    found = Executed(copy, outputs, record)
    assert set(record) == {"metrics", "findings", "settings", "git", "machine"}
    assert all(type(value) is float for value in record["metrics"].values())
    told = [output.text for output in outputs if output.get("name") == "stderr"]
    assert told == []
    told = "".join(data["text/markdown"] for data in found.shown if "text/markdown" in data)
    assert record["findings"]
    assert all(finding in told for finding in record["findings"])
    return found
