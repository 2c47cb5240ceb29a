"""Text that is HTML, script or a link, in everything that lagkit shows."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from nbconvert.filters import markdown2html

from lagkit.datasets.loaders import Dataset
from lagkit.logs.encode import Encoder
from lagkit.logs.header import Header
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.logs.store import LogStore
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


def sections(parent: Path) -> dict[str, str]:
    """All HTML that lagkit makes of text, by what makes it. parent: a folder for a store and a record."""
    embedder, prompt, lm = HashEmbedder(64), short_prompt(), new_lm(ScriptedLM)
    folder = parent / NAME
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
        "findings": findings(parent),
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
