"""Atomic writes: whole or not at all, from many processes at once, and never through a link."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from lagkit.util.files import replacing, write, write_json, write_table
from tests.helpers.killed import clean

ROOT = Path(__file__).parents[2]


def _many(path: Path, letter: str) -> None:
    for _ in range(40):
        write_json(path, letter * 50_000)


def test_any_number_of_processes_may_replace_one_file(tmp_path):
    path = tmp_path / "manifest.json"
    with ProcessPoolExecutor(4, mp_context=clean) as pool:
        ends = [pool.submit(_many, path, letter) for letter in "abcd"]
        while not all(end.done() for end in ends):
            if path.exists():
                assert len(set(json.loads(path.read_text()))) == 1
        assert [end.exception() for end in ends] == [None] * 4
    assert [found.name for found in tmp_path.iterdir()] == ["manifest.json"]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    target = tmp_path / "elsewhere.txt"
    target.write_text("mine")
    for name in ("run.json", "run.tmp", "run.json.tmp", "run.json.new"):
        (tmp_path / name).symlink_to(target)
    write_json(tmp_path / "run.json", 1)
    assert target.read_text() == "mine"
    assert not (tmp_path / "run.json").is_symlink()
    assert (tmp_path / "run.json").read_text() == "1\n"


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    write(tmp_path / "page.md", "old")

    def full(content: bytes) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"), replacing(tmp_path / "page.md") as aside:
        full(aside.write_bytes(b"half"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("page.md", "old")]


def test_content_is_on_disk_before_it_has_its_name_and_others_may_read_it(tmp_path, monkeypatch):
    seen, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(stat.S_ISDIR(os.fstat(handle).st_mode)), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append("renamed"), replace(*paths)))
    path = write(tmp_path / "a.txt", "ü")
    assert seen == [False, "renamed", True]
    assert path.read_bytes() == "ü".encode()
    other = tmp_path / "b.txt"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_a_table_that_cannot_be_written_leaves_the_old_one_and_no_other_place_writes_any(tmp_path):
    path = tmp_path / "rows.parquet"
    write_table(path, pd.DataFrame({"n": [1]}))
    with pytest.raises(pa.ArrowException):
        write_table(path, pd.DataFrame({"n": [1, "one"]}))
    assert [*tmp_path.iterdir()] == [path]
    assert [*pd.read_parquet(path)["n"]] == [1]
    sources = [source for room in ("lagkit", "tools") for source in (ROOT / room).rglob("*.py")]
    writers = [source.name for source in sources if ".to_parquet(" in source.read_text(encoding="utf-8")]
    assert writers == ["files.py"]
