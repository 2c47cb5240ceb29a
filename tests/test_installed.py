"""lagkit as a user installs it: a wheel from a source archive, unpacked elsewhere, used in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"


def call(words: list[str], cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python with these words, `path` in place of the checkout, and no bytecode written."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", minversion="77", reason="wheels are built by setuptools, which is not there")
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    made = call(["-c", SDIST], source)
    assert made.returncode == 0, made.stderr
    [archive] = (source / "dist").glob("*.tar.gz")
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", archive]
    made = call([str(word) for word in words], source)
    assert made.returncode == 0, made.stderr
    [found] = (source / "dist").glob("*.whl")
    return found.rename(tmp_path_factory.mktemp("dist") / found.name)


@pytest.fixture
def installed(wheel, tmp_path) -> Path:
    """The folder of an installation, in a repository that has nothing to do with lagkit."""
    for words in (["init", "-q"], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm.", "--allow-empty"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", "site", str(wheel)]
    made = call(words, tmp_path)
    assert made.returncode == 0, made.stderr
    (tmp_path / "empty").mkdir()
    return tmp_path / "site"


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_wheel_holds_every_module_and_what_the_commands_offer(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [scripts] = [archive.read(name).decode() for name in names if name.endswith("/entry_points.txt")]
    assert "lagkit = lagkit.__main__:main" in scripts.splitlines()
    held = {name.removeprefix("lagkit/_bundled/") for name in names}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "lagkit").rglob("*.py")} <= names
    for folder in ("notebooks", "data/sample", "data/testbed/model", "tests/baselines"):
        assert {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).iterdir() if path.is_file()} <= held
    assert {"nightly.yaml", "data/README.md"} <= held
    assert wheel.stat().st_size < 7_000_000


USED = """
from lagkit.datasets import loaders as data
from lagkit.model import hub
from lagkit.runs import manifest
from lagkit.util import home
from lagkit.__main__ import main
print(manifest.git_state(), hub.resolve_model("testbed"))
print(len(data.load(home.laboratory() / "data" / "sample", "musique").seen))
print(main(["nightly", "--profile", "none"]), main(["nightly", "--update-baselines", "--yes"]))
"""


def test_profiles_model_and_data_are_found_in_an_empty_folder(installed):
    before, empty = files(installed), installed.parent / "empty"
    told = call(["-c", USED], empty, installed)
    model = installed / "lagkit" / "_bundled" / "data" / "testbed" / "model"
    assert told.stdout.split() == ["None", str(model), "150", "2", "2"], told.stderr
    assert "nightly.yaml has no profile 'none'; it has demo, testbed, real, paper, test." in told.stderr
    assert "The baselines of an installed lagkit stay as they are" in told.stderr
    assert files(installed) == before
    assert [path.name for path in empty.iterdir()] == ["runs"]


@pytest.mark.slow
def test_the_demo_runs_in_an_empty_folder_and_writes_nowhere_else(installed):
    before, empty, bundled = files(installed), installed.parent / "empty", installed / "lagkit" / "_bundled"
    # The first job of the demo is its largest; all four would take minutes.
    nightly = yaml.safe_load((bundled / "nightly.yaml").read_text(encoding="utf-8"))
    nightly["profiles"]["demo"]["jobs"] = nightly["profiles"]["demo"]["jobs"][:1]
    nightly["notebooks"] = str(bundled / "notebooks")
    (empty / "nightly.yaml").write_text(yaml.safe_dump(nightly), encoding="utf-8")
    small = ["log_questions=30", "unseen_questions=12", "seen_questions=6", "policies=[kv_last_round]"]
    told = call(["-m", "lagkit", "nightly", "--profile", "demo", "--out", "X", *small], empty, installed)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "1 of 1 jobs succeeded, no gates" in told.stdout
    [job] = empty.glob("X/jobs/*/job.json")
    assert Path(json.loads(job.read_text(encoding="utf-8"))["notebook"]).parent == bundled / "notebooks"
    given = ["-p", "log_questions", "30"]
    told = call(
        ["-m", "lagkit", "notebook", str(bundled / "notebooks" / "01_build_logs.ipynb"), "mine", *given],
        empty,
        installed,
    )
    assert told.returncode == 0, told.stderr
    assert {path.name for path in empty.iterdir()} == {"nightly.yaml", "X", "mine"}
    assert (empty / "mine" / "run" / "manifest.json").exists()
    assert files(installed) == before
