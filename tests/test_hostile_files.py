"""Files that somebody else wrote, or that were written over: a sentence of lagkit's or success, and nothing else."""

from __future__ import annotations

import copy
import io
import json
import shutil
import sqlite3
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lagkit.datasets import loaders as data
from lagkit.logs.store import LogStore
from lagkit.model.kv import KVBlock
from lagkit.runs.config import RunConfig
from lagkit.runs.journal import Journal
from lagkit.types import Trace
from lagkit.util.errors import ConfigError, DamagedBlock, DataError, LagkitError, StoreError
from lagkit.util.plainyaml import load_yaml
from tests.helpers.stores import HEADER, fill, kv, new_store, trace, vector

few = settings(max_examples=40, deadline=None)

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
values = st.recursive(
    leaves | st.just("\ud800") | st.sampled_from([10**30, -1, 10**400, "../x", "", "log1-"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def spots(value, path=()):
    """The paths to all parts of a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from spots(value[key], (*path, key))


@st.composite
def altered(draw, value):
    """A JSON value in which one or two parts are something else, missing or new."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from([path for path in spots(value) if path] or [(None,)]))
        if last is None:
            return draw(values)
        part = value
        for key in way:
            part = part[key]
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "remove":
            del part[last]
        elif what == "add" and isinstance(part, dict):
            part[draw(st.text(max_size=6))] = draw(values)
        else:
            part[last] = draw(values)
    return value


def as_json(value) -> bytes:
    """As Python writes it: NaN and lone surrogates too."""
    return json.dumps(value).encode()


@contextmanager
def taken_or_refused(error: type[LagkitError], words: object) -> Iterator[None]:
    """What is done inside succeeds, or is refused with a sentence that holds `words`; no other error gets out."""
    try:
        yield
    except error as refusal:
        if str(words) not in str(refusal) or not str(refusal).strip():
            raise AssertionError(f"{words} is not in {refusal}") from refusal


# Traces

TRACE = json.loads(json.dumps(trace(1).to_dict()))


@settings(max_examples=150, deadline=None)
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

    @settings(max_examples=60, deadline=None)
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


@settings(max_examples=150, deadline=None)
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
@example("[" * 3000)
@example("- " * 3000)
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


@settings(max_examples=150, deadline=None)
@given(altered({"data": "d", "out": "o", "policies": ["no_logs"], "seed": 1, "logs": 2, "splits": ["seen"]}))
@example({"data": "d", "out": "o", "policies": ["no_logs", "\ud800", "\ud800"]})
def test_settings_of_any_shape_are_taken_or_refused(raw):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(as_json(raw))
        with taken_or_refused(ConfigError, ""):
            assert RunConfig.read(path).policies[0]


# Stores


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """A store of three logs, closed."""
    with new_store(tmp_path_factory.mktemp("pattern") / "store") as store:
        fill(store, [1, 2, 3])
    return store.path


def use(folder) -> None:
    """All that one does with a store; what it refuses, it says."""
    steps = [
        lambda s: s.verify(), lambda s: s.ids, lambda s: list(s.traces()), lambda s: s.search(vector(1)[None], 3),
        lambda s: [s.get(trace(i).id) for i in (1, 2, 3)], lambda s: s.block(trace(1).id, "last"),
        lambda s: s.embeddings(), lambda s: s.sizes(), lambda s: s.summary(), lambda s: s._repr_html_(),
        lambda s: s.export(folder.parent / "logs.tar"), lambda s: s.prune(), lambda s: s.prune(max_bytes=1),
        lambda s: fill(s, [3, 4]), lambda s: s.delete([trace(2).id]),
    ]  # fmt: skip
    with taken_or_refused(StoreError, folder), LogStore.open(folder, write=True) as store:
        for step in steps:
            with taken_or_refused(StoreError, ""):
                step(store)


HEAD = {"model": {"name": "tiny"}, "embedder": "m", "dim": 8, "dtype": "float32", "codec": "none", "format": 3}


@settings(max_examples=40, deadline=None)
@given(altered({**HEAD, "kind": "lagkit log store"}).map(as_json) | st.binary(max_size=20))
@example(b"[" * 100_000)
@example(as_json({**HEAD, "kind": "lagkit log store", "dim": 10**40}))
def test_store_json_of_anything(pattern, raw):
    with TemporaryDirectory() as folder:
        shutil.copytree(pattern, Path(folder) / "store")
        (Path(folder) / "store" / "store.json").write_bytes(raw)
        use(Path(folder) / "store")
        assert {path.name for path in Path(folder).iterdir()} <= {"store", "logs.tar"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4)
)
def test_a_database_that_was_written_over(pattern, patches):
    with TemporaryDirectory() as folder:
        shutil.copytree(pattern, Path(folder) / "store")
        path = Path(folder) / "store" / "logs.sqlite"
        raw = bytearray(path.read_bytes())
        for place, patch in patches:
            # SQLite fills its pages from the end: most of their middle is empty.
            at = int(place * len(raw))
            raw[at : at + len(patch)] = patch
        path.write_bytes(raw[: path.stat().st_size])
        use(Path(folder) / "store")


WRONG = ["NULL", "5", "'text'", "x'00'", "1.5", "-1", "9e999", "x'ff'", "'../../evil'", "''"]
COLUMNS = [("logs", "id"), ("logs", "embedding"), ("traces", "json"), ("traces", "seq"), ("blocks", "key")] + [
    ("blocks", column) for column in ("tokens", "bytes", "digest", "seq")
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_database_whose_columns_hold_something_else(pattern, tmp_path, wrong):
    """As a stranger can write one: without the checks that the schema makes."""
    for table, column in COLUMNS:
        folder = tmp_path / f"{table}-{column}" / "store"
        shutil.copytree(pattern, folder)
        raw = sqlite3.connect(folder / "logs.sqlite", isolation_level=None)
        schema = "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')"
        raw.executescript(f"PRAGMA writable_schema = ON; {schema}; PRAGMA writable_schema = RESET;")
        raw.execute("PRAGMA ignore_check_constraints = ON")
        try:
            raw.execute(f"UPDATE {table} SET {column} = {wrong} WHERE seq = 2")
        except sqlite3.Error:
            continue  # SQLite itself takes no such value there
        finally:
            raw.close()
        use(folder)
        assert {path.name for path in folder.parent.iterdir()} <= {"store", "logs.tar"}


# Blocks


def block_bytes() -> tuple[dict, bytes]:
    raw = kv(1).dump()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


BLOCK_HEADER, CONTENT = block_bytes()


@settings(max_examples=150, deadline=None)
@given(altered(BLOCK_HEADER).map(as_json) | st.binary(max_size=40), st.none() | st.integers(0, 2**64 - 1))
@example(as_json(BLOCK_HEADER), 2**63)
@example(as_json({**BLOCK_HEADER, "ids": {**BLOCK_HEADER["ids"], "dtype": "F8_E5M2", "shape": [12]}}), None)
@example(as_json({**BLOCK_HEADER, "keys": {**BLOCK_HEADER["keys"], "shape": [2, 1, 3, -4]}}), None)
@example(as_json({**BLOCK_HEADER, "__metadata__": {"format": 5}}), None)
@example(b"[" * 50_000, None)
def test_a_block_with_any_header_is_loaded_or_refused(header, size):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "b.safetensors"
        path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + CONTENT)
        with taken_or_refused(DamagedBlock, path):
            block = KVBlock.parse(path.read_bytes(), path)
            assert block.keys.shape == block.values.shape
            assert block.keys.shape[2:3] == block.ids.shape


# Archives


@pytest.fixture(scope="module")
def members(pattern, tmp_path_factory):
    with LogStore.open(pattern) as store:
        path = store.export(tmp_path_factory.mktemp("archives") / "good.tar")
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


names = st.sampled_from(
    ["../evil", "/evil", "kv/../../evil", "..", "", "kv", "a" * 300, "kv/ab/../../../evil", "\udcff"]
)
kinds = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, b"S", b"V"]
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_archive_with_anything_in_it_is_taken_whole_or_not_at_all(members, data):
    made = [list(member) for member in members]
    for _ in range(data.draw(st.integers(1, 3))):
        what = data.draw(st.sampled_from(["stranger", "garbage", "cut", "double", "rename"]))
        at = data.draw(st.integers(0, len(made) - 1))
        if what == "stranger":
            made.insert(at, [data.draw(names), b"evil", data.draw(kinds)])
        elif what == "garbage":
            made[at][1] = data.draw(st.binary(max_size=20))
        elif what == "cut":
            made[at][1] = made[at][1][: data.draw(st.integers(0, len(made[at][1])))]
        elif what == "double":
            made.insert(at, made[at])
        else:
            made[at][0] = data.draw(names)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bad.tar"
        with tarfile.open(path, "w") as tar:
            for name, raw, *kind in made:
                member = tarfile.TarInfo(name)
                member.size, member.linkname = len(raw), "../../evil"
                member.type = kind[0] if kind else tarfile.REGTYPE
                tar.addfile(member, io.BytesIO(raw))
        import_into_new(path, logs=3)


def import_into_new(path, logs: int) -> None:
    """All logs are taken or none, and nothing is written elsewhere."""
    folder = path.parent / "target"
    with LogStore.new(folder, HEADER) as target:
        with taken_or_refused(LagkitError, path):
            assert len(target.import_archive(path)) == logs
        assert len(target) in (0, logs)
        assert target.verify().empty
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, "target"]
    assert not [file for file in folder.rglob("*") if file.is_symlink() or "evil" in file.name]


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE, tarfile.REGTYPE]
)
@pytest.mark.parametrize("size", [2**33, 2**62])
def test_an_archive_that_promises_more_than_there_is(tmp_path, kind, size):
    member = tarfile.TarInfo("logs.jsonl")
    member.type, member.size = kind, size
    head = member.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "bad.tar").write_bytes(head + b"10 path=a\n".ljust(512, b"\0") + bytes(1024))
    import_into_new(tmp_path / "bad.tar", logs=0)
