"""The command line, in-process: what it prints, its exit codes, and every kind of bad input that reaches it."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lagkit.__main__ import main
from lagkit.logs.store import LogStore
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.util import files
from tests.helpers import lms, stores

SAMPLE = "data/sample"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lms.saved(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def config(tmp_path, model):
    """A run file with three logs, two unseen questions and two short rounds."""

    def write(**changes):
        settings = {
            **{"data": SAMPLE, "out": str(tmp_path / "out"), "model": str(model), "embedder": "hash"},
            **{"device": "cpu", "dtype": "float32", "policies": ["no_logs", "kv_last_round"], "splits": ["unseen"]},
            **{"log_questions": 3, "unseen_questions": 2, "max_rounds": 1, "max_new_tokens": 4, "logs": 1},
            **{"wording": "plain"},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({**settings, **changes}))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def fails(capsys, *argv):
    """The sentence with which a command fails; checks that it is one line on stderr, and the exit code."""
    assert main([str(word) for word in argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("lagkit: ")
    assert said.count("\n") == 1
    return said.removeprefix("lagkit: ").strip()


def test_run_prints_both_tables_and_says_where_the_files_are(config, capsys, tmp_path):
    assert main(["run", config()]) == 0
    said = capsys.readouterr().out
    assert "Summary of 4 answers" in said
    assert "Differences to no_logs" in said
    assert str(tmp_path / "out") in said
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert list(results.groupby("policy", sort=False).size().items()) == [("no_logs", 2), ("kv_last_round", 2)]
    assert not results["failed"].any()


def test_run_again_answers_nothing_anew(config, capsys, tmp_path):
    path = config()
    main(["run", path])
    first = capsys.readouterr().out
    journals = {file: file.read_bytes() for file in (tmp_path / "out" / "traces").iterdir()}
    assert main(["run", path]) == 0
    assert capsys.readouterr().out == first
    assert len(journals) == 3
    assert {file: file.read_bytes() for file in journals} == journals


def test_settings_have_yaml_values(config, tmp_path):
    assert main(["run", config(), "policies=[no_logs]", "unseen_questions=1", "log_questions=2"]) == 0
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert settings["policies"] == ["no_logs"]
    assert (settings["unseen_questions"], settings["log_questions"]) == (1, 2)
    assert len(pd.read_parquet(tmp_path / "out" / "results.parquet")) == 1


def test_encode_stops_at_the_logs(config, capsys, tmp_path):
    assert main(["encode", config()]) == 0
    said = capsys.readouterr().out
    assert "3 logs" in said
    assert "responses.last_round.bare" in said
    assert [file.name for file in (tmp_path / "out" / "traces").iterdir()] == ["log.jsonl"]
    with LogStore.open(tmp_path / "out" / "store") as store:
        assert [store.block_keys(log) for log in store] == [["responses.last_round.bare"]] * 3


def test_interrupted_run_says_so_and_resumes(config, capsys, tmp_path, monkeypatch):
    path, append = config(), Journal.append

    def interrupted(self, trace, basis):
        append(self, trace, basis)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", interrupted)
    assert main(["run", path]) == 130
    assert capsys.readouterr().err == "Interrupted; the same command resumes.\n"
    log = tmp_path / "out" / "traces" / "log.jsonl"
    kept = log.read_bytes()
    assert kept.count(b"\n") == 1
    monkeypatch.undo()
    assert main(["run", path]) == 0
    assert log.read_bytes().startswith(kept)
    assert log.read_bytes().count(b"\n") == 3


def test_bad_settings(config, capsys, tmp_path):
    assert "nothing.yaml is missing" in fails(capsys, "run", tmp_path / "nothing.yaml")
    assert "seeed: Extra inputs are not permitted (keys are out, policies, data, " in fails(
        capsys, "run", config(seeed=1)
    )
    assert "seed: Input should be a valid integer" in fails(capsys, "run", config(), "seed=soon")
    assert "Unknown policy 'kv_magic'" in fails(capsys, "run", config(policies=["no_logs", "kv_magic"]))
    assert "no_logs must be among them" in fails(capsys, "run", config(policies=["kv_last_round"]))
    assert fails(capsys, "run", config(), "seed") == "Settings are given as key=value; 'seed' is not."
    assert "'seed=[1' is not YAML" in fails(capsys, "run", config(), "seed=[1")
    assert "device: There is no device 'gpu': use" in fails(capsys, "run", config(), "device=gpu")
    assert "dtype: Input should be 'float32' or" in fails(capsys, "run", config(), "dtype=fp32")
    assert "out: 2026-11-28 is a date" in fails(capsys, "run", config(), "out=2026-11-28")
    assert "embedder: True is true or false" in fails(capsys, "run", config(), "embedder=yes")
    assert not (tmp_path / "out").exists()


def test_a_date_in_quotes_is_a_folder(config, monkeypatch, tmp_path):
    path = config(data=str(Path(SAMPLE).resolve()))
    monkeypatch.chdir(tmp_path)
    assert main(["encode", path, "out='2026-11-28'"]) == 0
    assert (tmp_path / "2026-11-28" / "store").is_dir()


def test_a_device_that_there_is_not(config, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("lagkit.runs.experiment.load_embedder", pytest.fail)
    said = fails(capsys, "run", config(), "device=cuda")
    assert said == "There is no device cuda here (torch finds 0 GPUs): leave out device, or use cpu."


def test_file_that_is_no_yaml(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("data: [1\nout: 2")
    assert "run.yaml is not YAML" in fails(capsys, "run", tmp_path / "run.yaml")


def test_bad_data(config, capsys, tmp_path):
    assert "there is no data folder" in fails(capsys, "run", config(data=str(tmp_path / "nowhere")))
    folder = shutil.copytree(SAMPLE, tmp_path / "sample")
    records = json.loads((folder / "dev_test.json").read_text())
    del records[4]["answer"]
    (folder / "dev_test.json").write_text(json.dumps(records))
    said = fails(capsys, "run", config(data=str(folder)))
    assert f"dev_test.json, record 4 (id {records[4]['id']!r}), key 'answer': Field required" in said
    assert not (tmp_path / "out").exists()


def test_unknown_models(config, capsys):
    assert "'nope' is no known model: the aliases are qwen, smollm2" in fails(capsys, "run", config(model="nope"))
    assert main(["encode", config()]) == 0
    changed = fails(capsys, "encode", config(), "embedder=nope")
    assert "holds a run with other settings (" in changed
    assert "embedder was 'hash' and is 'nope'" in changed


def test_unknown_embedder(config, capsys):
    assert "'nope' is no known embedder" in fails(capsys, "run", config(embedder="nope"))


def test_store_of_another_model_is_refused_with_both_fingerprints(config, capsys, tmp_path):
    folder = lms.saved(tmp_path / "model")
    path = config(model=str(folder))
    assert main(["encode", path]) == 0
    with LogStore.open(tmp_path / "out" / "store") as store:
        before = store.model
    lms.saved(folder, initializer_range=0.2)
    capsys.readouterr()
    said = fails(capsys, "run", path)
    after = Experiment(RunConfig.read(path)).lm.fingerprint
    assert before["weights"] != after["weights"]
    assert json.dumps(before, sort_keys=True) in said
    assert json.dumps(after, sort_keys=True) in said


def test_damaged_block_fails_its_questions_only(config, capsys, tmp_path):
    path = config(splits=["seen"])
    main(["encode", path])
    with LogStore.open(tmp_path / "out" / "store") as store:
        damaged, log = stores.file_of(store, store.ids[1], "responses.last_round.bare"), store.ids[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["run", path]) == 0
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    failed = results[results["failed"]]
    assert 0 < len(failed) < 3
    assert failed["error"].str.contains(damaged.name).all()
    capsys.readouterr()

    where = str(tmp_path / "out" / "store")
    assert main(["store", "verify", where]) == 1
    said = capsys.readouterr().out
    assert log in said
    assert damaged.name in said
    assert main(["store", "prune", where]) == 0
    assert "3 logs are left" in capsys.readouterr().out
    assert main(["store", "verify", where]) == 0
    assert "All 3 logs" in capsys.readouterr().out


def test_too_long_prompts_are_recorded_as_failures(config, capsys, tmp_path):
    assert main(["run", config(max_new_tokens=4096, policies=["no_logs"])]) == 0
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert results["failed"].tolist() == [True, True]
    pattern = r"ContextTooLong: question '\w+': \d+ injected \+ \d+ prompt \+ 4096 new tokens are \d+, and"
    assert results["error"].str.contains(pattern).all()


def test_empty_store(config, capsys, tmp_path):
    said = fails(capsys, "run", config(max_new_tokens=4096))  # no question fits, so nothing is logged
    assert said == f"The log store {tmp_path / 'out' / 'store'} is empty: build logs before reusing them."
    assert "nothing to search" in fails(capsys, "store", "search", tmp_path / "out" / "store", "x")
    assert "no words to search for" in fails(capsys, "store", "search", tmp_path / "out" / "store", " ")
    assert main(["store", "summary", str(tmp_path / "out" / "store")]) == 0
    assert "0 logs" in (said := capsys.readouterr().out)
    assert "No KV blocks." in said


def test_full_disk_loses_nothing(config, capsys, tmp_path, monkeypatch):
    path, write, written = config(), files.write, []

    def full(target, content, **how):
        if target.suffix == ".safetensors":
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
            written.append(target)
        write(target, content, **how)

    monkeypatch.setattr(files, "write", full)
    said = fails(capsys, "encode", path)
    assert "the disk is full" in said
    with LogStore.open(tmp_path / "out" / "store") as store:
        assert (len(store), len(store.summary()), len(store.verify())) == (3, 1, 0)
        assert store.summary()["logs"].tolist() == [2]
    monkeypatch.undo()
    assert main(["encode", path]) == 0
    with LogStore.open(tmp_path / "out" / "store") as store:
        assert store.summary()["logs"].tolist() == [3]


def test_full_disk_while_a_trace_is_written(config, capsys, monkeypatch):
    def full(self, trace, basis):
        raise OSError(errno.ENOSPC, "No space left on device", "log.jsonl")

    monkeypatch.setattr(Journal, "append", full)
    assert fails(capsys, "run", config()) == "[Errno 28] No space left on device: 'log.jsonl'"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "Missing command (see `lagkit --help`)."),
        (["fly\x1b[2J"], r"No such command 'fly\x1b[2J' (see `lagkit --help`)."),
        (["store"], "Missing command (see `lagkit store --help`)."),
        (["store", "fly"], "No such command 'fly' (see `lagkit store --help`)."),
        (["run"], "Missing argument 'TIER|CONFIG.yaml' (see `lagkit run --help`)."),
        (["run", "testbed", "--set", "seed=1"], "No such option: --set (see `lagkit run --help`)."),
        (["notebook", "a.ipynb", "out", "-p", "seed"], "-p takes a name and a value; 'seed' has none."),
        (["nightly", "a.yaml", "seed=1", "b"], "'b' is neither a setting nor the one file of profiles, a.yaml."),
    ],
)
def test_wrong_words_are_named_in_one_line(argv, said, capsys):
    assert fails(capsys, *argv) == said


def test_wrong_settings_are_refused_before_libraries_are_loaded():
    code = """
from lagkit.__main__ import main, sys
for words in ("nonsense=1", "device=gpu", "codec=int9", "policies=[no_logs,kv_lost_round]"):
    assert main(["run", "testbed", "out=x", words]) == 2
sys.exit("numpy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("lagkit: Wrong run settings: ") == 4


def test_help_is_plain_text_and_loads_no_model():
    commands = ("", "run", "ask", "nightly", "notebook", "gallery", "store search", "testbed world")
    code = f"""
from lagkit.__main__ import main, sys
for words in {commands}:
    main([*words.split(), "--help"])
    print(end="\\f")
sys.exit("numpy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *pages, end = done.stdout.split("\f")
    assert end == ""
    for words, page in zip(commands, pages, strict=True):
        assert page.startswith(f"Usage: {f'lagkit {words}'.strip()} [OPTIONS]")
        assert all(line.isprintable() and line.isascii() for line in page.splitlines())


def test_as_a_process():
    command = [sys.executable, "-m", "lagkit", "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lagkit: Missing argument 'TIER|CONFIG.yaml' (see `lagkit run --help`).\n"
