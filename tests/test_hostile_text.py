"""Text that is HTML, script or a link, in everything that is shown: a browser opens it all, and finds mere text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

from lagkit.nightly import gallery, history, job
from lagkit.nightly import page as nightly_page
from lagkit.nightly.gallery import Executed
from lagkit.nightly.pages import PLOTLY
from lagkit.nightly.profile import Plan, Task
from lagkit.nightly.run import Outcome
from lagkit.util.errors import DataError
from tests.helpers import hostile_text as hostile
from tests.helpers.hostile_text import EVIL, HOSTILE, findings, run_report

GALLERY = "night/jobs"  # where jobs have their plotly.js, so that a tab compiles one


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of pages."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def sections(tmp_path_factory) -> dict[str, str]:
    return hostile.sections(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def figures() -> dict[str, dict]:
    return hostile.figures()


@pytest.fixture(scope="module")
def opened(tab, one_script, sections, figures, folder) -> dict[str, dict]:
    """What a browser finds on each page, with all that would have happened there."""
    files = {"sections": write_sections(folder, sections), "gallery": write_gallery(folder, sections, figures)}
    files |= {"index": folder / GALLERY / "index.html", **write_night(folder, sections)}
    return {name: visit(tab, file) for name, file in files.items()}


def write_sections(folder: Path, sections: dict[str, str]) -> Path:
    body = "".join(f'<section id="{name}">{text}</section>' for name, text in sections.items())
    path = folder / "sections.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>t</title><body>{body}</body>", encoding="utf-8")
    return path


def executed(folder: Path, outputs: list) -> Path:
    """A notebook with these outputs, as if it had been run."""
    cells = [new_markdown_cell("# Title\n\nQuestion."), new_code_cell("1", outputs=outputs, execution_count=1)]
    cells.append(new_code_cell(f"word = {EVIL!r}", execution_count=2))
    run = {"parameters": {"word": EVIL}, "end_time": "2026-01-01T00:00:00", "duration": 1.0}
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "papermill": run}
    folder.mkdir(parents=True)
    path = folder / "10_hostile.ipynb"
    path.write_text(writes(new_notebook(cells=cells, metadata=spec)), encoding="utf-8")
    return path


def outputs_of(folder: Path, sections: dict[str, str]) -> list:
    made = [new_output("stream", text=EVIL), new_output("display_data", data={"text/plain": EVIL})]
    made += [new_output("display_data", data={"text/html": text}) for text in sections.values()]
    told = [findings(folder), run_report()]
    return made + [new_output("display_data", data={"text/markdown": text}) for text in told]


def write_gallery(folder: Path, sections: dict[str, str], figures: dict[str, dict]) -> Path:
    drawn = [new_output("display_data", data={PLOTLY: figure}) for figure in figures.values()]
    made = Executed.read(executed(folder / "runs", outputs_of(folder, sections) + drawn))
    gallery.write_pages([made], folder / GALLERY)
    return folder / GALLERY / "10_hostile.html"


def write_night(folder: Path, sections: dict[str, str]) -> dict[str, Path]:
    """The page of a night, and that of one of its jobs, which failed."""
    out = folder / "night"
    failed = new_output("error", ename=EVIL, evalue=EVIL, traceback=[EVIL])
    notebook = executed(out / "jobs" / "job", [*outputs_of(folder, sections), failed])
    job.write_page(notebook)
    record = {"metrics": {EVIL: 1.0}, "findings": [EVIL]}
    (notebook.parent / "metrics.json").write_text(json.dumps(record), encoding="utf-8")
    task = Task("job", notebook, {"word": EVIL, "seed": 0}, (), None, 60)
    plan = Plan(EVIL, EVIL, (task,), None, {}, folder / "none.json")
    outcome = Outcome("job", "failed", "key", "2026-01-01T00:00:00", 1.0, EVIL)
    gate = {"job": "job", "metric": EVIL, "found": 1.0, "value": 2.0, "tolerance": 0.1, "chance": 0.0}
    compared = pd.DataFrame([{**gate, "verdict": "regression"}])
    past = pd.DataFrame(columns=history.COLUMNS)
    report_page = nightly_page.write(out, plan, {"job": outcome}, {"job": {EVIL: 1.0}}, compared, past, EVIL)
    return {"night": report_page, "job": notebook.with_suffix(".html")}


def visit(page, path: Path) -> dict:
    asked, dialogs = [], []
    told = {
        "dialog": lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()),
        "request": lambda one: None if one.url.startswith(("file:", "data:", "blob:")) else asked.append(one.url),
    }
    for event, note in told.items():
        page.on(event, note)
    page.goto(path.resolve().as_uri(), wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    hovered = page.evaluate(
        """async () => {
            const told = {};
            for (const div of document.querySelectorAll('.plotly-graph-div')) {
                const texts = [];
                for (let curve = 0; curve < div.data.length; curve++) {
                    try { Plotly.Fx.hover(div, [{curveNumber: curve, pointNumber: 0}]); } catch (error) { continue; }
                    await new Promise(done => setTimeout(done, 60));
                    texts.push(div.querySelector('.hoverlayer')?.textContent ?? '');
                }
                told[div.id] = [div.textContent, ...texts].join(' ');
            }
            return told;
        }"""
    )
    found = page.evaluate(
        """() => ({
            pwned: window.pwned ?? null,
            images: [...document.querySelectorAll('img')].map(one => one.getAttribute('src')),
            links: [...document.querySelectorAll('a')].map(
                one => one.getAttribute('href') ?? one.getAttributeNS('http://www.w3.org/1999/xlink', 'href') ?? ''),
            foreign: document.querySelectorAll('iframe, textarea, svg[onload], [onerror], svg a').length,
            text: document.body.textContent,
            sections: Object.fromEntries(
                [...document.querySelectorAll('section')].map(one => [one.id, one.textContent])),
        })"""
    )
    for event, note in told.items():
        page.remove_listener(event, note)
    return {**found, "figures": hovered, "asked": asked, "dialogs": dialogs}


def words(text: str) -> str:
    """For comparison: a page may break lines, and paragraph marks of Markdown's headings stand at the end."""
    return " ".join(text.split())


@pytest.mark.parametrize("name", ["sections", "gallery", "index", "night", "job"])
def test_nothing_runs_opens_or_is_asked_for(opened, name):
    found = opened[name]
    assert (found["pwned"], found["dialogs"], found["foreign"]) == (None, [], 0)
    assert found["asked"] == []
    assert [image for image in found["images"] if not (image or "").startswith("data:image/png")] == []
    # Of an address in a text, Markdown makes a link to where it says; no other scheme is among them.
    schemes = {match[1] for link in found["links"] if (match := re.match(r"\s*([\w+.-]+):", link))}
    assert schemes <= {"http", "https"}


def test_all_is_shown_letter_by_letter(opened, sections):
    shown = opened["sections"]["sections"]
    assert set(shown) == set(sections)
    for name, text in shown.items():
        for said in HOSTILE[:-1] if name in ("report", "models", "findings") else HOSTILE:
            assert said in words(text), (name, said)


@pytest.mark.parametrize("name", ["gallery", "index", "night", "job"])
def test_pages_show_it_letter_by_letter(opened, name):
    text = words(opened[name]["text"]).replace("\\'", "'")  # parameters are shown as Python spells them
    for said in HOSTILE:
        assert said in text, said


def test_figures_show_it_letter_by_letter(opened, figures):
    drawn = opened["gallery"]["figures"]
    assert len(drawn) == len(figures)
    for name, text in zip(figures, drawn.values(), strict=True):
        # Of the title, and again of a label or of what stands under the pointer.
        assert text.count(HOSTILE[0]) > 1, name
        assert HOSTILE[-1] in text, name


def test_what_is_not_escaped_would_be_seen(tab, tmp_path):
    raw = visit(tab, write_sections(tmp_path, {str(number): text for number, text in enumerate(HOSTILE)}))
    assert raw["pwned"] is not None
    assert raw["foreign"] > 2
    assert "x" in raw["images"]
    assert "javascript:window.pwned=6" in raw["links"]


STRANGER = """<script>window.pwned = 21</script><img src=x onerror="window.pwned = 22">
<a id=go href="javascript:window.pwned = 23">go</a><iframe srcdoc="<script>parent.pwned = 24</script>"></iframe>
<button id=press onclick="window.pwned = 25">press</button><base href="https://example.org/">"""


def test_a_picture_from_the_network_in_a_strangers_text_is_refused(tmp_path):
    fetched = [new_output("display_data", data={"text/markdown": "![x](http://127.0.0.1:9/x.png)"})]
    with pytest.raises(DataError, match=r"would load http://127\.0\.0\.1:9/x\.png: pages work offline"):
        gallery.write_pages([Executed.read(executed(tmp_path / "runs", fetched))], tmp_path / "gallery")
    assert not (tmp_path / "gallery").exists()


def test_no_page_runs_a_script_of_a_strangers_notebook(tab, one_script, figures, folder):
    """Titles, text and outputs that are HTML on purpose, and figures, which are drawn nevertheless."""
    wide = {"data": figures["bars"]["data"], "layout": {"width": '9px"><script>window.pwned = 29</script>'}}
    said = [{"text/html": STRANGER}, {"application/javascript": "window.pwned = 27"}]
    said += [{"image/svg+xml": "<svg onload='window.pwned=28'></svg>"}, {PLOTLY: figures["bars"]}, {PLOTLY: wide}]
    file = executed(folder / "night" / "jobs" / "one", [new_output("display_data", data=data) for data in said])
    notebook = json.loads(file.read_text(encoding="utf-8"))
    notebook["cells"][0]["source"] = f"# {' '.join(STRANGER.split())}\n\nWhy?\n\n[go](javascript:window.pwned=26)"
    file.write_text(json.dumps(notebook), encoding="utf-8")
    index = gallery.write_pages([Executed.read(file)], folder / GALLERY)
    for path in (index, index.with_name("10_hostile.html"), job.write_page(file)):
        tab.goto(path.as_uri(), wait_until="load")
        for pressed in tab.locator("a[href^='javascript'], #press").all():
            pressed.dispatch_event("click")
        tab.wait_for_timeout(200)
        assert tab.evaluate("window.pwned ?? null") is None, path
        drawn = tab.locator(".plotly-graph-div .main-svg").count()
        assert bool(drawn) == (path.name != "index.html")
    listed = index.read_text(encoding="utf-8")
    assert "&lt;script&gt;window.pwned = 21" in listed
    assert 'href="javascript' not in listed
