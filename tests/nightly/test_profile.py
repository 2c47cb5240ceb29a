"""Profiles are checked as a whole before anything runs: notebooks, parameters, types, order."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lagkit.nightly.gates import Baselines, comparable, load_answers
from lagkit.nightly.profile import Nightly, plan
from lagkit.nightly.run import code_hash, fingerprint
from lagkit.stats import changed
from lagkit.util.errors import ConfigError
from tests.helpers import nights

ROOT = Path(__file__).parents[2]
FILE = ROOT / "nightly.yaml"
PROFILES = Nightly.read(FILE).profiles
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
BASELINES = sorted((ROOT / "tests" / "baselines").glob("*.json"))


@pytest.fixture
def project(tmp_path):
    """Profiles over two notebooks, `a` and `b`, that are never run."""

    def write(jobs, **more):
        return nights.project(tmp_path, jobs, [("a", "1"), ("b", "2")], **more)

    return write


@pytest.mark.parametrize(
    ("jobs", "more", "message"),
    [
        ([{"notebook": "z"}], {}, r"z\.ipynb cannot be read"),
        ([{"notebook": "a", "parameters": {"sizes": 1}}], {}, r"a\.ipynb has no parameter 'sizes'; it has seed, size"),
        ([{"notebook": "a", "parameters": {"size": "big"}}], {}, r"parameter size of a\.ipynb is of type int: 'big'"),
        ([{"notebook": "a", "parameters": {"out": "x"}}], {}, "parameter out of a is chosen by the nightly run"),
        ([{"notebook": "a", "note": 1}], {}, r"jobs\.0\.note: Extra inputs are not permitted"),
        ([{"notebook": "a"}, {"notebook": "a"}], {}, "two jobs are called a: give one another `name`"),
        ([{"notebook": "a", "after": ["c"]}], {}, "after of a names 'c', which is no job of the profile: jobs are a"),
        ([{"notebook": "a"}], {"summary": "c"}, "summary names 'c', which is no job"),
        (
            [{"notebook": "a", "after": ["b"]}, {"notebook": "b", "after": ["a"]}],
            {},
            "jobs wait for each other: (a after b after a|b after a after b)",
        ),
        ([{"notebook": "a"}], {"parameters": {"sizes": 1}}, "No notebook of the profile small has .* 'sizes'"),
        ([{"notebook": "a"}], {"parameters": {"data": None}}, r"needs data: add data=VALUE\."),
        ([{"notebook": "a"}], {"parameters": {"data": "none"}}, "There is no data folder .*none: give another with"),
        ([{"notebook": "a"}], {"timeout": 0}, "timeout: Input should be greater than 0"),
        ([], {}, "jobs: Tuple should have at least 1 item"),
    ],
)
def test_a_wrong_profile_is_refused(project, jobs, more, message):
    with pytest.raises(ConfigError, match=message):
        plan(project(jobs, **more), "small")


def test_a_profile_that_is_not_there(project):
    with pytest.raises(ConfigError, match=r"nightly\.yaml has no profile 'large'; it has small\."):
        plan(project([{"notebook": "a"}]), "large")


def test_own_parameters_go_before_the_profile_s_and_overrides_before_both(project, tmp_path):
    (tmp_path / "questions").mkdir()
    path = project(
        [{"notebook": "a", "parameters": {"size": 5}}, {"notebook": "b", "name": "c"}],
        parameters={"size": 4, "seed": 1, "data": "questions"},
    )
    a, c = plan(path, "small").tasks
    data = str(tmp_path / "questions")
    assert a.parameters == {"size": 5, "seed": 1, "data": data}
    assert c.parameters == {"size": 4, "seed": 1, "data": data}
    assert (c.name, c.notebook.name, c.run, c.timeout) == ("c", "b.ipynb", "run", 600)
    a, c = plan(path, "small", {"size": 6}).tasks
    assert (a.parameters["size"], c.parameters["size"]) == (6, 6)
    with pytest.raises(ConfigError, match="No notebook of the profile small has a parameter 'speed'"):
        plan(path, "small", {"speed": 6})


def test_jobs_are_put_in_an_order_that_keeps_after(project):
    path = project([{"notebook": "a", "after": ["b"]}, {"notebook": "b"}])
    assert [task.name for task in plan(path, "small").tasks] == ["b", "a"]


def test_what_results_depend_on_changes_their_fingerprint(project):
    path, code = project([{"notebook": "a"}, {"notebook": "b"}]), code_hash()
    a, b = plan(path, "small").tasks
    other, same = plan(path, "small", {"size": 9}).tasks[0], plan(path, "small").tasks[0]
    assert code == code_hash()
    assert fingerprint(code, [a]) == fingerprint(code, [same])
    assert len({*(fingerprint(code, [task]) for task in (a, b, other)), fingerprint("else", [a])}) == 4
    before = fingerprint(code, [a])
    a.notebook.write_bytes(a.notebook.read_bytes() + b"\n")
    assert fingerprint(code, [a]) != before


def test_other_questions_in_the_same_folder_are_other_work(project, tmp_path):
    data = tmp_path / "questions"
    data.mkdir()
    (data / "dev_test.json").write_text("[1]")
    path = project([{"notebook": "a"}, {"notebook": "b"}])

    def found():
        wanted = plan(path, "small", {"data": str(data)})
        return [fingerprint("code", [task]) for task in wanted.tasks], fingerprint(
            "code", wanted.tasks, notebooks=False
        )

    (a, b), answers = found()
    (data / "dev_test.json").write_text("[2]")
    (other_a, other_b), other_answers = found()
    assert (other_a == a, other_b == b, other_answers == answers) == (False, False, False)


def test_the_test_profile_runs_every_notebook():
    listed = sorted(job.notebook for job in PROFILES["test"].jobs)
    assert listed == NOTEBOOKS, "add the notebook to the profile `test` of nightly.yaml, with tiny parameters"


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if not profile.cuda])
def test_each_profile_can_be_run(name, tmp_path):
    needed = {key: str(tmp_path) for key, value in PROFILES[name].parameters.items() if value is None}
    assert plan(FILE, name, needed).tasks


def test_a_profile_for_a_gpu_says_so_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="The profile paper needs a CUDA GPU"):
        plan(FILE, "paper", {"data": str(tmp_path)})


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_a_committed_baseline_belongs_to_its_profile_and_a_job_at_chance_fails(path):
    baselines, kept = Baselines.load(path), load_answers(path)
    needed = {key: str(ROOT) for key, value in PROFILES[path.stem].parameters.items() if value is None}
    tasks = {task.name: task for task in plan(FILE, path.stem, needed).tasks}
    assert sum(len(job.metrics) for job in baselines.jobs.values()) > 0
    for name, job in baselines.jobs.items():
        assert comparable(tasks[name].parameters) == job.parameters, "derive the baselines anew"
        assert all(gate.verdict(gate.value) == "ok" for gate in job.metrics.values())
        assert "regression" in {gate.verdict(gate.chance) for gate in job.metrics.values()}
        counted = {metric for metric in job.metrics if metric.startswith("changed.")}
        stored = changed.compared(kept[name], kept[name]).index if name in kept else ()
        assert counted == {f"changed.{policy}.{split}" for policy, split in stored}
    assert len(kept) >= {"demo": 3}.get(path.stem, 0), "these jobs answer questions"


def test_there_are_baselines():
    assert "demo" in {path.stem for path in BASELINES}
    assert yaml.safe_load(FILE.read_text())["profiles"].keys() == {"demo", "testbed", "real", "paper", "test"}
