"""Every argument of the nightly, notebook, testbed, gallery and fault commands; `tests/test_settings_cli.py` counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lagkit.__main__ import main
from lagkit.nightly import run as running
from tests.helpers import lms, nights
from tests.helpers.covered import Covered, fails
from tools.testbed.__main__ import main as tools

shows = Covered()


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


# nightly

TOGETHER = """
import json, pathlib, time
folder = pathlib.Path(out); folder.mkdir(parents=True, exist_ok=True)
mine = folder.parent / (folder.name + ".began"); mine.touch()
other = folder.parent / ({"a": "b", "b": "a"}[folder.name] + ".began")
until = time.monotonic() + wait
while not other.exists() and time.monotonic() < until:
    time.sleep(0.02)
record = {"metrics": {"em.kv": 0.5 + seed / 100, "met": float(other.exists())}, "findings": []}
(folder / "metrics.json").write_text(json.dumps(record))
with open(folder.parent / "times.txt", "a") as times:
    times.write(folder.name + "\\n")
"""


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks that wait for each other for a while, run without kernels, in two profiles."""
    monkeypatch.setattr(running, "COMMAND", (sys.executable, "-c", nights.QUICK))
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        parameters = 'seed: int = 0\nwait: float = 0.0\nrun: str = "x"\nout: str = "elsewhere"'
        nights.notebook(tmp_path / "notebooks", name, TOGETHER, parameters=parameters)
    jobs = [{"notebook": name, "run": name} for name in ("a", "b")]
    profile = {"about": "Both.", "parameters": {"seed": 0}, "jobs": jobs}
    profiles = {"demo": profile, "one": {**profile, "jobs": jobs[:1]}}
    path = tmp_path / "nightly.yaml"
    path.write_text(json.dumps({"chance": {"a": {"em.*": 0.0}}, "profiles": profiles}), encoding="utf-8")
    return path


def metrics(out: Path, job: str) -> dict[str, float]:
    return read(out / "jobs" / job / "metrics.json")["metrics"]


@shows("nightly words", "nightly --profile", "nightly --out", "nightly --fresh")
def test_a_night_runs_the_profile_into_its_folder(night, tmp_path):
    assert main(["nightly"]) == 0  # nightly.yaml, here
    default = tmp_path / "runs" / "nightly" / "demo"
    assert {path.name for path in (default / "jobs").iterdir() if path.is_dir()} == {"a", "b"}
    moved = tmp_path / "other.yaml"
    night.rename(moved)
    words = ["nightly", str(moved), "--profile", "one", "--out", str(tmp_path / "out"), "seed=3"]
    assert [main(words), main(words), main([*words, "--fresh"])] == [0, 0, 0]
    assert {path.name for path in (tmp_path / "out" / "jobs").iterdir() if path.is_dir()} == {"a"}
    assert metrics(tmp_path / "out", "a")["em.kv"] == 0.53
    assert (tmp_path / "out" / "jobs" / "times.txt").read_text(encoding="utf-8") == "a\na\n"


@shows("nightly --jobs")
@pytest.mark.parametrize(("jobs", "wait", "met"), [(1, 0.1, {0.0, 1.0}), (2, 60.0, {1.0})])
def test_so_many_notebooks_run_at_once(night, tmp_path, jobs, wait, met):
    """The first of two that run one after the other does not meet the second."""
    assert main(["nightly", "--out", str(tmp_path / "out"), "--jobs", str(jobs), f"wait={wait}"]) == 0
    assert {metrics(tmp_path / "out", name)["met"] for name in ("a", "b")} == met


@shows("nightly --update-baselines", "nightly --seeds", "nightly --yes")
def test_baselines_come_of_so_many_seeds_and_are_written_if_asked(night, tmp_path, capsys):
    words = ["nightly", "--profile", "one", "--out", str(tmp_path / "out")]
    baselines = tmp_path / "tests" / "baselines"
    for more, written in (((), False), (("--yes",), True)):
        assert main([*words, "--update-baselines", "--seeds", "2", *more]) == 0
        assert bool([*baselines.glob("one*")]) is written
    assert [path.name for path in (tmp_path / "out" / "seeds").iterdir()] == ["1"]
    for lonely in (["--yes"], ["--seeds", "4"]):
        assert "--seeds and --yes are for --update-baselines" in fails(capsys, main, *words, *lonely)
    for option in ("--jobs", "--seeds"):
        assert "should be greater than or equal to 1" in fails(capsys, main, *words, option, "0")
    capsys.readouterr()


# notebook


@shows("notebook source", "notebook out", "notebook -p", "notebook --timeout")
def test_a_notebook_gets_its_parameters_its_folder_and_its_time(tmp_path, capsys):
    cell = "import pathlib, time\npathlib.Path(out, 'told.txt').write_text(str(size))\ntime.sleep(size)"
    nights.notebook(tmp_path, "small", cell)
    notebook, out = str(tmp_path / "small.ipynb"), tmp_path / "out"
    assert main(["notebook", notebook, str(out), "-p", "size", "60", "--timeout", "1"]) == 2
    assert "A cell of small.ipynb took more than 1 s" in capsys.readouterr().err
    assert (out / "told.txt").read_text(encoding="utf-8") == "60"
    assert "should be greater than or equal to 1" in fails(capsys, main, "notebook", notebook, out, "--timeout", "0")


# testbed


@shows("testbed world folder", "testbed world controls")
def test_a_world_is_written_with_its_controls(tmp_path):
    sizes = ["entities=90", "log_questions=4", "unseen_questions=3"]
    assert main(["testbed", "world", str(tmp_path / "world"), *sizes]) == 0
    found = [len(read(tmp_path / "world" / f"dev_{name}.json")) for name in ("train", "test")]
    assert found == [4, 3]


@shows("tools.testbed train out", "tools.testbed train changes")
def test_a_model_is_trained_with_its_settings(tmp_path):
    small = ["steps=1", "rows=1", "tokens=320", "hidden=32", "layers=1", "heads=2", "inner=48", "drill_steps=0"]
    assert tools(["train", str(tmp_path / "model"), *small]) == 0
    config = read(next((tmp_path / "model").rglob("config.json")))
    assert (config["hidden_size"], config["num_hidden_layers"]) == (32, 1)


@shows("tools.testbed study tier", "tools.testbed study changes", "tools.testbed study --world")
@shows("tools.testbed study --contradicted", "tools.testbed study --page")
def test_a_study_refuses_what_it_decides_itself(tmp_path, capsys):
    """What its options change: `test_a_study_runs_the_worlds_that_were_asked_for`."""
    for setting, said in (
        (f"data={lms.SAMPLE}", "leave data out"),
        ("store=x", "leave store out"),
        ("splits=[seen]", "leave splits out"),
        ("policies=[no_logs]", "add text_last_round"),
        ("world={seed: 4}", "give --world"),
        ("world={contradicted: 0.5}", "give --contradicted"),
    ):
        assert said in fails(capsys, tools, "study", "testbed", f"out={tmp_path / 'out'}", setting)
    assert not (tmp_path / "out").exists()
    assert "contradicted: Input should be less than" in fails(
        capsys, tools, "study", "testbed", "--contradicted", "2", f"out={tmp_path / 'out'}"
    )


@pytest.mark.slow
def test_a_study_runs_the_worlds_that_were_asked_for(tmp_path, capsys):
    world = "{entities: 90, log_questions: 10, unseen_questions: 8, hops: [1, 2]}"
    policies = "[no_logs, text_last_round, kv_last_round]"
    out, page = tmp_path / "out", tmp_path / "pages" / "study.md"
    words = ["study", "testbed", f"out={out}", f"world={world}", f"policies={policies}", "embedder=hash"]
    assert (
        tools([*words, "max_rounds=2", "--world", "5", "--world", "6", "--contradicted", "0.5", "--page", str(page)])
        == 0
    )
    assert page.read_text(encoding="utf-8") in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"world-5", "world-6"}
    controls = [read(out / "world-5" / run / "world" / "controls.json") for run in ("run", "run-changed")]
    assert [(c["seed"], c["entities"], c["contradicted"]) for c in controls] == [(5, 90, 0.0), (5, 90, 0.5)]


@shows("tools.testbed carry out", "tools.testbed carry changes")
def test_a_model_is_continued_for_the_carry_world_where_it_was_asked_for(tmp_path, capsys):
    words = ["carry", str(tmp_path / "made"), "steps=1", "rows=2", "tokens=224", "warm_up=1", "check_every=1"]
    assert tools(words) == 0
    assert {path.name for path in (tmp_path / "made").iterdir()} >= {"model", "log.csv"}
    assert "hidden_rounds" in fails(capsys, tools, *words, "hidden_rounds=true")


@pytest.mark.slow
@shows("tools.testbed carry-study models", "tools.testbed carry-study --page")
@shows("tools.testbed carry-study --questions", "tools.testbed carry-study --seed", "tools.testbed carry-study --sites")
def test_a_study_of_the_carry_world_asks_the_models_that_were_named(tmp_path, capsys):
    folder = Path(__file__).parents[1] / "data" / "testbed" / "carry"
    words = [f"plain={folder / 'plain'}", f"control={folder / 'control'}", "--page"]
    asked = {}
    for seed in ("5", "6"):
        page = tmp_path / seed / "carry.md"
        assert tools(["carry-study", *words, str(page), "--questions", "2", "--seed", seed]) == 0
        assert page.read_text(encoding="utf-8") in capsys.readouterr().out
        assert [path.name for path in page.parent.glob("*.md")] == ["carry.md"]
        rows = pd.read_parquet(page.with_suffix(".parquet"))
        assert set(rows["model"]) == {"plain", "control"}
        assert (rows.groupby(["model", "rung"])["question_id"].nunique() == 2).all()
        asked[seed] = set(rows["question_id"])
    assert asked["5"] != asked["6"]
    sites = tmp_path / "sites.md"
    assert tools(["carry-study", *words, str(page), "--questions", "2", "--sites", str(sites)]) == 0
    assert sites.read_text(encoding="utf-8") in capsys.readouterr().out
    assert set(pd.read_parquet(sites.with_suffix(".parquet"))["model"]) == {"plain", "control"}


# gallery and page


@shows("page executed", "page out")
def test_a_page_goes_beside_its_notebook_or_where_it_is_sent(tmp_path, capsys):
    cells = [new_markdown_cell("# Plain\n\nNo figure here."), new_code_cell("1", execution_count=1)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert main(["page", str(tmp_path / "a.ipynb")]) == 0
    assert main(["page", str(tmp_path / "a.ipynb"), str(tmp_path / "sent" / "b.html")]) == 0
    made = [tmp_path / "a.html", tmp_path / "sent" / "b.html"]
    assert capsys.readouterr().out.split() == [str(path) for path in made]
    assert all("No figure here." in path.read_text(encoding="utf-8") for path in made)


@shows("gallery executed", "gallery --pages", "gallery --copies")
def test_the_gallery_goes_where_it_is_sent(tmp_path):
    cells = [new_markdown_cell("# Plain\n\nNo figure here."), new_code_cell("1", execution_count=1)]
    (tmp_path / "runs").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "runs" / "a.ipynb")
    assert main(["gallery", str(tmp_path / "runs")]) == 0
    assert (tmp_path / "runs" / "index.html").exists()
    (tmp_path / "runs" / "index.html").unlink()
    assert (
        main(
            [
                "gallery",
                str(tmp_path / "runs"),
                "--pages",
                str(tmp_path / "pages"),
                "--copies",
                str(tmp_path / "copies"),
            ]
        )
        == 0
    )
    assert (tmp_path / "pages" / "index.html").exists()
    assert not (tmp_path / "runs" / "index.html").exists()
    assert (tmp_path / "copies" / "a.ipynb").exists()


# tests.faults


@shows("faults --count", "faults --kind", "faults --seed", "faults --page")
def test_faults_are_as_many_of_the_kind_and_seed_as_asked(monkeypatch, tmp_path, capsys):
    from tests.faults import __main__ as faults
    from tests.faults import harness

    injected, inject = [], harness.inject
    monkeypatch.setattr(harness, "inject", lambda kind, seed: injected.append((kind, seed)) or inject(kind, seed))
    kind, page = next(iter(harness.KINDS)), tmp_path / "faults.md"
    words = ["--count", "2", "--kind", kind, "--seed", "7", "--page", str(page)]
    assert faults.main(words) == 0
    assert injected == [(kind, 7), (kind, 8)]
    assert capsys.readouterr().out.strip() in page.read_text(encoding="utf-8")
