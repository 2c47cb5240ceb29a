"""The verdict under a notebook's title and the table of details, in batch runs, on pages and in the browser."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lagkit.nightly import notebook as nb
from lagkit.nightly import pages

CELLS = [
    nbformat.v4.new_markdown_cell("# Does it work?"),
    nbformat.v4.new_code_cell("import lagkit as lag\n\nlag.table.verdict()", metadata={"tags": ["verdict"]}),
    nbformat.v4.new_code_cell('out: str = "elsewhere"', metadata={"tags": ["parameters"]}),
    nbformat.v4.new_code_cell(
        'row = {"mean": 0.2, "low": 0.1, "high": 0.3}\n'
        'findings = [lag.stats.wording.difference(name, row, "em") for name in ("kv", "text")]\n'
        'lag.conclude(out, {"n": 2}, findings, verdict=["It <b>does</b>.", "By `much`."])'
    ),
]
TOLD = "> **Verdict.** It &lt;b>does&lt;/b>. By `much`."


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "00_small.ipynb"
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=CELLS, metadata=spec), path)
    return path


def test_the_verdict_stands_in_the_first_cell_and_in_the_record_of_a_batch_run(source, tmp_path):
    copy = nb.execute(source, tmp_path / "done")
    first, *_, last = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
    assert [output.data["text/markdown"] for output in first.outputs] == [TOLD]
    record = json.loads((tmp_path / "done" / "metrics.json").read_text(encoding="utf-8"))
    assert record["verdict"] == ["It <b>does</b>.", "By `much`."]
    assert last.outputs[0].data["text/html"].count("<tr title=") == 2


def test_another_client_leaves_the_verdict_in_the_first_cell_too(source, tmp_path):
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert notebook.cells[1].outputs[0].data["text/markdown"] == TOLD
    page = pages.render(notebook, "Does it work?", "plotly.min.js", pages.Link("index.html", "Back"))
    body = page[page.index("<main>") :]
    assert body.index("Does it work?") < body.index("Verdict.") < body.index("elsewhere")
    assert "lag.table.verdict" not in body  # the reader sees what it says, not the call
    assert page.count("const sortable") == 1
