"""Notebooks executed headlessly, with what all of them promise."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import nbformat

from lagkit.nightly import notebook as nb
from lagkit.util.markdown import literal
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


def execute(name: str | Path, out: Path, **parameters: Any) -> Executed:
    """Execute a notebook into `out`. A cell that fails or warns, and findings that are not shown, fail the test.

    name: of one of the repository's, or the path of another.
    """
    copy = nb.execute(NOTEBOOKS[name] if isinstance(name, str) else name, out, parameters)
    cells = nbformat.read(copy, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    record = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    found = Executed(copy, outputs, record)
    assert set(record) == {"metrics", "verdict", "findings", "settings", "git", "machine"}
    assert all(type(value) is float for value in record["metrics"].values())
    told = [output.text for output in outputs if output.get("name") == "stderr"]
    assert told == []
    assert record["findings"]
    html = "".join(data["text/html"] for data in found.shown if "text/html" in data)
    assert all(shown_in_details(finding, html) for finding in record["findings"])
    assert min(2, len(record["findings"])) <= len(record["verdict"]) < 5
    assert found.shown[0]["text/markdown"] == "> **Verdict.** " + " ".join(map(literal, record["verdict"]))
    return found


def shown_in_details(finding: str, html: str) -> bool:
    """Whether a finding stands in the list or, as the words under the pointer, at a row of the table."""
    code = re.sub("`([^`]+)`", r"<code>\1</code>", escape(finding))
    return f"<li>{code}</li>" in html or f'<tr title="{escape(finding)}">' in html
