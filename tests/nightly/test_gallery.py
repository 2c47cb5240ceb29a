"""The gallery: pages that draw every figure without a network, an index, and copies that GitHub can show."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from plotly.offline import get_plotlyjs

from lagkit.__main__ import main
from lagkit.nightly import gallery, job, pages
from lagkit.nightly.gallery import Executed, find
from lagkit.nightly.notebook import execute
from lagkit.nightly.pages import PLOTLY, WIDGET
from lagkit.util.errors import DataError
from lagkit.views import pictures

SPEC = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
OPENING = "# Does `it` work?\n\nA question that is\nput in *two* lines.\n\nMore of it."
PNG = b"\x89PNG\r\n\x1a\n"


def has_browser() -> bool:
    return any(map(shutil.which, pictures.BROWSERS))


def figure(**layout) -> dict:
    return {"data": [{"type": "bar", "x": [1, 2], "y": [3, 4]}], "layout": layout}


def shown(**data) -> nbformat.NotebookNode:
    """An output with this MIME bundle; names of types are shortened."""
    types = {"plotly": PLOTLY, "html": "text/html", "text": "text/plain", "widget": WIDGET, "png": "image/png"}
    return new_output("display_data", data={types[name]: value for name, value in data.items()})


def write(folder: Path, name: str, *outputs, opening: str = OPENING, source: str = "1", count: int | None = 1) -> Path:
    """A notebook of one code cell, as if it had been executed."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = [new_markdown_cell(opening), new_code_cell(source, outputs=list(outputs), execution_count=count)]
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=SPEC), path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """A folder with a notebook that was really run, beside its metrics, and one without figures."""
    folder = tmp_path_factory.mktemp("gallery")
    cells = [
        new_markdown_cell(OPENING),
        new_code_cell('word: str = "x"  # a word\nout: str = "here"', metadata={"tags": ["parameters"]}),
        new_code_cell("import plotly.graph_objects as go\nfrom lagkit.views import plots\nplots.for_notebooks()"),
        new_code_cell('go.Figure(go.Bar(x=[1, 2], y=[3, 4]), {"title": "</script> & more", "height": 300})'),
        new_code_cell("plots.lines(__import__('pandas').DataFrame({'a': [1.0, 2.0]}), {'a': 'A'}, 'T', 'step')"),
    ]
    nbformat.write(new_notebook(cells=cells, metadata=SPEC), folder / "10_two.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LAGKIT_PICTURES")
        execute(folder / "10_two.ipynb", folder / "runs" / "10_two", {"word": "given"})
    record = {
        "git": {"commit": "0123456789abcdef", "changed": True},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "gpu": None},
    }
    (folder / "runs" / "10_two" / "metrics.json").write_text(json.dumps(record))
    write(
        folder / "runs", "20_none", shown(widget={"model_id": "a"}, text="VBox()"), opening="# Plain\n\nNo figure here."
    )
    return folder / "runs"


@pytest.fixture(scope="module")
def made(executed, one_script, tmp_path_factory) -> tuple[Path, Path]:
    """The folders of pages and of copies that the command makes."""
    if not has_browser():
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    shared = tmp_path_factory.mktemp("docs") / "gallery"
    assert main(["gallery", str(executed), "--copies", str(shared)]) == 0
    return executed, shared


# Pages


def test_pages_share_one_plotly_js_and_load_nothing_else(made):
    folder, _ = made
    assert (folder / "plotly.min.js").read_text(encoding="utf-8") == get_plotlyjs()
    for name in ("10_two", "20_none", "index"):
        page = (folder / f"{name}.html").read_text(encoding="utf-8")
        assert pages.loaded(page) == []
        assert len(page) < 500_000  # the library is not in it
    page = (folder / "10_two.html").read_text(encoding="utf-8")
    assert page.count('src="plotly.min.js"') == 1
    assert page.count("Plotly.newPlot(") == 2
    assert "require" not in page
    assert "MathJax" not in page


def test_a_widget_leaves_a_sentence(made):
    page = (made[0] / "20_none.html").read_text(encoding="utf-8")
    assert "A widget stands here in JupyterLab, with a kernel." in page
    assert "VBox" not in page


def test_the_index_says_what_there_is_and_how_it_was_made(made):
    text = (made[0] / "index.html").read_text(encoding="utf-8")
    first, second = text.split("<article>")[1:]
    for part in (
        'href="10_two.html"',
        '<img src="10_two.png" alt="&lt;/script&gt; &amp; more."',
        "Does <code>it</code> work?",
        "<p>A question that is put in <em>two</em> lines.</p>",
        "10_two, 2 figures",
        "word=&#39;given&#39;",
        "0123456789 with changes",
        "Linux x86_64, 2 cores",
        "UTC, in ",
    ):
        assert part in first
    assert "More of it" not in text
    assert 'href="20_none.html"' in second
    assert "No picture" in second
    assert "<img" not in second
    assert (made[0] / "10_two.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://cdn.plot.ly/plotly.js"></script>',
        '<img src="//example.org/a.png">',
        '<link rel="stylesheet" href="http://example.org/a.css">',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>p { background: url(https://example.org/a.png) }</style>",
    ],
)
def test_a_page_that_would_load_something_is_refused_before_anything_is_written(tmp_path, part):
    assert len(pages.loaded(part)) == 1
    one = Executed.read(write(tmp_path, "online", shown(html=part)))
    with pytest.raises(DataError, match=r"online\.ipynb would load .*: pages work offline, take it out\."):
        gallery.write_pages([one], tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


def test_links_are_no_fetch():
    assert pages.loaded('<a href="https://example.org">there</a><img src="a.png"><script src="b.js"></script>') == []


def visit(page, path: Path) -> tuple[list[dict], list[str]]:
    """Open a page without a network; the sizes of the figures that it should draw, and what went wrong."""
    wrong: list[str] = []
    told = {
        "console": lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None,
        "pageerror": lambda error: wrong.append(str(error)),
        "requestfailed": lambda request: wrong.append(request.url),
        "request": lambda one: None if one.url.startswith(("file:", "data:", "blob:")) else wrong.append(one.url),
    }
    for event, note in told.items():
        page.on(event, note)
    page.goto(path.resolve().as_uri(), wait_until="load")
    sizes = page.evaluate(
        """[...document.querySelectorAll(".plotly-graph-div")].map(div => {
            const box = div.querySelector("svg.main-svg")?.getBoundingClientRect() ?? {width: 0, height: 0};
            return {width: box.width, height: box.height, marks: div.querySelectorAll(".trace, .point, .hm").length};
        })"""
    )
    for event, note in told.items():
        page.remove_listener(event, note)
    return sizes, wrong


def test_every_figure_is_drawn_without_a_network_or_an_error(made, tab, tmp_path):
    """On the pages of a gallery, on that of a night, and on one that is sent alone."""
    own, alone = made[0] / "10_two" / "10_two.ipynb", tmp_path / "sent" / "one.html"
    assert main(["page", str(own), str(alone)]) == 0
    assert [*alone.parent.iterdir()] == [alone]
    figures = {"10_two": 2, "20_none": 0, "index": 0}
    shown = {made[0] / f"{name}.html": count for name, count in figures.items()} | {job.write_page(own): 2, alone: 2}
    for path, count in shown.items():
        sizes, wrong = visit(tab, path)
        assert wrong == [], path
        assert len(sizes) == count
        assert all(size["width"] > 300 and size["height"] > 200 and size["marks"] for size in sizes)


def test_a_figure_that_is_not_drawn_and_an_error_would_be_seen(made, tab, tmp_path):
    text = (made[0] / "10_two.html").read_text(encoding="utf-8")
    (tmp_path / "torn.html").write_text(text, encoding="utf-8")  # plotly.js is not beside it
    sizes, wrong = visit(tab, tmp_path / "torn.html")
    assert [size["width"] for size in sizes] == [0, 0]
    assert any("plotly.min.js" in what for what in wrong)
    assert any("Plotly is not defined" in what for what in wrong)


# Copies


def test_figures_of_a_copy_carry_a_picture_beside_the_interactive_form(made):
    copy = nbformat.read(made[1] / "10_two.ipynb", as_version=4)
    nbformat.validate(copy)
    bundles = [output.data for cell in copy.cells for output in cell.get("outputs", []) if "data" in output]
    assert [set(data) for data in bundles] == [{PLOTLY, "image/png"}] * 2  # no script
    assert all(data[PLOTLY]["config"]["showSendToCloud"] is False for data in bundles)
    images = [base64.b64decode(data["image/png"]) for data in bundles]
    assert all(image.startswith(PNG) for image in images)
    # Width and height in the header: 900 pixels times the scale, and the layout's own height.
    assert [int.from_bytes(images[0][start : start + 4]) for start in (16, 20)] == [1125, 375]
    assert (made[1] / "10_two.png").read_bytes() == images[0]
    assert (made[1] / "10_two.ipynb").stat().st_size < gallery.LIMIT


def test_a_copy_tells_nothing_of_the_run_s_place_and_hour(made):
    text = (made[1] / "10_two.ipynb").read_text(encoding="utf-8")
    assert '"papermill"' not in text
    assert '"execution"' not in text
    assert str(made[0]) not in text
    copy = json.loads(text)
    assert set(copy["metadata"]) == {"kernelspec", "language_info"}
    assert "version" not in copy["metadata"]["language_info"]
    assert [cell["metadata"] for cell in copy["cells"]][1] == {"tags": ["parameters"]}
    assert "word" in "".join(copy["cells"][2]["source"])  # the parameters that were given stay


def test_lines_of_progress_stay_out_of_a_copy(tmp_path):
    said = new_output("stream", name="stdout", text="Encoding logs: 48 of 48, 2 s\nkept: 3 s of it\n")
    only = new_output("stream", name="stdout", text="Answering: log: 7, 12 s\n")
    copy = json.loads(gallery.copy_of(Executed.read(write(tmp_path, "told", said, only))))
    assert [output["text"] for output in copy["cells"][1]["outputs"]] == [["kept: 3 s of it\n"]]


def test_the_listing_shows_each_notebook_and_its_first_figure(made):
    listing = (made[1] / "README.md").read_text(encoding="utf-8")
    assert "## [Does `it` work?](10_two.ipynb)\n\nA question that is put in *two* lines.\n\n" in listing
    assert "[![&lt;/script> & more.](10_two.png)](10_two.ipynb)" in listing
    assert "## [Plain](20_none.ipynb)\n\nNo figure here.\n" in listing
    assert "20_none.png" not in listing


def test_paths_below_known_folders_become_relative_and_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = write(tmp_path / "a", "own", shown(text=f"'{tmp_path}/runs/x'"), source=f"open('../..{tmp_path}/b')")
    text = gallery.copy_of(Executed.read(own))
    assert "'runs/x'" in text
    assert "open('b')" in text
    other = "/" + "Users/somebody/data"
    foreign = write(tmp_path / "b", "foreign", shown(text=f"in {other} and"))
    with pytest.raises(DataError, match=rf"foreign\.ipynb would name {other}, a path of this machine: take it out\."):
        gallery.write_copies([Executed.read(foreign)], tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_a_copy_that_is_too_large_is_refused_before_anything_is_written(tmp_path):
    for more, fits in ((-2_000, True), (0, False)):
        one = Executed.read(write(tmp_path, "large", shown(plotly=figure(), png="A" * (gallery.LIMIT + more))))
        if fits:
            assert len(gallery.copy_of(one)) <= gallery.LIMIT
    with pytest.raises(DataError, match=r"large\.ipynb would take 4\.0 MB, and 4\.0 MB are allowed: show fewer"):
        gallery.write_copies([one], tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_a_copy_of_figures_without_pictures_is_refused(tmp_path):
    one = Executed.read(write(tmp_path, "bare", shown(plotly=figure())))
    with pytest.raises(DataError, match=r"bare\.ipynb has figures without pictures: install Chromium and kaleido"):
        gallery.write_copies([one], tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_the_letters_of_a_picture_are_no_path(tmp_path):
    spelt = "/" + "home/" + "A" * 20
    one = Executed.read(write(tmp_path, "spelt", shown(plotly=figure(), png=spelt)))
    assert spelt in gallery.copy_of(one)


# What is refused


def test_a_notebook_that_did_not_come_to_its_end_is_refused(tmp_path):
    failed = write(tmp_path, "failed", new_output("error", ename="E", evalue="", traceback=[]))
    with pytest.raises(DataError, match=r"failed\.ipynb holds an error: run the notebook again"):
        Executed.read(failed)
    with pytest.raises(DataError, match=r"fresh\.ipynb was not run to its end: run it again"):
        Executed.read(write(tmp_path, "fresh", count=None))
    (tmp_path / "torn.ipynb").write_text('{"cells": [')
    with pytest.raises(DataError, match=r"torn\.ipynb cannot be read as a notebook \("):
        Executed.read(tmp_path / "torn.ipynb")
    with pytest.raises(DataError, match="must begin with a Markdown cell of a `# title` and a paragraph"):
        _ = Executed.read(write(tmp_path, "mute", opening="Just words.")).opening


def test_a_notebook_is_shown_with_the_first_sentence_of_its_verdict_or_else_of_its_opening(tmp_path):
    opening = "# Two\n\nWe ask [2, section 3.1] of `x`\ntwo things. Both matter.\n\nNot this."
    one = Executed.read(write(tmp_path, "opened", opening=opening))
    assert (one.opening[0], one.sentence) == ("Two", "We ask [2, section 3.1] of `x` two things.")
    told = new_output("display_data", data={"text/markdown": "> **Verdict.** EM is +1.5 [-2, 3.4]. `kv_block` is 3."})
    path = write(tmp_path, "told", told, opening=opening)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata.tags = ["verdict"]
    nbformat.write(notebook, path)
    assert Executed.read(path).sentence == "EM is +1.5 [-2, 3.4]."
    index = gallery.write_pages([Executed.read(path)], tmp_path / "pages").read_text(encoding="utf-8")
    assert "<p>EM is +1.5 [-2, 3.4].</p>" in index
    assert "kv_block" not in index


def test_a_second_copy_of_a_notebook_says_in_its_title_what_it_is(tmp_path):
    folder = tmp_path / "executed"
    for name in ("02_it", "02_it-laptop"):
        write(folder, name)
    gallery.make(folder, tmp_path / "pages", tmp_path / "copies")
    index = (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    assert index.count("Does <code>it</code> work?</a>") == index.count("Does <code>it</code> work? (laptop)</a>") == 1
    assert "<title>Does `it` work? (laptop)" in (tmp_path / "pages" / "02_it-laptop.html").read_text(encoding="utf-8")
    readme = (tmp_path / "copies" / "README.md").read_text(encoding="utf-8")
    assert "## [Does `it` work? (laptop)](02_it-laptop.ipynb)" in readme


def test_a_folder_needs_notebooks_of_different_names(tmp_path):
    with pytest.raises(DataError, match=r"There is no executed notebook in .*: make some with"):
        find(tmp_path)
    write(tmp_path / "a", "one")
    write(tmp_path / "b" / ".ipynb_checkpoints", "one")
    assert [one.name for one in find(tmp_path)] == ["one"]
    write(tmp_path / "b", "one")
    with pytest.raises(DataError, match="have one name: their pages would replace each other"):
        find(tmp_path)


def test_pages_need_no_browser_and_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    write(tmp_path, "one", shown(plotly=figure()))
    assert main(["gallery", str(tmp_path)]) == 0
    assert "Plotly.newPlot(" in (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "No picture" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_copies_do_not_land_among_the_executed_notebooks(tmp_path, capsys):
    write(tmp_path, "one")
    assert main(["gallery", str(tmp_path), "--copies", str(tmp_path / "docs")]) == 2
    assert "would be taken for executed notebooks: choose another folder." in capsys.readouterr().err
