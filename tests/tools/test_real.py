"""A closer look at a study: whose answers a variant gives, and what is told of a folder that is no study."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import replace

import pandas as pd
import pytest

from lagkit.types import Hit
from tests.helpers.lms import trace_of
from tests.pages import RESULTS
from tools import real

OWN = RESULTS / "real" / "own"
VARIANT = "kv_last_round"


def test_an_echo_is_the_answer_of_a_log_that_the_question_was_given():
    said = {"echo": ("the oka.", "Don"), "own": ("Don", "Oka"), "unseen log": ("Volga", "Oka"), "none": (None, None)}
    logs = [replace(trace_of(id=id), answer=answer) for id, answer in (("a", "Oka"), ("b", "Volga"), ("silent", None))]
    given = replace(trace_of("Oka").rounds[0], logs=(Hit(logs[0].id, 0.9), Hit(logs[2].id, 0.8)))
    traces = {"log": logs}
    for number, policy in enumerate((VARIANT, "no_logs")):
        traces[f"{policy}.unseen"] = [
            replace(trace_of(id=id), answer=both[number], rounds=(given,) if policy == VARIANT else ())
            for id, both in said.items()
        ]
    scored = [(policy, id, float(id == "own")) for policy in ("no_logs", VARIANT, "copy_nearest") for id in said]
    results = pd.DataFrame(scored, columns=["policy", "question_id", "em"]).assign(split="unseen")
    rows = real.echoes(traces, results).set_index("question_id")
    assert set(rows["policy"]) == {VARIANT}
    assert rows["echo"].to_dict() == {"echo": True, "own": False, "unseen log": False, "none": False}
    assert rows["echo_without"].to_dict() == {"echo": False, "own": True, "unseen log": True, "none": False}
    assert rows["em"].to_dict() == rows["em_without"].to_dict() == {id: float(id == "own") for id in said}


def test_the_command_writes_the_page_of_committed_rows(tmp_path, capsys):
    page = tmp_path / "study.md"
    assert real.main([str(OWN), "--page", str(page)]) == 0
    assert page.read_text(encoding="utf-8") in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == (RESULTS / "real" / "study.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", real.FILES)
def test_a_file_that_is_missing_or_damaged_is_told(tmp_path, capsys, name):
    for file in real.FILES:
        shutil.copy(OWN / file, tmp_path)
    (tmp_path / name).write_bytes(b"{")
    assert real.main([str(tmp_path), "--page", str(tmp_path / "page.md")]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err
    (tmp_path / name).unlink()
    assert real.main([str(tmp_path), "--page", str(tmp_path / "page.md")]) == 2
    assert f"There is no {name} in" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_rows_whose_traces_are_not_in_the_archive_are_told(tmp_path, capsys):
    for file in real.FILES:
        shutil.copy(OWN / file, tmp_path)
    (tmp_path / "traces").mkdir()
    with tarfile.open(tmp_path / "traces.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "traces", "traces")
    assert real.main([str(tmp_path), "--page", str(tmp_path / "page.md")]) == 2
    assert "traces.tar.xz is damaged ('log')" in capsys.readouterr().err
