"""The verdict under a notebook's title and the table of details, in batch runs, on pages and in the browser."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lagkit.nightly import notebook as nb
from lagkit.nightly import pages
from lagkit.stats.wording import difference
from lagkit.util.errors import ConfigError
from lagkit.views import pictures
from lagkit.views.findings import Details

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


def test_the_table_sorts_by_number_where_a_head_is_pressed(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    try:
        path = pictures.browser()
    except ConfigError as error:
        pytest.skip(str(error))
    means = {"kv": 0.02, "text": -0.11, "notes": 0.1}
    told = [difference(name, {"mean": m, "low": m - 0.01, "high": m + 0.01}, "em") for name, m in means.items()]
    outputs = [nbformat.v4.new_output("display_data", {"text/html": Details(told)._repr_html_()})]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("shown", outputs=outputs)])
    page_file = tmp_path / "page.html"
    page_file.write_text(pages.render(nbformat.from_dict(notebook), "Title", "no.js", pages.Link("a", "b")), "utf-8")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = chromium.new_page()
        page.goto(page_file.as_uri())
        orders = []
        for _ in range(2):
            page.get_by_role("columnheader", name="difference").click()
            orders.append(page.locator("tbody td:nth-child(3)").all_inner_texts())
        chromium.close()
    assert orders == [["-11.0", "+2.0", "+10.0"], ["+10.0", "+2.0", "-11.0"]]
