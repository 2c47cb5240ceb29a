"""Pages of a nightly run: what they say first, what stands open, and what a browser may do on them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from lagkit.nightly import history, page
from lagkit.nightly.gates import Baselines, JobGates, RegressionGate, compare
from lagkit.nightly.profile import plan
from lagkit.nightly.run import Outcome
from tests.helpers import nights
from tests.test_hostile_text import write_night

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
JOBS = [f"job_{number:02}" for number in range(16)]
GATES = 40  # of each job: 640 rows in all


def test_no_page_of_a_night_runs_what_it_shows(tmp_path):
    found = {name: path.read_text(encoding="utf-8") for name, path in write_night(tmp_path, {}).items()}
    for name, text in found.items():
        [policy] = re.findall(r'<meta (?=[^>]*"Content-Security-Policy")[^>]*content="([^"]*)"', text)
        assert policy.startswith("default-src 'none'; "), name
        assert re.search(r"script-src 'nonce-[^']{20,}'", policy), name
    scripts = re.findall(r"<script[^>]*>", found["job"])
    assert [script for script in scripts if 'src="../plotly.min.js"' in script] == scripts[:1]
    assert all(re.search('nonce="[^"]{20,}"', script) for script in scripts)
    assert (tmp_path / "night" / "jobs" / "plotly.min.js").exists()
    assert '<a href="../../report.html">All jobs</a>' in found["job"]


def write(folder: Path, em: Sequence[float], *, broken: Sequence[bool] = (), gated: bool = True) -> Path:
    """The page after these nights. em: of the first job's KV variant. broken: whether the last job failed."""
    folder.mkdir(exist_ok=True)
    wanted = plan(
        nights.project(folder, [{"notebook": name} for name in JOBS], [(name, "1") for name in JOBS]), "small"
    )
    names = [
        "em.kv_last_round.unseen",
        "rounds_ratio.kv_last_round.unseen",
        *(f"em.other_{i}" for i in range(GATES - 2)),
    ]
    gate = RegressionGate(value=0.8, tolerance=0.02, chance=0.0)
    gates = {
        task.name: JobGates(parameters=task.parameters, metrics=dict.fromkeys(names, gate)) for task in wanted.tasks
    }
    broken = broken or [False] * len(em)
    for night, (value, fails) in enumerate(zip(em, broken, strict=True)):
        measured = {name: {**dict.fromkeys(names, 0.8), "free": 7.0} for name in JOBS}
        measured[JOBS[0]][names[0]] = value
        outcomes = {name: Outcome(name, "ok", "", f"2026-01-{night + 1:02}T02:00:00", 60.0) for name in JOBS}
        if fails:
            del measured[JOBS[-1]]
            started = outcomes[JOBS[-1]].started
            outcomes[JOBS[-1]] = Outcome(JOBS[-1], "failed", "", started, 3.0, "It <failed> in cell 4; see there.")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(history, "git_state", lambda night=night: {"commit": f"{night:x}" * 40, "changed": False})
            past = history.record(folder, wanted, outcomes, measured)
    compared = compare(Baselines(seeds=(0,), jobs=gates) if gated else None, wanted, measured)
    if gated:
        wanted.baseline.parent.mkdir(parents=True)
        wanted.baseline.touch()
    return page.write(folder, wanted, outcomes, measured, compared, past)


def plain(part: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", part).split())


def opened(path: Path) -> str:
    """The text of the page without what is folded."""
    text = path.read_text(encoding="utf-8").partition("<body>")[2].partition("<script")[0]
    return plain(re.sub(r"(?s)</summary>.*?</details>", "</summary></details>", text))


def test_a_red_night_says_since_when_and_since_which_commit(tmp_path):
    path = write(tmp_path, [0.8, 0.7, 0.81, 0.7, 0.71], broken=[False, False, False, False, True])
    said = opened(path)
    assert "1 job did not succeed; 1 of 600 gates failed." in said
    assert f"Failing since 2026-01-04: first bad commit {'3' * 10} , last good {'2' * 10} ." in said
    row = f"job_00 em.kv_last_round.unseen 0.71 0.8 ± 0.02 regression 2026-01-04 {'3' * 10} {'2' * 10}"
    assert row in said
    assert f"job_15 failed It &lt;failed&gt; in cell 4 2026-01-05 {'4' * 10} {'3' * 10}" in said
    assert "39 of 40 gates passed" in said
    assert "gates not compared" in said
    assert "em.other_3" not in said, "what passed and did not change is folded"
    assert path.read_text(encoding="utf-8").count("em.other_3<") == 15


def test_what_changed_and_passed_stands_open_and_a_missing_metric_fails(tmp_path):
    assert "Gates that changed since last night, and passed job metric" in opened(write(tmp_path / "a", [0.8, 0.81]))
    assert "job_00 em.kv_last_round.unseen 0.81 0.8 ± 0.02 +0.01 ok" in opened(tmp_path / "a" / "report.html")
    assert "changed" not in opened(write(tmp_path / "b", [0.81, 0.81])).partition("Jobs")[0]
    gone = pd.Series([0.8, None, None], index=pd.MultiIndex.from_tuples([(f"2026-01-0{n}", "abc") for n in (1, 2, 3)]))
    assert history.since(gone.isna()) == ("2026-01-02", "abc", "abc")
    assert history.since(gone.notna()) is None
    assert history.since(gone.iloc[1:].isna()) == ("2026-01-02", "abc", "")


def test_the_headline_figure_marks_the_nights_outside_of_the_band(tmp_path):
    text = write(tmp_path, [0.8, 0.9, 0.8, 0.7]).read_text(encoding="utf-8")
    em, rounds = re.findall(r"(?s)<figure>(.*?)</figure>", text)
    assert "kv_last_round.unseen, exact match : 0.7 (baseline 0.8 ± 0.02)" in plain(em)
    assert "2026-01-01 4 nights 2026-01-04" in plain(em)
    assert [bool(bad) for bad in re.findall(r'class="dot( bad)?"', em)] == [False, True, False, True]
    # An axis from 0.65 to 0.95: the band of 0.78 to 0.82 lies 43% to 57% below its top.
    top, height = (
        float(value) for value in re.findall(r'class="band" y="([\d.]+)" width="100" height="([\d.]+)"', em)[0]
    )
    assert (top, height) == (pytest.approx(43.3, abs=0.1), pytest.approx(13.3, abs=0.1))
    assert re.findall(r'points="([^"]*)"', em) == ["0.0,50.0 33.3,16.7 66.7,50.0 100.0,83.3 "]
    assert "rounds / no_logs" in plain(rounds)


def test_a_spark_ends_three_tolerances_from_the_baseline(tmp_path):
    text = write(tmp_path, [0.8, 0.2, 0.84]).read_text(encoding="utf-8")
    sparks = [points.split() for points in re.findall(r'points="([^"]*)"', text)]
    # At the baseline, beyond the lower edge, and two of three tolerances above.
    assert ["0.0,50.0", "50.0,100.0", "100.0,16.7"] in sparks


def test_a_first_night_without_baselines_is_neither_good_nor_bad(tmp_path):
    path = write(tmp_path, [0.8], gated=False)
    said, text = opened(path), path.read_text(encoding="utf-8")
    assert "All jobs succeeded; no gates." in said
    assert "This profile has no baselines yet" in said
    assert '<p class="verdict ">' in text
    assert "<title>No gates: nightly small</title>" in text
    assert "first night on record" in said


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_green_night_of_640_gates_is_one_screen_and_the_filter_unfolds(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    green = write(tmp_path / "green", [0.8] * 14)
    red = write(tmp_path / "red", [0.8, 0.7])
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True, color_scheme="dark")
        wrong: list[str] = []
        view.on("console", lambda said: wrong.append(said.text))
        view.on("pageerror", lambda error: wrong.append(str(error)))
        view.goto(green.as_uri())
        assert view.evaluate("document.documentElement.scrollHeight") <= 900
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 25, 31)"
        view.goto(red.as_uri())
        assert view.locator("tr[data-text]:visible").count() == 1  # the gate that failed
        view.fill("#filter", "job_03 other_7")
        assert view.locator("tr[data-text]:visible").count() == 1
        assert view.locator("#hits").text_content() == "1 rows"
        view.fill("#filter", "")
        assert view.locator("details[open]").count() == 0
        view.click("a[href='#job_00']")
        assert view.locator("details[open]").get_attribute("id") == "job_00"
        assert wrong == []
        browser.close()
