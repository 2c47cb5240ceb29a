"""Files that somebody else wrote, or that were written over: a sentence of lagkit's or success, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lagkit.datasets import loaders as data
from lagkit.runs.config import RunConfig
from lagkit.runs.journal import Journal
from lagkit.types import Trace
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.plainyaml import load_yaml
from tests.helpers.hostile import altered, as_json, taken_or_refused
from tests.helpers.stores import trace

# Traces

TRACE = json.loads(json.dumps(trace(1).to_dict()))


@settings(max_examples=60, deadline=None)
@given(altered(TRACE))
@example({**TRACE, "question": 5})
@example({**TRACE, "rounds": [{**TRACE["rounds"][0], "response": None}]})
@example({**TRACE, "rounds": [{**TRACE["rounds"][0], "passages": [{"id": 3, "score": "x"}]}]})
def test_a_trace_is_read_with_the_types_that_it_has_or_refused(raw):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(as_json(raw) + b"\n")
        with taken_or_refused(DataError, f"{path}"):
            [read] = Journal(path).traces()
            check_types(read)


def check_types(read: Trace) -> None:
    words = (read.question_id, read.question, read.system, read.policy, *(r.prompt + r.response for r in read.rounds))
    assert all(isinstance(word, str) for word in words)
    assert isinstance(read.id + read.key + "".join(step.key for step in read.steps), str)
    assert read.usage.prefilled + read.usage.seconds is not None
    # NaN is not equal to itself: by what is written.
    assert repr(Trace.from_dict(json.loads(json.dumps(read.to_dict())))) == repr(read)


@given(st.binary(max_size=60))
@example(b"[" * 200_000)
@example(b"1" * 5000)
@settings(deadline=None)
def test_a_journal_of_anything_is_read_or_its_line_is_named(raw):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(raw + b"\n")
        with pytest.raises(DataError, match="Line 1 of"):
            Journal(path).traces()


def test_a_trace_with_lone_surrogates_comes_back_from_a_journal(tmp_path):
    book = Journal(tmp_path / "log.jsonl")
    book.append(trace(1))
    assert "\ud800" in trace(1).rounds[0].response
    assert book.traces() == [trace(1)]


# Data folders

MUSIQUE = {
    "id": "2hop__1_2", "question": "Who?", "answer": "A", "answer_aliases": ["B"],
    "question_decomposition": [{"id": 1, "question": "q", "answer": "a", "document_id": "d1"}],
}  # fmt: skip
WIKIHOP = {
    "_id": "w1", "type": "comparison", "question": "Who?", "answer": "A", "evidences": [["s", "r", "o"]],
    "supporting_facts": [["d1", 0]],
}  # fmt: skip
MMLUPRO = {"question_id": 1, "question": "Which?", "options": ["x", "y"], "answer": "B", "category": "law"}
GPQA = {"question": "Which?", "choices": ["x", "y"], "answer": "y"}
LETTERS = [str(i) for i in range(30)]
FOLDERS = {
    "musique": ({"d1": {"title": "T", "content": "C"}}, MUSIQUE),
    "wikihop": ({"d1": "C"}, WIKIHOP),
    "mmlupro": ({}, MMLUPRO),
    "gpqa": ({}, GPQA),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_records_of_any_shape_are_read_or_refused(name):
    docs, record = FOLDERS[name]

    @settings(max_examples=40, deadline=None)
    @given(altered({"dev_docs": docs, "dev_train": [record], "dev_test": []}))
    def check(files):
        with TemporaryDirectory() as folder:
            for file in files if isinstance(files, dict) else ():
                if file.startswith("dev_"):
                    (Path(folder) / f"{file}.json").write_bytes(as_json(files[file]))
            with taken_or_refused(DataError, folder):
                found = data.load(folder, name)
                for question in (*found.seen, *found.unseen):
                    assert all(isinstance(word, str) for word in (question.id, question.text, *question.answers))
                    assert question.text.encode() or not question.text
                    assert len(question.choices) <= 26

    check()


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("gpqa", {**GPQA, "choices": LETTERS, "answer": "29"}),
        ("gpqa", {**GPQA, "choices": LETTERS, "answer": "3"}),
        ("mmlupro", {**MMLUPRO, "options": LETTERS, "answer": "B"}),
    ],
)
def test_more_choices_than_letters_are_refused(tmp_path, name, record):
    for file in ("dev_train", "dev_test"):
        (tmp_path / f"{file}.json").write_text(json.dumps([record]))
    with pytest.raises(DataError, match=r"dev_train\.json, record 0.*at most 26 items"):
        data.load(tmp_path, name)


@settings(deadline=None)
@given(st.binary(max_size=40))
@example(b"[" * 100_000)
@example(b'[{"id": ' + b"9" * 5000 + b', "question": 5}]')
@example(b"\xef\xbb\xbf[]")
@example(b'[{"id": "\\ud800"}]')
def test_a_data_file_of_anything_is_refused_by_name(raw):
    with TemporaryDirectory() as folder:
        for file, content in (("dev_docs", b"{}"), ("dev_train", raw), ("dev_test", b"[]")):
            (Path(folder) / f"{file}.json").write_bytes(content)
        with taken_or_refused(DataError, "dev_train.json"):
            assert data.load(folder, "musique").seen == ()


# Settings


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from([*"&*!?:-[]{}#|>%@`'\"0x \n\t,a1", "<<", "!!int ", "2020-13-45"])).map("".join)
)
@example("2020-13-45")
@example("0x_")
@example("!!bool x")
@example("!!timestamp x")
@example("!!python/object/apply:os.system ['touch evil']")
@example("9" * 5000)
@example("? {a: b}\n: c")
@example("[" * 1000)
@example("- " * 1000)
@example("\0")
def test_yaml_of_anything_is_read_or_refused(text):
    with taken_or_refused(ConfigError, "It is not YAML: "):
        load_yaml(text, "It")


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12))]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"run\.yaml is not YAML: settings have no aliases \(`\*name`\), line 2"):
        RunConfig.read(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="settings have no aliases"):
        load_yaml("&a [*a]", "It")


@settings(max_examples=60, deadline=None)
@given(altered({"data": "d", "out": "o", "policies": ["no_logs"], "seed": 1, "logs": 2, "splits": ["seen"]}))
@example({"data": "d", "out": "o", "policies": ["no_logs", "\ud800", "\ud800"]})
def test_settings_of_any_shape_are_taken_or_refused(raw):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(as_json(raw))
        with taken_or_refused(ConfigError, ""):
            assert RunConfig.read(path).policies[0]
