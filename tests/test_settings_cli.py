"""Every argument of every command changes what its help says, or is refused; one without such a test fails.

Those of `benchmarks/` measure for minutes: of them it is only shown that the code reads each.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.core import TyperCommand as Command
from typer.main import get_command

from lagkit.__main__ import app as lagkit_app
from lagkit.__main__ import main
from lagkit.logs import vectors
from lagkit.logs.quantised import QuantisedSearch
from lagkit.logs.retrieve import HashEmbedder
from lagkit.logs.store import LogStore
from tests import test_settings_commands as others
from tests.faults.__main__ import app as faults_app
from tests.helpers import lms, stores
from tests.helpers.covered import Covered, fails
from tools.codec.__main__ import app as codec_app
from tools.codec.__main__ import main as measure
from tools.testbed.__main__ import app as world_app

shows = Covered()
ROOT = Path(__file__).parents[1]
SAMPLE = str(lms.SAMPLE)


def arguments(command: Command, prefix: str) -> Iterator[str]:
    """Their names behind the words of their command, such as `store search -k`; not `--help`."""
    for word, inner in getattr(command, "commands", {}).items():
        yield from arguments(inner, f"{prefix}{word} ")
    for parameter in command.params:
        yield prefix + (parameter.name if parameter.param_type_name == "argument" else parameter.opts[-1])


def test_no_argument_is_without_a_test():
    """The tests are here and in `tests/test_settings_commands.py`."""
    apps = {"": lagkit_app, "codec ": codec_app, "tools.testbed ": world_app, "faults ": faults_app}
    found = {name for prefix, app in apps.items() for name in arguments(get_command(app), prefix)}
    assert set(shows.names) | set(others.shows.names) == found


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_read_each_of_their_arguments(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "add_argument"]
    names = {call.args[0].value.lstrip("-").replace("-", "_") for call in calls}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}  # as `getattr` has them
    assert names <= attributes | words


# run, encode


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lms.saved(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tier(tmp_path: Path, model: Path) -> Path:
    """A file of settings: two logs, one question, one round."""
    settings = {
        **{"data": SAMPLE, "out": str(tmp_path / "out"), "model": str(model), "embedder": "hash", "dtype": "float32"},
        **{"device": "cpu", "wording": "plain", "log_questions": 2, "unseen_questions": 1, "splits": ["unseen"]},
        **{"max_rounds": 1, "max_new_tokens": 4, "policies": ["no_logs", "kv_last_round"]},
    }
    path = tmp_path / "tier.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@shows("run tier", "run changes", "encode tier", "encode changes")
@pytest.mark.parametrize("command", ["run", "encode"])
def test_settings_come_from_the_tier_and_set_goes_before_it(tier, tmp_path, command):
    assert main([command, str(tier)]) == 0
    assert main([command, str(tier), f"out={tmp_path / 'b'}", "log_questions=3", "codec=int8"]) == 0
    for out, logs, codec in ((tmp_path / "out", 2, "none"), (tmp_path / "b", 3, "int8")):
        with LogStore.open(out / "store") as store:
            assert (len(store), store.codec) == (logs, codec)
        assert (out / "report.md").exists() is (command == "run")


@pytest.mark.parametrize("name", ["tier", "cls"])
def test_names_of_parameters_are_no_settings(tier, capsys, name):
    assert f"{name}: Extra inputs are not permitted" in fails(capsys, main, "run", tier, f"{name}=x")


@shows("run --ray", "run --gpus-per-worker", "run --threads-per-worker", "run --workers")
@shows("encode --ray", "encode --gpus-per-worker", "encode --threads-per-worker", "encode --workers")
@pytest.mark.parametrize("command", ["run", "encode"])
def test_options_of_workers_are_refused_where_they_change_nothing(tier, capsys, command):
    """What they change where there are workers: `test_workers_have_what_was_asked_for`."""
    for option in ("--ray=auto", "--gpus-per-worker=1", "--threads-per-worker=1"):
        assert f"{option.partition('=')[0]} is for workers" in fails(capsys, main, command, tier, option)
    assert "cannot be used" in fails(capsys, main, command, tier, "--workers", "1", "--ray", "127.0.0.1:1")
    for option in ("--workers", "--threads-per-worker"):
        assert "should be greater than or equal to 1" in fails(capsys, main, command, tier, option, "0")
    assert "cannot have -1 GPUs" in fails(capsys, main, command, tier, "--workers=1", "--gpus-per-worker=-1")


def with_workers(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; again where Ray gave its start up, as it does on busy machines."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for _ in range(4):
        command = [sys.executable, "-m", "lagkit", *map(str, words)]
        told = subprocess.run(command, capture_output=True, text=True, env=plain | {"HOME": str(home)})
        if "timed out during startup" not in told.stderr:
            break
    return told


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_workers_have_what_was_asked_for(tier, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'lagkit[cluster]'")
    home = tmp_path / "home"
    home.mkdir()
    told = with_workers(home, "run", tier, "--workers", 2, "--threads-per-worker", 1, "--gpus-per-worker", 0)
    assert told.returncode == 0, told.stderr
    assert not (home / ".ray").exists()
    assert not re.search(r"\bRay\b|raylet", told.stdout + told.stderr)
    [session] = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["sessions"]
    given = {name: session["workers"][name] for name in ("count", "gpus", "threads")}
    assert given == {"count": 2, "gpus": 0, "threads": 1}
    many = with_workers(home, "encode", tier, f"out={tmp_path / 'b'}", "--workers=1", "--gpus-per-worker=99")
    assert (many.returncode, "1 workers want 99 each" in many.stderr) == (2, True), many.stderr


# ask


@shows("ask folder", "ask question", "ask --variant")
def test_ask_prints_the_rounds_the_logs_and_the_answer_of_each_variant(tier, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", str(tier)]) == 0
    with LogStore.open(out / "store") as logs:
        asked = {log: logs.get(log).question for log in logs.ids}
    capsys.readouterr()
    assert main(["ask", str(out), "Who is it?", "--variant", "no_logs", "--variant", "kv_last_round+logs=2"]) == 0
    plain, reused = capsys.readouterr().out.split("kv_last_round+logs=2, round 1")
    assert "no_logs, round 1" in plain
    assert "  log " not in plain
    found = [line.split(maxsplit=3) for line in reused.splitlines() if line.startswith("  log ")]
    assert {log: question for _, log, _, question in found} == asked
    assert "\nWho is it?\n" in reused
    assert [line.split()[0] for line in reused.splitlines()[-2:]] == ["no_logs", "kv_last_round+logs=2"]
    assert main(["ask", str(out), "Who is it?"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]] == ["no_logs", "kv_last_round"]
    assert "There is no run in" in fails(capsys, main, "ask", tmp_path / "none", "Who?")
    assert "Unknown policy 'kv_magic'" in fails(capsys, main, "ask", out, "Who?", "--variant", "kv_magic")


# store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six logs by an embedder that cannot be loaded."""
    with stores.new_store(tmp_path / "store") as made:
        stores.fill(made, range(6))
    return tmp_path / "store"


@shows("store summary place", "store prune place", "store prune --max-bytes")
def test_prune_goes_down_to_so_many_bytes(store, tmp_path):
    assert main(["store", "prune", str(store)]) == 0
    with LogStore.open(store) as before:
        assert len(before) == 6
        fewer = before.nbytes - 1
    assert main(["store", "prune", str(store), "--max-bytes", str(fewer)]) == 0
    with LogStore.open(store) as after:
        assert 0 < len(after) < 6
        assert after.nbytes <= fewer


@shows("store export place", "store export file", "store import place", "store import file")
@shows("store copy place", "store copy target", "store verify place")
def test_what_leaves_a_store_lands_where_it_was_sent(store, tmp_path, capsys):
    assert main(["store", "export", str(store), str(tmp_path / "logs.tar")]) == 0
    assert main(["store", "import", str(tmp_path / "imported"), str(tmp_path / "logs.tar")]) == 0
    assert main(["store", "copy", str(store), str(tmp_path / "copied")]) == 0
    for name in ("imported", "copied"):
        with LogStore.open(store) as before, LogStore.open(tmp_path / name) as after:
            assert stores.content(before) == stores.content(after)


@shows("store search place", "store search text", "store search -k", "store search --exact")
def test_search_finds_so_many_logs_and_exactly_if_asked(store, capsys, monkeypatch):
    """Codes, which are asked from four logs on, find nothing here."""
    monkeypatch.setattr("lagkit.logs.retrieve.load_embedder", lambda name: HashEmbedder(stores.DIM))
    monkeypatch.setattr(vectors, "QUANTISED_FROM", 4)
    monkeypatch.setattr(QuantisedSearch, "search", lambda self, rows, *_: [[] for _ in rows])

    def lines(*words: str) -> list[str]:
        assert main(["store", "search", str(store), *words]) == 0
        return capsys.readouterr().out.splitlines()

    assert [len(lines("Who?")), len(lines("Who?", "--exact")), len(lines("Who?", "--exact", "-k", "5"))] == [0, 3, 5]
    assert lines("Who is it?", "--exact", "-k", "6") != lines("Where did the river flow?", "--exact", "-k", "6")
    assert "should be greater than or equal to 1" in fails(capsys, main, "store", "search", store, "Who?", "-k", "0")


# overlap


@shows("overlap folders", "overlap --dataset")
def test_overlap_shows_each_folder_by_its_layout(tmp_path, capsys):
    shutil.copytree(SAMPLE, tmp_path / "mine")
    assert "no data layout is called 'mine'" in fails(capsys, main, "overlap", tmp_path / "mine")
    assert main(["overlap", SAMPLE, str(tmp_path / "mine"), "--dataset", "musique"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "|  | sample | mine |"


# codec


@shows("codec words", "codec --policy", "codec --cases", "codec --out", "codec --page")
def test_codec_refuses_settings_that_it_decides_itself(tier, tmp_path, capsys):
    """What its options change: `test_codec_measures_what_was_asked_for`."""
    out = ("--out", tmp_path / "codecs")
    for setting, instead in (
        ("out=x", "give --out"),
        ("policies=[no_logs]", "give --policy"),
        ("codec=int8", "all are"),
    ):
        assert instead in fails(capsys, measure, tier, *out, setting)
    assert "keeps no KV of whole logs" in fails(capsys, measure, tier, *out, "--policy", "text_last_round")
    assert "should be greater than or equal to 1" in fails(capsys, measure, tier, *out, "--cases", "0")


@pytest.mark.slow
def test_codec_measures_what_was_asked_for(tier, tmp_path, capsys, monkeypatch):
    from tools.codec import loss

    asked, meet = [], loss.meet
    monkeypatch.setattr(loss, "meet", lambda run, n: asked.append(n) or meet(run, n))
    out, page = tmp_path / "codecs", tmp_path / "pages" / "codec.md"
    words = [str(tier), "--out", str(out), "log_questions=3", "unseen_questions=2"]
    assert measure([*words, "--cases", "1", "--policy", "kv_all_rounds+logs=1", "--page", str(page)]) == 0
    assert page.read_text(encoding="utf-8") in capsys.readouterr().out
    assert set(asked) == {1}
    with LogStore.open(out / "tier" / "store") as store:
        assert {key for log in store for key in store.block_keys(log)} == {"responses.all_rounds.bare"}
        assert len(store) == 3
    journal = out / "tier" / "traces" / "kv_all_rounds+logs=1.codec.jsonl"
    rounds = [json.loads(line)["rounds"] for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [len(own[0]["logs"]) for own in rounds] == [1, 1]
