"""A nightly run of throw-away notebooks: failures, time limits, resuming, interruption, gates and exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pandas as pd
import psutil
import pytest
from filelock import FileLock

from lagkit.__main__ import main
from lagkit.nightly import run as running
from lagkit.nightly.profile import plan
from lagkit.stats import changed
from tests.helpers import nights

GOOD = nights.MEASURE


@pytest.fixture
def quick(monkeypatch):
    """Notebooks run without kernels."""
    monkeypatch.setattr(running, "COMMAND", (sys.executable, "-c", nights.QUICK))


def started(out):
    """The names of the jobs that came to their end, in order, one for each time."""
    path = out / "jobs" / "times.txt"
    return path.read_text().split() if path.exists() else []


def test_one_failure_does_not_stop_the_rest(tmp_path, capsys):
    notebooks = [
        ("good", GOOD),
        ("bad", "print('reached')", "raise ValueError('no such thing')"),
        ("slow", "import time; time.sleep(60)"),
        ("dead", "import os; os._exit(1)"),
    ]
    jobs = [
        {"notebook": "bad", "run": "1"},
        {"notebook": "slow", "timeout": 5, "run": "2"},
        {"notebook": "dead", "run": "3"},
    ]
    jobs.append({"notebook": "good", "after": ["bad"], "run": "1"})
    path = nights.project(tmp_path, jobs, notebooks)
    out = tmp_path / "night"
    assert main(["nightly", str(path), "--profile", "small", "--out", str(out), "--jobs", "4"]) == 2
    outcomes = {name: running.read_outcome(out, name) for name in ("bad", "slow", "dead", "good")}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        **{"bad": "failed", "slow": "timeout", "dead": "failed", "good": "ok"}
    }
    assert "bad.ipynb failed in cell 4 (ValueError: no such thing)" in outcomes["bad"].error
    assert outcomes["slow"].error == "It took more than 5 s."
    until = time.monotonic() + 20
    while left := [process for process in psutil.process_iter(["cwd"]) if f"{tmp_path}/" in f"{process.info['cwd']}/"]:
        assert time.monotonic() < until, f"of a job that was stopped, {left} lives on"
        time.sleep(0.05)
    assert "The kernel of dead.ipynb stopped" in outcomes["dead"].error
    said = capsys.readouterr().out
    assert "1 of 4 jobs succeeded, no gates." in said
    assert "bad failed: bad.ipynb failed in cell 4" in said
    report = (out / "report.html").read_text()
    assert "3 jobs did not succeed." in report
    assert all(outcome.error.split(";")[0][:40] in report for outcome in outcomes.values())
    assert 'href="jobs/bad/bad.html"' in report
    assert "reached" in (out / "jobs" / "bad" / "bad.html").read_text()
    history = pd.read_parquet(out / "history.parquet")
    assert history[history["job"] == "good"].set_index("metric")["value"].to_dict() == {"em.kv": 0.8, "n": 3.0}
    assert history[history["job"] != "good"]["value"].isna().all()


def test_what_succeeded_and_has_not_changed_is_not_run_again(quick, tmp_path):
    fails = "import pathlib; assert pathlib.Path(out, '..', '..', 'go').exists()"
    notebooks = [("first", GOOD), ("second", GOOD), ("third", fails, GOOD)]
    jobs = [{"notebook": "first"}, {"notebook": "second", "after": ["first"]}, {"notebook": "third"}]
    path = nights.project(tmp_path, jobs, notebooks)
    out = tmp_path / "night"
    words = ["nightly", str(path), "--profile", "small", "--out", str(out)]
    assert main(words) == 2
    assert sorted(started(out)) == ["first", "second"]
    (out / "go").touch()
    assert main(words) == 0
    assert started(out)[2:] == ["third"]
    assert main(words) == 0
    assert len(started(out)) == 3
    # Another source: what comes after it runs again, too.
    nights.notebook(tmp_path / "notebooks", "first", GOOD, "1")
    assert main(words) == 0
    assert started(out)[3:] == ["first", "second"]
    assert main([*words, "size=4"]) == 0
    assert len(started(out)) == 8
    assert len(pd.read_parquet(out / "history.parquet").query("job == 'first' and metric == 'n'")) == 3


def test_jobs_of_one_shared_folder_never_run_together(quick, tmp_path):
    cell = """
        import pathlib, time
        (folder := pathlib.Path(run)).mkdir(parents=True, exist_ok=True)
        assert not (folder / "busy").exists()
        (folder / "busy").touch(); time.sleep(1); (folder / "busy").unlink()
    """
    path = nights.project(tmp_path, [{"notebook": name} for name in "ab"], [("a", cell), ("b", cell)])
    outcomes = running.run(plan(path, "small"), tmp_path / "night", jobs=2)
    assert [outcome.status for outcome in outcomes.values()] == ["ok", "ok"]


@pytest.fixture
def interruptible():
    """Where the tests run in a shell's background, SIGINT is ignored unless one sees to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_leaves_no_process_and_resumes(quick, interruptible, tmp_path, capsys):
    cell = """
        import os, pathlib, time
        if not (mark := pathlib.Path(out, "pid")).exists():
            mark.write_text(str(os.getpid()))
            time.sleep(100)
    """
    path = nights.project(tmp_path, [{"notebook": "a"}], [("a", cell)])
    out = tmp_path / "night"
    pid = out / "jobs" / "a" / "pid"

    def interrupt():
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    words = ["nightly", str(path), "--profile", "small", "--out", str(out)]
    assert main(words) == 130
    assert capsys.readouterr().err == "Interrupted; the same command resumes.\n"
    assert running.read_outcome(out, "a").status == "interrupted"
    assert not _lives(int(pid.read_text()))
    assert main(words) == 0  # the second attempt finds what the first one left


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_gates_from_their_derivation_to_their_failure(quick, tmp_path, capsys, monkeypatch):
    path = nights.project(tmp_path, [{"notebook": "a"}], [("a", GOOD)])
    out, baseline = tmp_path / "night", tmp_path / "tests" / "baselines" / "small.json"
    words = ["nightly", str(path), "--profile", "small", "--out", str(out)]
    assert main([*words, "--update-baselines", "--seeds", "1"]) == 2
    assert "give --seeds 2 or more" in capsys.readouterr().err

    assert main([*words, "--update-baselines"]) == 0
    said = capsys.readouterr().out
    assert "a: n is not gated: no chance value is known." in said
    assert "0.8 ± 0.016 (chance 0)" in said
    assert said.endswith("Nothing is written. Add --yes to write it.\n")
    assert not baseline.exists()

    assert main([*words, "--update-baselines", "--yes"]) == 0
    assert len(started(out)) == 1  # three seeds, once each; their folders are their own
    gate = json.loads(baseline.read_text())["jobs"]["a"]["metrics"]["em.kv"]
    spread = {"mean": 0.81, "spread": pytest.approx(0.0497, abs=1e-4)}  # of seeds with 0.80, 0.81 and 0.82
    assert gate == {"value": 0.8, "tolerance": 0.016, "chance": 0.0, **spread}

    assert main(words) == 0
    assert "1 of 1 gates passed" in capsys.readouterr().out
    monkeypatch.setenv("TEST_EM", "0.5")
    assert main([*words, "--fresh"]) == 1
    said = capsys.readouterr().out
    assert "1 of 1 gates failed" in said
    assert "regression" in said
    report = (out / "report.html").read_text()
    assert '<span class="bad">regression</span>' in report
    assert "-0.3" in report
    assert "<polyline" in report
    # Better fails as well, until it is accepted; another seed is held against the spread.
    monkeypatch.setenv("TEST_EM", "0.9")
    assert main([*words, "--fresh"]) == 1
    said = capsys.readouterr().out
    assert "better" in said
    assert "accept it with --update-baselines --yes" in said
    monkeypatch.setenv("TEST_EM", "0.8")
    assert main([*words, "seed=2"]) == 0
    assert "1 of 1 gates passed" in capsys.readouterr().out
    monkeypatch.setenv("TEST_EM", "0.9")
    assert main([*words, "seed=2", "--fresh"]) == 1
    # Other parameters than the baseline's: nothing to compare with.
    assert main([*words, "size=4"]) == 0
    assert "no gates" in capsys.readouterr().out


def answers(path, lost):
    """Those of a job that got so many of twenty questions wrong, and the rest right."""
    right = [float(i >= lost) for i in range(20)]
    rows = {"policy": "kv", "split": "unseen", "question_id": [f"q{i}" for i in range(20)], "rounds": 2, "em": right}
    changed.answers(pd.DataFrame(rows)).to_parquet(path)


# Copies them: six jobs would take seconds to import what makes them.
ANSWERS = """
import os, pathlib, shutil
shutil.copy(os.environ["TEST_ANSWERS"], pathlib.Path(out, "answers.parquet"))
"""


def test_answers_are_held_against_the_stored_ones(quick, tmp_path, capsys, monkeypatch):
    path = nights.project(tmp_path, [{"notebook": "a"}], [("a", GOOD, ANSWERS)])
    out, made = tmp_path / "night", tmp_path / "answers.parquet"
    words = ["nightly", str(path), "--profile", "small", "--out", str(out)]
    monkeypatch.setenv("TEST_ANSWERS", str(made))
    answers(made, lost=0)
    assert main([*words, "--update-baselines", "--yes"]) == 0
    assert len(pd.read_parquet(tmp_path / "tests" / "baselines" / "small.parquet")) == 20  # of the own seed alone
    for lost, code in ((2, 0), (3, 1)):
        answers(made, lost)
        capsys.readouterr()
        assert main([*words, "--fresh"]) == code
        assert f"{3 - code} of 3 gates passed" in capsys.readouterr().out
    assert "changed.kv.unseen" in (out / "report.html").read_text()
    assert main([*words, "seed=1"]) == 0  # other questions, which have no stored answers


VARIANTS = """
import json, pathlib
numbers = {"n": 4, "em": 0.5, "f1": 0.625, "rounds": 3.0, "abstention": 0.25}
numbers |= {"em_diff": [0.0, 0.0, 0.0], "rounds_ratio": 1.0}
kv = {**numbers, "em": 0.75, "rounds": 1.5, "em_diff": [0.25, -0.125, None], "rounds_ratio": 0.5}
summary = {"seconds": 1e6, "variants": {"no_logs": {"seen": numbers, "unseen": numbers}, "kv": {"unseen": kv}}}
pathlib.Path(out, "summary.json").write_text(json.dumps(summary))
"""


def test_the_table_of_variants_ends_the_run_that_asks_for_it(quick, tmp_path, capsys):
    path = nights.project(tmp_path, [{"notebook": "a"}], [("a", GOOD, VARIANTS)], summary="a")
    out = tmp_path / "night"
    words = ["nightly", str(path), "--profile", "small", "--out", str(out)]
    assert main(words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["unseen", "no_logs", "4", "50.0", "62.5", "3.00", "25%"] in lines
    assert ["kv", "4", "75.0", "62.5", "+25.0", "[-12.5,", "?]", "1.50", "0.50", "25%"] in lines
    assert lines[-1][-2:] == ["Report:", str(out / "report.html")]
    summary = json.loads((out / "summary.json").read_text())
    assert 0 < summary["seconds"] < 60
    assert summary["variants"]["kv"] == {
        "unseen": {
            **{"n": 4, "em": 0.75, "f1": 0.625, "rounds": 1.5, "abstention": 0.25},
            **{"em_diff": [0.25, -0.125, None], "rounds_ratio": 0.5},
        }
    }
    assert "+25.0 [-12.5, ?]" in (out / "report.html").read_text()
    assert main(words) == 0  # kept, with the seconds that it took
    assert 0 < json.loads((out / "summary.json").read_text())["seconds"] < 60


def test_a_job_without_a_summary_cannot_be_the_one(quick, tmp_path, capsys):
    path = nights.project(tmp_path, [{"notebook": "a"}], [("a", GOOD)], summary="a")
    assert main(["nightly", str(path), "--profile", "small", "--out", str(tmp_path / "night")]) == 2
    assert "The job a wrote no summary.json: name one that does" in capsys.readouterr().err


def test_two_runs_of_one_folder_are_refused(tmp_path, capsys):
    path = nights.project(tmp_path, [{"notebook": "a"}], [("a", GOOD)])
    (tmp_path / "night").mkdir()
    with FileLock(tmp_path / "night" / "lock"):
        assert main(["nightly", str(path), "--profile", "small", "--out", str(tmp_path / "night")]) == 2
    assert "Another nightly run is writing to" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--profile", "large"], ["--profile", "small", "speed=1"]])
def test_a_wrong_command_makes_nothing(tmp_path, capsys, words):
    path = nights.project(tmp_path, [{"notebook": "a"}], [("a", GOOD)])
    assert main(["nightly", str(path), "--out", str(tmp_path / "night"), *words]) == 2
    assert capsys.readouterr().err.startswith("lagkit: ")
    assert not (tmp_path / "night").exists()


def test_jobs_that_ran_side_by_side_count_once():
    at = "2026-01-01T00:00:{:02d}.000+00:00".format
    spans = [(30, 5.0), (0, 10.0), (4, 3.0), (8, 4.0)]
    jobs = [running.Outcome(str(i), "ok", "", at(start), seconds) for i, (start, seconds) in enumerate(spans)]
    assert running.covered(jobs) == pytest.approx(12 + 5)
    assert running.covered([]) == 0
