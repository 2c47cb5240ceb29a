"""Bits that rot in what a run or a night keeps: the commands that read it name the file in one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from lagkit.__main__ import main
from lagkit.nightly import history, run
from lagkit.nightly.run import Outcome
from lagkit.runs import load as finished
from lagkit.runs import summary
from lagkit.util.errors import DataError
from tests.helpers import nights

DAMAGE = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "flipped": lambda raw: bytes([*raw[:-2], raw[-2] ^ 0x40, raw[-1]]),
    "a list": lambda raw: b"[1]",
    "empty": lambda raw: b"",
    "no text": lambda raw: b"\xff\xfe\x00" + raw[:-1],
}


def damaged(path: Path, how: str) -> None:
    path.write_bytes(DAMAGE[how](path.read_bytes()))


@pytest.fixture
def night(tmp_path, monkeypatch):
    """The words of a nightly run that has ended well, and its folder."""
    monkeypatch.setattr(run, "COMMAND", (sys.executable, "-c", nights.QUICK))
    path = nights.project(tmp_path, [{"notebook": "good"}], [("good", nights.MEASURE)])
    words = ["nightly", str(path), "--profile", "small", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    return words, tmp_path / "out"


@pytest.mark.parametrize("file", ["jobs/good/status.json", "jobs/good/metrics.json", "history.parquet"])
def test_a_night_says_which_file_is_damaged(night, capsys, file):
    words, out = night
    whole = (out / file).read_bytes()
    for how in DAMAGE:
        damaged(out / file, how)
        assert main(words) == 2, how
        [told] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lagkit:")]
        assert f"{file} is damaged (" in told
        assert ": delete " in told
        (out / file).write_bytes(whole)
    assert main(words) == 0


@pytest.mark.parametrize("how", DAMAGE)
def test_a_summary_and_answers_that_are_damaged_are_named(tmp_path, how):
    job = tmp_path / "jobs" / "a"
    job.mkdir(parents=True)
    for name in ("summary.json", "answers.parquet"):
        (job / name).write_bytes(b'{"variants": {}}')
        damaged(job / name, how)
    with pytest.raises(DataError, match=r"summary\.json is damaged"):
        summary.lift(job, tmp_path, 1.0)
    with pytest.raises(DataError, match=r"answers\.parquet is damaged"):
        run.answers(tmp_path, {"a": Outcome("a", "ok", "key", "2026-01-01T00:00:00")})


@pytest.mark.parametrize("file", ["results.parquet", "differences.csv"])
def test_published_tables_that_are_damaged_are_named(tmp_path, file):
    committed = Path(__file__).parents[1] / "docs" / "results" / "wikihop-smollm2"
    for name in ("results.parquet", "differences.csv"):
        (tmp_path / name).write_bytes((committed / name).read_bytes())
    finished.published(tmp_path)
    (tmp_path / file).write_bytes(b"\xff" * 20)
    with pytest.raises(DataError, match=rf"{file} is damaged"):
        finished.published(tmp_path)


def test_a_history_of_another_shape_is_named(tmp_path):
    pd.DataFrame({"job": ["a"]}).to_parquet(tmp_path / history.FILE)
    with pytest.raises(DataError, match=r"history\.parquet is damaged"):
        history.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("made_with.json", {"settings": 1, "prompt": {}, "data": {}, "logged": [], "questions": {}}),
        ("made_with.json", {"settings": {}, "prompt": {}, "data": {}, "logged": [], "questions": {"a": "b"}}),
        ("manifest.json", {"settings": 3}),
        ("manifest.json", {"settings": {}, "data": []}),
        ("manifest.json", {"settings": {}, "sessions": 3}),
        ("manifest.json", {"settings": {}, "sessions": None}),
    ],
)
def test_a_record_of_another_shape_is_named(tmp_path, capsys, file, content):
    (tmp_path / "traces").mkdir()
    (tmp_path / file).write_text(json.dumps(content))
    assert main(["run", "testbed", f"out={tmp_path}", "embedder=hash"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / file} is damaged" in said
    assert "delete it, and the run resumes" in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('out: "a\\uD800"\nworld: {}', "out: "),
        ('out: "a\\0b"\nworld: {}', "out: "),
        ("out: x\nworld: {overlap: {all: .nan}}", "controls of a test world: overlap: "),
    ],
)
def test_settings_that_cannot_be_meant_are_named(tmp_path, capsys, text, named):
    (file := tmp_path / "run.yaml").write_text(text)
    assert main(["run", str(file)]) == 2
    assert f"Wrong {'run settings: ' if named == 'out: ' else ''}{named}" in capsys.readouterr().err
