"""Files that a person writes, saved by any editor: read, or refused in a sentence that says where and why."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lagkit.__main__ import main
from lagkit.datasets.loaders import load
from lagkit.nightly.gates import Baselines
from lagkit.nightly.profile import Nightly
from lagkit.runs.config import RunConfig
from lagkit.util.errors import ConfigError, DataError, LagkitError
from tests.helpers.lms import small_run

RECORD = '{"id": "2hop__1_2", "question": "?", "answer": "Elbe", "answer_aliases": [], "question_decomposition": []}'
JOB = "profiles:\n  small:\n    about: Small.\n    jobs: [{notebook: a}]\n"
BASELINES = '{"seeds": [1], "jobs": {}}'

Read = Callable[[Path, bytes], object]


def questions(folder: Path, content: bytes) -> object:
    return _data(folder, "dev_train.json", content).seen[0].answers


def passages(folder: Path, content: bytes) -> object:
    return _data(folder, "dev_docs.json", content).passages[0].title


def _data(folder: Path, name: str, content: bytes):
    for file, empty in (("dev_train", "[]"), ("dev_test", "[]"), ("dev_docs", "{}")):
        (folder / f"{file}.json").write_text(empty)
    (folder / name).write_bytes(content)
    return load(folder, "musique")


def settings(folder: Path, content: bytes) -> object:
    (folder / "run.yaml").write_bytes(content)
    return RunConfig.read(folder / "run.yaml").data.seed


def nightly(folder: Path, content: bytes) -> object:
    (folder / "nightly.yaml").write_bytes(content)
    return list(Nightly.read(folder / "nightly.yaml").profiles)


def baselines(folder: Path, content: bytes) -> object:
    (folder / "small.json").write_bytes(content)
    loaded = Baselines.load(folder / "small.json")
    return loaded and loaded.seeds


# How each kind is read, a sound one, what is found in it, one with a key twice, and that key.
KINDS: dict[str, tuple[Read, str, object, str, str]] = {
    "questions": (questions, f"[{RECORD}]", ("Elbe",), f'[{RECORD[:-1]}, "answer": "Oder"}}]', "answer"),
    "passages": (
        passages,
        '{"elbe": {"title": "Elbe", "content": "A river."}}',
        "Elbe",
        '{"elbe": {"title": "Elbe", "content": "A river."},\n "elbe": {"title": "Oder", "content": "Another."}}',
        "elbe",
    ),
    "settings": (settings, "data: d\nout: o\nseed: 7\n", 7, "data: d\nout: o\nseed: 7\nseed: 8\n", "seed"),
    "nightly": (nightly, JOB, ["small"], JOB + "  small:\n    about: Other.\n    jobs: [{notebook: b}]\n", "small"),
    "baselines": (baselines, BASELINES, (1,), '{"seeds": [1], "seeds": [2], "jobs": {}}', "seeds"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_order_mark_is_passed_over(tmp_path, kind):
    read, sound, found, _, _ = KINDS[kind]
    assert read(tmp_path, sound.encode()) == found
    assert read(tmp_path, codecs.BOM_UTF8 + sound.encode()) == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_there_twice_is_named(tmp_path, kind):
    read, _, _, twice, key = KINDS[kind]
    with pytest.raises(LagkitError, match=rf"\.(json|yaml) .*the key '{key}' is there (twice|a second time)"):
        read(tmp_path, twice.encode())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_another_encoding_is_named(tmp_path, kind, encoding):
    read, sound, *_ = KINDS[kind]
    with pytest.raises(LagkitError, match=r"\.(json|yaml) is UTF-16 or UTF-32 text: save it as UTF-8"):
        read(tmp_path, sound.encode(encoding))


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path, kind):
    read, sound, *_ = KINDS[kind]
    with pytest.raises(LagkitError, match=r"\.(json|yaml) is not UTF-8 text in line 3: save it as UTF-8"):
        read(tmp_path, b"\n\n\xe4" + sound.encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"[\n{RECORD},\n]", r"there is a comma too many \(line 3, column 1\)"),
        ('[{"id": "a",\n}]', r"there is a comma too many \(line 2, column 1\)"),
        (f"{RECORD}\n{RECORD}\n", r"a second value begins; .* make them a list \(line 2, column 1\)"),
        ("[{'id': 1}]", r"property name enclosed in double quotes \(line 1, column 3\)"),
        ('[\n{"id": NaN}]', "NaN is no number"),
        ("[" * 100_000, "recursion"),
        ("", r"Expecting value \(line 1, column 1\)"),
    ],
)
def test_json_that_is_none_is_located(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"dev_train\.json is not valid JSON: .*{message}"):
        questions(tmp_path, content.encode())


def test_yaml_says_in_which_line_the_key_comes_again(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.yaml is not YAML: the key 'per_minute' is there .* in line 5"):
        settings(tmp_path, b"data: d\nout: o\napi:\n  per_minute: 1\n  per_minute: 2\n")


@pytest.mark.parametrize("other", ["dev_train.jsonl", "dev_train.json.txt", "dev_train.csv"])
def test_a_missing_file_names_what_is_there_in_its_place(tmp_path, other):
    questions(tmp_path, f"[{RECORD}]".encode())
    (tmp_path / "dev_train.json").rename(tmp_path / other)
    with pytest.raises(DataError, match=rf"dev_train\.json is missing, but {other} is there: write it as \.json"):
        load(tmp_path, "musique")


def test_settings_under_another_ending_are_named(tmp_path):
    (tmp_path / "run.yml").write_text("data: d")
    with pytest.raises(ConfigError, match=r"run\.yaml is missing, but run\.yml is there"):
        RunConfig.read(tmp_path / "run.yaml")


def test_a_world_s_controls_are_read_with_a_mark_and_refused_with_a_key_twice(tmp_path):
    world = {"entities": 40, "log_questions": 4, "unseen_questions": 4, "hops": [1], "log_hops": [2]}
    overlap = {"all": 0.5, "none": 0.5}
    run = {"world": {**world, "overlap": overlap}, "log_questions": 2, "seen_questions": 1, "unseen_questions": 1}
    with small_run(tmp_path / "out", None, data=None, **run).writing():  # a run that begins keeps its world
        pass
    path = tmp_path / "out" / "world" / "controls.json"
    written = path.read_bytes()
    path.write_bytes(codecs.BOM_UTF8 + written)
    small_run(tmp_path / "out", None, data=None, **run)
    path.write_bytes(json.dumps(world).encode()[:-1] + b', "entities": 50}')
    with pytest.raises(DataError, match=r"controls\.json is not valid JSON: the key 'entities' is there twice"):
        small_run(tmp_path / "out", None, data=None, **run)


# The same on the command line


def test_a_setting_that_is_given_twice_is_refused(capsys):
    assert main(["run", "testbed", "seed=1", "seed=2"]) == 2
    assert capsys.readouterr().err == "lagkit: The setting seed is given twice: give it once.\n"


def test_a_parameter_of_a_notebook_that_is_given_twice_is_refused(tmp_path, capsys):
    notebook = str(Path(__file__).parents[1] / "notebooks" / "02_compare_variants.ipynb")
    assert main(["notebook", notebook, str(tmp_path), "-p", "seed", "1", "-p", "seed", "2"]) == 2
    assert capsys.readouterr().err == "lagkit: -p gives seed twice: give it once.\n"
