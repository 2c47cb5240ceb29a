"""Text that is HTML, script or a link, in everything that is shown: a browser opens it all, and finds mere text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from nbconvert.filters import markdown2html
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

from lagkit.datasets.loaders import Dataset
from lagkit.logs.encode import Encoder
from lagkit.logs.header import Header
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.logs.store import LogStore
from lagkit.nightly import gallery, history, job
from lagkit.nightly import page as nightly_page
from lagkit.nightly.gallery import Executed
from lagkit.nightly.pages import PLOTLY
from lagkit.nightly.profile import Plan, Task
from lagkit.nightly.run import Outcome
from lagkit.policy import POLICIES
from lagkit.runs import report
from lagkit.stats.wording import difference
from lagkit.studies import support_page
from lagkit.studies.tokens import encoding as read_tokens
from lagkit.types import Hit, Limits, Round, Trace
from lagkit.util.errors import DataError
from lagkit.views import lab, tables
from lagkit.views.findings import say
from lagkit.views.plots import basic, curves, differences, explore, forest, support, tokens, transfer
from lagkit.views.widgets import LogExplorer, Playground
from lagkit.views.widgets.pages import answers_html, kept_html, log_names, trace_html
from lagkit.views.widgets.playground import Means
from tests.helpers.lms import ScriptedLM, new_lm, passages_about, short_prompt
from tests.helpers.panels import loaded
from tests.helpers.stores import kv

HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=2>",
    '"><svg onload=window.pwned=3>',
    "'><iframe srcdoc='<script>parent.pwned=4</script>'></iframe>",
    "[here](javascript:window.pwned=5)",
    '<a href="javascript:window.pwned=6">there</a>',
    "</textarea></title></style></script><script>window.pwned=7</script>",
    "]]><script>window.pwned=8</script>",
    "{{ 7*7 }}{% raw %}",
    "www.evil.example me@evil.example",
    "![x](http://127.0.0.1:9/pwned.png)",
    "&lt;b&gt; &amp;",
)
EVIL = " ".join(HOSTILE)
NAME = "a<img src=x onerror=window.pwned=9>"  # of a folder
POLICY = "kv_last_round"


def hostile_trace(**changes) -> Trace:
    said = Round(EVIL, f"{EVIL}\n<ans>{EVIL}</ans>", EVIL, (Hit(EVIL, 0.5),), (Hit("gone", 0.25),))
    made = {"question_id": "q", "answer": EVIL, "error": EVIL, "policy": EVIL}
    return Trace(question=EVIL, system=EVIL, rounds=(said, said), **{**made, **changes})


@pytest.fixture(scope="module")
def sections(tmp_path_factory) -> dict[str, str]:
    """All HTML that lagkit makes of text, by what makes it."""
    embedder, prompt, lm = HashEmbedder(64), short_prompt(), new_lm(ScriptedLM)
    folder = tmp_path_factory.mktemp("hostile") / NAME
    told = {"model": {"name": EVIL}, "embedder": EVIL, "dim": 64, "dtype": "float32"}
    with LogStore.new(folder, Header.new(**told)) as store:
        trace = hostile_trace()
        store.add(trace, embedder.documents([trace.key])[0], {EVIL: kv(1)})
        found = hostile_trace(question_id="other", error=None)
        names = {trace.id: trace.question, **log_names(store, [trace])}
        explorer = LogExplorer(store, embedder=embedder)
        explorer.tabs.selected_index = 1
        shown = {f"explorer {what}": getattr(explorer, what).value for what in ("trace", "kept")}
        with explorer.telling():
            raise DataError(EVIL)
        shown["explorer error"] = explorer.message.value
        store_html = store._repr_html_()
        shown["explorer snapshot"] = explorer.snapshot()
        explorer._ask()
        shown["explorer question"] = explorer.question.value
        explorer._delete()
        shown["explorer deleted"] = explorer.message.value
        store.add(trace, embedder.documents([trace.key])[0])
        passages = PassageIndex(passages_about("x"), embedder)
        playground = Playground(loaded(Means(lm, embedder, passages)), store, prompt=prompt, limits=Limits())
        playground.say(EVIL)
        playground.question.value = EVIL
        playground.traces, playground.going = {POLICY: trace, "no_logs": found}, {POLICY: EVIL}
        playground._show()
    frame = pd.DataFrame({EVIL: [EVIL], "score": [0.5]}, index=pd.Index([EVIL], name="name"))
    encoder = Encoder(lm, prompt)
    return {
        **shown,
        "playground message": playground.message.value,
        "playground snapshot": playground.snapshot(),
        "trace": trace_html(trace, names),
        "answers": answers_html({EVIL: trace, "b": found}, names),
        "kept words": kept_html(trace, "text_all_rounds"),
        "kept tokens": kept_html(trace, "kv_all_rounds", encoder),
        "token view": tokens.view(read_tokens(encoder, trace, POLICIES[POLICY]), hostile_answers())._repr_html_(),
        "store": store_html,
        "data": Dataset(EVIL, "qa", (), ())._repr_html_(),
        "table": tables.shown(frame, EVIL).to_html(),
        "frame": frame._repr_html_(),
        "report": markdown2html(run_report()),
        "models": markdown2html(support_page.others(refused())),
        "findings": findings(folder.parent),
        "verdict": markdown2html(say([EVIL]).data),
    }


def hostile_answers() -> pd.DataFrame:
    return pd.DataFrame({"answer": [EVIL], "right": [1.0], "gold": [-0.5]}, index=[EVIL])


def findings(folder: Path) -> str:
    row = {"mean": 0.0, "low": -1.0, "high": 1.0}
    return lab.conclude(folder / "out", {}, [EVIL, difference(EVIL, row, "em", EVIL)], {}).html


def refused() -> pd.DataFrame:
    return pd.DataFrame({"verdict": ["refused"], "reason": [EVIL]}, index=[EVIL])


def run_report() -> str:
    numbers = {"n": 3, "em": 0.5, "rounds": 2.0, "abstention": 0.0, "failures": 1, "prefilled": 9.0}
    summary = pd.DataFrame(
        [numbers], index=pd.MultiIndex.from_tuples([("no_logs", "unseen")], names=["policy", "split"])
    )
    empty = pd.MultiIndex.from_tuples([], names=["policy", "split", "metric"])
    apart = pd.DataFrame({"mean": [], "low": [], "high": []}, index=empty)
    logs = pd.DataFrame({"logs": [1]}, index=pd.Index([EVIL], name="key"))
    manifest = {"settings": {"dataset": EVIL, "model": EVIL, "world": {EVIL: EVIL}, "policies": [EVIL]}}
    return report.markdown(summary, apart, None, logs, manifest, [EVIL], pd.DataFrame())


@pytest.fixture(scope="module")
def figures() -> dict[str, dict]:
    """A figure of each kind that shows names which come from outside, by kind."""
    log = {
        "question": [EVIL],
        "answer": [EVIL],
        "rounds": [1],
        "right": ["right"],
        "marked": [True],
        "x": [0],
        "y": [0],
    }
    parts = pd.DataFrame({"share": [0.5, 0.5], "even": [0.4, 0.6], "tokens": [3, 4]}, index=[EVIL, "rest"])
    models = pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0], "kind": EVIL}, index=[EVIL, "m"])
    index = pd.MultiIndex.from_tuples([(EVIL, EVIL, "em")], names=["policy", "split", "metric"])
    apart = pd.DataFrame({"mean": [0.1], "low": [0.0], "high": [0.2], "n": [9]}, index=index)
    spent = pd.DataFrame({"prefilled": 1.0, "injected": 2.0, "generated": 3.0}, index=[EVIL])
    counts = pd.DataFrame({"wrong to right": [1], "right to wrong": [2]}, index=[EVIL])
    doubts = {"kind": "helpful", "sure_without": -0.1, "sure_with_logs": -0.2, "without": True, "with_logs": False}
    made = {
        "map": explore.log_map(pd.DataFrame(log), EVIL),
        "attention": explore.attention_bars(parts, EVIL),
        "dots": support.dots(models, {"a": "A"}, EVIL, "x"),
        "against": support.against(models, "a", "b", "kind", EVIL, ("x", "y")),
        "forest": forest(apart, {"em": "EM"}, EVIL),
        "changed": differences.changed(counts, EVIL),
        "costs": curves.costs(spent.assign(mean=0.5, low=0.4, high=0.6), EVIL, "EM"),
        "bars": basic.bars(models, "kind", {"a": "A"}, EVIL),
        "doubts": transfer.doubts(pd.DataFrame([doubts], index=[EVIL]), EVIL),
    }
    return {name: json.loads(figure.to_json()) for name, figure in made.items()}


@pytest.fixture(scope="module")
def opened(browser, sections, figures, tmp_path_factory) -> dict[str, dict]:
    """What a browser finds on each page, with all that would have happened there."""
    folder = tmp_path_factory.mktemp("pages")
    files = {"sections": write_sections(folder, sections), "gallery": write_gallery(folder, sections, figures)}
    files |= {"index": folder / "gallery" / "index.html", **write_night(folder, sections)}
    return {name: visit(browser, file) for name, file in files.items()}


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
    gallery.write_pages([made], folder / "gallery")
    return folder / "gallery" / "10_hostile.html"


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


def visit(browser, path: Path) -> dict:
    context = browser.new_context(offline=True)
    page, asked, dialogs = context.new_page(), [], []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda one: None if one.url.startswith(("file:", "data:", "blob:")) else asked.append(one.url))
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
    context.close()
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
        for hostile in HOSTILE[:-1] if name in ("report", "models", "findings") else HOSTILE:
            assert hostile in words(text), (name, hostile)


@pytest.mark.parametrize("name", ["gallery", "index", "night", "job"])
def test_pages_show_it_letter_by_letter(opened, name):
    text = words(opened[name]["text"]).replace("\\'", "'")  # parameters are shown as Python spells them
    for hostile in HOSTILE:
        assert hostile in text, hostile


def test_figures_show_it_letter_by_letter(opened, figures):
    drawn = opened["gallery"]["figures"]
    assert len(drawn) == len(figures)
    for name, text in zip(figures, drawn.values(), strict=True):
        # Of the title, and again of a label or of what stands under the pointer.
        assert text.count(HOSTILE[0]) > 1, name
        assert HOSTILE[-1] in text, name


def test_what_is_not_escaped_would_be_seen(browser, tmp_path):
    raw = visit(browser, write_sections(tmp_path, {str(number): text for number, text in enumerate(HOSTILE)}))
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


def test_no_page_runs_a_script_of_a_strangers_notebook(browser, figures, tmp_path):
    """Titles, text and outputs that are HTML on purpose, and figures, which are drawn nevertheless."""
    wide = {"data": figures["bars"]["data"], "layout": {"width": '9px"><script>window.pwned = 29</script>'}}
    said = [{"text/html": STRANGER}, {"application/javascript": "window.pwned = 27"}]
    said += [{"image/svg+xml": "<svg onload='window.pwned=28'></svg>"}, {PLOTLY: figures["bars"]}, {PLOTLY: wide}]
    file = executed(tmp_path / "jobs" / "one", [new_output("display_data", data=data) for data in said])
    notebook = json.loads(file.read_text(encoding="utf-8"))
    notebook["cells"][0]["source"] = f"# {' '.join(STRANGER.split())}\n\nWhy?\n\n[go](javascript:window.pwned=26)"
    file.write_text(json.dumps(notebook), encoding="utf-8")
    index = gallery.write_pages([Executed.read(file)], tmp_path / "gallery")
    for path in (index, index.with_name("10_hostile.html"), job.write_page(file)):
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.goto(path.as_uri(), wait_until="load")
        for pressed in page.locator("a[href^='javascript'], #press").all():
            pressed.dispatch_event("click")
        page.wait_for_timeout(200)
        assert page.evaluate("window.pwned ?? null") is None, path
        drawn = page.locator(".plotly-graph-div .main-svg").count()
        assert bool(drawn) == (path.name != "index.html")
        context.close()
    listed = index.read_text(encoding="utf-8")
    assert "&lt;script&gt;window.pwned = 21" in listed
    assert 'href="javascript' not in listed
