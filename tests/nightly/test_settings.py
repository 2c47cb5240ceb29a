"""Every key of `nightly.yaml`, of its profiles and of their jobs changes what it says it changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lagkit.__main__ import main
from lagkit.nightly import run as running
from lagkit.nightly.profile import Job, Nightly, Plan, Profile, plan
from lagkit.util.errors import ConfigError
from tests.helpers import nights
from tests.helpers.covered import Covered
from tests.nightly.test_run import VARIANTS

shows = Covered()
QUICK = (sys.executable, "-c", nights.QUICK)


def written(root: Path, *jobs: dict[str, Any], top: dict[str, Any] | None = None, **profile: Any) -> Path:
    """A `nightly.yaml` with the profile `small` over the notebooks `a` and `b`; `top` are keys beside the profiles."""
    path = nights.project(root, list(jobs) or [{"notebook": "a"}], [("a", nights.MEASURE), ("b", "2")], **profile)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **(top or {})}))
    return path


def planned(root: Path, *jobs: dict[str, Any], **more: Any) -> Plan:
    return plan(written(root, *jobs, **more), "small")


def night(root: Path, path: Path, *words: str, code: int = 0) -> Path:
    """The folder of a night by the command line, whose jobs start no kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "COMMAND", QUICK)
        assert main(["nightly", str(path), "--profile", "small", "--out", str(root / "night"), *words]) == code
    return root / "night"


def test_no_key_is_without_a_test():
    keys = {f"{kind.__name__} {key}" for kind in (Nightly, Profile, Job) for key in kind.model_fields}
    assert set(shows.names) == keys


@shows("Job notebook", "Job name", "Job parameters", "Job after", "Job run", "Job timeout", "Profile jobs")
def test_a_job_is_what_its_keys_say(tmp_path):
    [plain] = planned(tmp_path, {"notebook": "a"}).tasks
    assert (plain.name, plain.notebook.name, plain.parameters) == ("a", "a.ipynb", {"seed": 0})
    assert (plain.after, plain.run, plain.timeout) == ((), "run", 600)
    own = {"name": "c", "parameters": {"size": 5}, "after": ["a"], "run": "other", "timeout": 7}
    first, second = planned(tmp_path, {"notebook": "b", **own}, {"notebook": "a"}).tasks
    assert first == plain
    assert (second.name, second.notebook.name, second.parameters) == ("c", "b.ipynb", {"seed": 0, "size": 5})
    assert (second.after, second.run, second.timeout) == (("a",), "other", 7)


@shows("Job run", "Job after", "Job name", "Job parameters")
def test_jobs_share_the_answers_of_their_run_and_are_told_their_parameters(tmp_path):
    jobs = [{"notebook": "a", "after": ["b"]}, {"notebook": "a", "name": "b", "run": "x", "parameters": {"size": 9}}]
    out = night(tmp_path, written(tmp_path, *jobs))
    told = {name: json.loads((out / "jobs" / name / "job.json").read_text())["parameters"] for name in "ab"}
    assert [Path(given["run"]).name for given in told.values()] == ["run", "x"]
    assert [given.get("size") for given in told.values()] == [None, 9]
    assert (out / "jobs" / "times.txt").read_text().split() == ["b", "a"]


@shows("Job timeout", "Profile timeout")
@pytest.mark.parametrize("where", ["job", "profile"])
def test_a_job_that_takes_longer_is_ended(tmp_path, where):
    nights.notebook(tmp_path / "notebooks", "slow", "import time; time.sleep(60)")
    job, profile = ({"timeout": 1}, {}) if where == "job" else ({}, {"timeout": 1})
    out = night(tmp_path, written(tmp_path, {"notebook": "slow", **job}, **profile), code=2)
    outcome = running.read_outcome(out, "slow")
    assert (outcome.status, outcome.error) == ("timeout", "It took more than 1 s.")


@shows("Profile about", "Profile parameters", "Nightly profiles")
def test_a_profile_is_described_and_has_parameters_for_all_its_jobs(tmp_path):
    profile = {"about": "Ten <b> questions.", "parameters": {"seed": 3, "size": 8}}
    out = night(tmp_path, written(tmp_path, {"notebook": "a"}, {"notebook": "b"}, **profile))
    assert "Ten &lt;b&gt; questions." in (out / "report.html").read_text()
    for name in "ab":
        given = json.loads((out / "jobs" / name / "job.json").read_text())["parameters"]
        assert (given["seed"], given["size"]) == (3, 8)
    with pytest.raises(ConfigError, match="has no profile 'large'; it has small"):
        plan(tmp_path / "nightly.yaml", "large")


@shows("Profile summary")
def test_the_summary_is_that_of_the_job_that_is_named(tmp_path):
    nights.notebook(tmp_path / "notebooks", "sums", VARIANTS)
    path = written(tmp_path, {"notebook": "sums"})
    assert not (night(tmp_path, path) / "summary.json").exists()
    out = night(tmp_path, written(tmp_path, {"notebook": "sums"}, summary="sums"))
    assert set(json.loads((out / "summary.json").read_text())["variants"]) == {"no_logs", "kv"}


@shows("Profile cuda")
def test_a_profile_for_a_gpu_is_refused_where_there_is_none(tmp_path, monkeypatch):
    for there in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert len(planned(tmp_path).tasks) == 1
        if there:
            assert len(planned(tmp_path, cuda=True).tasks) == 1
        else:
            with pytest.raises(ConfigError, match="The profile small needs a CUDA GPU"):
                planned(tmp_path, cuda=True)


@shows("Nightly notebooks", "Nightly baselines", "Nightly chance", "Nightly tolerance")
def test_notebooks_and_baselines_are_in_their_folders_and_gates_go_by_chance_and_tolerance(tmp_path):
    def gates(top: dict[str, Any], kept: Path) -> dict[str, dict[str, float]]:
        night(tmp_path, written(tmp_path, top=top), "--fresh", "--update-baselines", "--seeds", "2", "--yes")
        return json.loads(kept.read_text())["jobs"]["a"]["metrics"]

    before = gates({}, tmp_path / "tests" / "baselines" / "small.json")
    assert set(before) == {"em.kv"}
    assert (before["em.kv"]["value"], before["em.kv"]["chance"]) == (0.8, 0.0)
    (tmp_path / "notebooks").rename(tmp_path / "moved")
    top = {"notebooks": "moved", "baselines": "kept"}
    top |= {"chance": {"a": {"em.*": 0.25, "n": 1.0}}, "tolerance": {"a": {"em.*": 0.125}}}
    after = gates(top, tmp_path / "kept" / "small.json")
    assert set(after) == {"em.kv", "n"}
    assert (after["em.kv"]["chance"], after["em.kv"]["tolerance"]) == (0.25, 0.125)
    assert before["em.kv"]["tolerance"] != 0.125
    assert planned(tmp_path, top=top).tasks[0].notebook == tmp_path / "moved" / "a.ipynb"
