"""Stores, blocks and archives that somebody else wrote, or that were written over: a sentence, or success."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import struct
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lagkit.logs.store import LogStore
from lagkit.model.kv import KVBlock
from lagkit.util.errors import DamagedBlock, LagkitError, StoreError
from tests.helpers.hostile import altered, as_json, taken_or_refused
from tests.helpers.stores import HEADER, fill, kv, new_store, trace, vector


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


@settings(max_examples=40, deadline=None)
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


WRONG = ["NULL", "5", "x'00'", "1.5", "-1", "9e999", "x'ff'", "'../../evil'", "''"]
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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=40, deadline=None)
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
