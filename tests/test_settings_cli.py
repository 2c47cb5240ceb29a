"""Every argument of every command changes what its help says, or is refused; one without such a test fails.

Those of `benchmarks/` measure for minutes: of them it is only shown that the code reads each.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lagkit.__main__ import main
from lagkit.logs import vectors
from lagkit.logs.coded import CodedLogs
from lagkit.logs.retrieve import HashEmbedder
from lagkit.logs.store import LogStore
from tests import lms, stores
from tests import test_settings_commands as others
from tests.covered import Covered, fails, misused

shows = Covered()
ROOT = Path(__file__).parents[1]
MODULES = ("lagkit.__main__", "lagkit.nightly.notebook", "tools.testbed.__main__", "lagkit.nightly.gallery.__main__")
SAMPLE = str(lms.SAMPLE)


class _Caught(BaseException):
    """A parser on its way out of `main`."""


def parser_of(run: Callable[[], object]) -> argparse.ArgumentParser:
    """The parser with which a `main` reads its arguments."""

    def caught(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Caught(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", caught)
        with pytest.raises(_Caught) as stopped:
            run()
    [parser] = stopped.value.args
    return parser


def arguments(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[str]:
    """Their names behind the words of their command, such as `store search -k`; not `--help`, nor what is hidden."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from arguments(command, f"{prefix}{word} ")
        elif action.dest != "help" and action.help != argparse.SUPPRESS:
            yield prefix + (action.option_strings[-1] if action.option_strings else action.dest)


def test_no_argument_is_without_a_test():
    """The tests are here and in `tests/test_settings_commands.py`."""
    found = set()
    for module in MODULES:
        command = module.removeprefix("lagkit").removesuffix("__main__").strip(".")
        parser = parser_of(lambda module=module: importlib.import_module(module).main([]))
        found |= set(arguments(parser, f"{command} ".lstrip()))
    found |= set(arguments(parser_of(importlib.import_module("tests.faults.__main__").main), "faults "))
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


@shows("run tier", "run --set", "encode tier", "encode --set")
@pytest.mark.parametrize("command", ["run", "encode"])
def test_settings_come_from_the_tier_and_set_goes_before_it(tier, tmp_path, command):
    assert main([command, str(tier)]) == 0
    assert main([command, str(tier), "--set", f"out={tmp_path / 'b'}", "log_questions=3", "--set", "codec=int8"]) == 0
    for out, logs, codec in ((tmp_path / "out", 2, "none"), (tmp_path / "b", 3, "int8")):
        with LogStore.open(out / "store") as store:
            assert (len(store), store.codec) == (logs, codec)
        assert (out / "report.md").exists() is (command == "run")


@pytest.mark.parametrize("name", ["tier", "cls"])
def test_names_of_parameters_are_no_settings(tier, capsys, name):
    assert f"{name}: Extra inputs are not permitted" in fails(capsys, main, "run", tier, "--set", f"{name}=x")


@shows("run --ray", "run --gpus-per-worker", "run --threads-per-worker", "run --workers")
@shows("encode --ray", "encode --gpus-per-worker", "encode --threads-per-worker", "encode --workers")
@pytest.mark.parametrize("command", ["run", "encode"])
def test_options_of_workers_are_refused_where_they_change_nothing(tier, capsys, command):
    """What they change where there are workers: `test_workers_have_what_was_asked_for`."""
    for option in ("--ray=auto", "--gpus-per-worker=1", "--threads-per-worker=1"):
        assert f"{option.partition('=')[0]} is for workers" in fails(capsys, main, command, tier, option)
    assert "cannot be used" in fails(capsys, main, command, tier, "--workers", "1", "--ray", "127.0.0.1:1")
    for option in ("--workers", "--threads-per-worker"):
        assert "'0' is no whole number above zero" in misused(capsys, main, command, tier, option, "0")
    assert "cannot have -1 GPUs" in fails(capsys, main, command, tier, "--workers=1", "--gpus-per-worker=-1")


def with_workers(*words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; again where Ray gave its start up, as it does on busy machines."""
    for _ in range(4):
        command = [sys.executable, "-m", "lagkit", *map(str, words)]
        told = subprocess.run(command, capture_output=True, text=True)
        if "timed out during startup" not in told.stderr:
            break
    return told


@pytest.mark.slow
def test_workers_have_what_was_asked_for(tier, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'lagkit[cluster]'")
    told = with_workers("run", tier, "--workers", 2, "--threads-per-worker", 1, "--gpus-per-worker", 0)
    assert told.returncode == 0, told.stderr
    [session] = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["sessions"]
    given = {name: session["workers"][name] for name in ("count", "gpus", "threads")}
    assert given == {"count": 2, "gpus": 0, "threads": 1}
    many = with_workers("encode", tier, "--set", f"out={tmp_path / 'b'}", "--workers=1", "--gpus-per-worker=99")
    assert (many.returncode, "1 workers want 99 each" in many.stderr) == (2, True), many.stderr


# store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six logs by an embedder that cannot be loaded."""
    with stores.new_store(tmp_path / "store") as made:
        stores.fill(made, range(6))
    return tmp_path / "store"


@shows("store path", "store prune --max-bytes")
def test_prune_goes_down_to_so_many_bytes(store, tmp_path):
    assert main(["store", str(store), "prune"]) == 0
    with LogStore.open(store) as before:
        assert len(before) == 6
        fewer = before.nbytes - 1
    assert main(["store", str(store), "prune", "--max-bytes", str(fewer)]) == 0
    with LogStore.open(store) as after:
        assert 0 < len(after) < 6
        assert after.nbytes <= fewer


@shows("store export file", "store import file", "store copy target")
def test_what_leaves_a_store_lands_where_it_was_sent(store, tmp_path, capsys):
    assert main(["store", str(store), "export", str(tmp_path / "logs.tar")]) == 0
    assert main(["store", str(tmp_path / "imported"), "import", str(tmp_path / "logs.tar")]) == 0
    assert main(["store", "copy", str(store), str(tmp_path / "copied")]) == 0
    for name in ("imported", "copied"):
        with LogStore.open(store) as before, LogStore.open(tmp_path / name) as after:
            assert stores.content(before) == stores.content(after)


@shows("store search text", "store search -k", "store search --exact")
def test_search_finds_so_many_logs_and_exactly_if_asked(store, capsys, monkeypatch):
    """Codes, which are asked from four logs on, find nothing here."""
    monkeypatch.setattr("lagkit.logs.retrieve.load_embedder", lambda name: HashEmbedder(stores.DIM))
    monkeypatch.setattr(vectors, "CODED_FROM", 4)
    monkeypatch.setattr(CodedLogs, "search", lambda self, rows, *_: [[] for _ in rows])

    def lines(*words: str) -> list[str]:
        assert main(["store", str(store), "search", *words]) == 0
        return capsys.readouterr().out.splitlines()

    assert [len(lines("Who?")), len(lines("Who?", "--exact")), len(lines("Who?", "--exact", "-k", "5"))] == [0, 3, 5]
    assert lines("Who is it?", "--exact", "-k", "6") != lines("Where did the river flow?", "--exact", "-k", "6")
    assert "'0' is no whole number above zero" in misused(capsys, main, "store", store, "search", "Who?", "-k", "0")


# overlap


@shows("overlap folders", "overlap --dataset")
def test_overlap_shows_each_folder_by_its_layout(tmp_path, capsys):
    shutil.copytree(SAMPLE, tmp_path / "mine")
    assert "no data layout is called 'mine'" in fails(capsys, main, "overlap", tmp_path / "mine")
    assert main(["overlap", SAMPLE, str(tmp_path / "mine"), "--dataset", "musique"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "|  | sample | mine |"


# codec


@shows("codec tiers", "codec --set", "codec --policy", "codec --cases", "codec --out", "codec --page")
def test_codec_refuses_settings_that_it_decides_itself(tier, tmp_path, capsys):
    """What its options change: `test_codec_measures_what_was_asked_for`."""
    out = ("--out", tmp_path / "codecs")
    for setting, instead in (
        ("out=x", "give --out"),
        ("policies=[no_logs]", "give --policy"),
        ("codec=int8", "all are"),
    ):
        assert instead in fails(capsys, main, "codec", tier, *out, "--set", setting)
    assert "keeps no KV of whole logs" in fails(capsys, main, "codec", tier, *out, "--policy", "text_last_round")
    assert "'0' is no whole number above zero" in misused(capsys, main, "codec", tier, *out, "--cases", "0")


@pytest.mark.slow
def test_codec_measures_what_was_asked_for(tier, tmp_path, capsys, monkeypatch):
    from lagkit.studies import codecs

    asked, meet = [], codecs.meet
    monkeypatch.setattr(codecs, "meet", lambda run, n: asked.append(n) or meet(run, n))
    out, page = tmp_path / "codecs", tmp_path / "pages" / "codec.md"
    words = ["codec", str(tier), "--out", str(out), "--set", "log_questions=3", "unseen_questions=2"]
    assert main([*words, "--cases", "1", "--policy", "kv_all_rounds+logs=1", "--page", str(page)]) == 0
    assert page.read_text(encoding="utf-8") in capsys.readouterr().out
    assert set(asked) == {1}
    with LogStore.open(out / "tier" / "store") as store:
        assert {key for log in store for key in store.block_keys(log)} == {"responses.all_rounds.bare"}
        assert len(store) == 3
    journal = out / "tier" / "traces" / "kv_all_rounds+logs=1.codec.jsonl"
    rounds = [json.loads(line)["rounds"] for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [len(own[0]["logs"]) for own in rounds] == [1, 1]
