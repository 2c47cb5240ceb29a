"""Stores and runs that a stranger made to write and delete outside themselves: what lies there stays as it was."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lagkit.logs import copying
from lagkit.logs.database import JOURNAL, crc32
from lagkit.logs.files import BlockRow, NewBlock, block_name
from lagkit.logs.lance import DiskCache, LanceStore
from lagkit.logs.lance.catalog import block_rows, log_rows
from lagkit.logs.store import LogStore
from lagkit.runs import load as finished
from lagkit.util.errors import DamagedBlock, DataError, LagkitError, StoreError
from tests.helpers.lms import ActingLM, new_lm, small_run
from tests.helpers.stores import HEADER, content, file_of, fill, kv, new_store, trace, vector

Attack = Callable[[Path, Path], object]


@pytest.fixture
def outside(tmp_path):
    """A folder that belongs to somebody else, with files of all the names that a store or a run has."""
    folder = tmp_path / "outside"
    with new_store(folder / "store") as store:
        fill(store, [5, 6])
    (folder / "ab").mkdir()
    for name in ("victim", "victim.safetensors", "ab/victim.safetensors", "manifest.json"):
        (folder / name).write_bytes(b"precious")
    return folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    passing = ("logs.sqlite-shm", "logs.sqlite-wal", "write.lock")
    paths = [path for path in folder.rglob("*") if path.name not in passing]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def use(open_store: Callable[[bool], LogStore], elsewhere: Path) -> list[str]:
    """All that one does with a store that one was given; returns the sentences with which it was refused."""
    said: list[str] = []

    def tried(step: Callable[..., object], *args: object) -> None:
        try:
            step(*args)
        except LagkitError as error:
            said.append(str(error))

    def copied(store: LogStore) -> None:
        with LogStore.new(elsewhere / "copy", HEADER) as target:
            copying.copy(store, target)

    reading = [
        lambda s: s.verify(), lambda s: list(s.traces()), lambda s: s.search(vector(1)[None], 3), lambda s: s.summary(),
        lambda s: [s.get(log) for log in s.ids], lambda s: [s.block(log, "last") for log in s.ids], lambda s: s.nbytes,
        lambda s: s.export(elsewhere / "logs.tar"), copied,
    ]  # fmt: skip
    writing = [
        lambda s: s.put_block(s.ids[0], "last", kv(8)), lambda s: fill(s, [1, 2, 8]), lambda s: s.evict(s.nbytes - 1),
        lambda s: s.delete(s.ids[:1]), lambda s: s.prune(), lambda s: s.prune(max_bytes=1), lambda s: s.evict(0),
    ]  # fmt: skip
    for write, steps in ((False, reading), (True, writing)):
        try:
            with open_store(write) as store:
                for step in steps:
                    tried(step, store)
        except StoreError as error:
            said.append(str(error))
    return said


def altered(folder: Path, digest: object) -> None:
    """A block's row that names another file, with the checksum that belongs to it."""
    raw = sqlite3.connect(folder / "logs.sqlite", isolation_level=None)
    raw.create_function("crc32", -1, crc32)
    raw.execute("PRAGMA ignore_check_constraints = ON")
    [(log, key, tokens, nbytes)] = raw.execute(
        "SELECT id, key, tokens, bytes FROM blocks JOIN logs USING (seq) WHERE seq = 1"
    )
    values = (log, key, tokens, nbytes, digest)
    parts = [(("integer" if isinstance(v, int) else "text"), str(v)) for v in values]
    crc = crc32(*(word for part in parts for word in part))
    raw.execute("UPDATE blocks SET digest = ?, crc = ? WHERE seq = 1", (digest, crc))
    raw.close()


def hot_journal(folder: Path, victim: Path) -> None:
    """A rollback journal that is played back when the database is opened, and names a file to delete after that."""
    raw = (folder / "logs.sqlite").read_bytes()
    [size] = struct.unpack(">H", raw[16:18])
    magic, sector = bytes.fromhex("d9d505f920a163d7"), 512
    head = (magic + struct.pack(">5I", 1, 0, len(raw) // size, sector, size)).ljust(sector, b"\0")
    page = raw[:size]
    check = sum(page[i] for i in range(size - 200, 0, -200))
    name = str(victim).encode()
    end = struct.pack(">I", 0x40000000 // size + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    (folder / JOURNAL).write_bytes(head + struct.pack(">I", 1) + page + struct.pack(">I", check) + end)


def linked(name: str, target: str) -> Attack:
    """In the place of something of a store or run a link to something outside."""

    def attack(folder: Path, outside: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(outside / target)

    return attack


def linked_block(folder: Path, outside: Path, level: int) -> None:
    """The first log's block, or the folder that it is in, as a link to a copy of it outside."""
    with LogStore.open(folder) as store:
        path = file_of(store, trace(1).id)
    shutil.copytree(path.parent, outside / "ab", dirs_exist_ok=True)
    if level:
        shutil.rmtree(path.parent)
        path.parent.symlink_to(outside / "ab")
    else:
        path.unlink()
        path.symlink_to(outside / "ab" / path.name)


def a_pipe(folder: Path, outside: Path) -> None:
    with LogStore.open(folder) as store:
        path = file_of(store, trace(1).id)
    path.unlink()
    os.mkfifo(path)


ATTACKS: dict[str, Attack] = {
    "a digest with dots": lambda folder, outside: altered(folder, "../outside/victim"),
    "an absolute digest": lambda folder, outside: altered(folder, str(outside / "victim")),
    "a digest with a null": lambda folder, outside: altered(folder, f"{'a' * 64}\0/../../outside/victim"),
    "a digest of 64 characters": lambda folder, _: altered(folder, "../outside/".ljust(58, "/") + "victim"),
    "a hot journal": lambda folder, outside: hot_journal(folder, outside / "victim"),
    "kv": linked("kv", "store/kv"),
    "a folder of blocks": lambda folder, outside: linked_block(folder, outside, 1),
    "a block": lambda folder, outside: linked_block(folder, outside, 0),
    "a pipe for a block": a_pipe,
    "another folder below kv": linked("kv/zz", "ab"),
    "the database": linked("logs.sqlite", "store/logs.sqlite"),
    "its write-ahead log": linked("logs.sqlite-wal", "victim"),
    "its shared memory": linked("logs.sqlite-shm", "victim"),
    "a journal that is a link": linked(JOURNAL, "victim"),
    "the header": linked("store.json", "store/store.json"),
    "the lock": linked("write.lock", "victim"),
    "the codes": linked("search.safetensors", "victim.safetensors"),
    "unfinished codes": linked("search.safetensors.new", "victim.safetensors"),
}  # fmt: skip
# What is refused when the store is opened; of the others, all that is sound can be used.
AT_ONCE = {"a hot journal", "kv", "a folder of blocks", *list(ATTACKS)[9:]}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_strangers_store_changes_nothing_outside(tmp_path, outside, name):
    with new_store(tmp_path / "store") as store:
        fill(store, [1, 2, 3])
    ATTACKS[name](tmp_path / "store", outside)
    before = snapshot(outside)
    said = use(lambda write: LogStore.open(tmp_path / "store", write=write), tmp_path)
    assert snapshot(outside) == before
    if name in AT_ONCE:
        assert len(said) == 2
        assert all("remove it" in sentence and str(tmp_path / "store") in sentence for sentence in said)
    else:
        assert len(said) > 0


@pytest.mark.parametrize("name", ["a digest with dots", "a block", "a pipe for a block"])
def test_what_a_stranger_altered_is_listed_and_pruned_and_the_rest_is_usable(tmp_path, outside, name):
    with new_store(tmp_path / "store") as store:
        one, two = fill(store, [1, 2])
    ATTACKS[name](tmp_path / "store", outside)
    with LogStore.open(tmp_path / "store", write=True) as store:
        assert set(store.verify()["log"]) - {""} == {one}
        with pytest.raises(StoreError):
            store.block(one, "last")
        store.block(two, "last")
        store.prune()
        assert store.verify().empty
        assert (store.ids, store.block_keys(one)) == ([one, two], [])


def test_what_a_killed_create_left_is_no_way_in_either(tmp_path, outside):
    for name, attack in ATTACKS.items():
        if name.startswith(("a digest", "an absolute", "a block", "a folder", "a pipe", "the header")):
            continue
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        with new_store(tmp_path / "store") as store:
            fill(store, [1])
        attack(tmp_path / "store", outside)
        (tmp_path / "store" / "store.json").unlink()
        before = snapshot(outside)
        with suppress(StoreError), LogStore.new(tmp_path / "store", HEADER, exist_ok=True) as store:
            store.evict(0)
        assert snapshot(outside) == before, name


@pytest.mark.parametrize("digest", ["../../outside/victim", "/outside/victim", "", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_no_name_but_a_digest_becomes_a_path(tmp_path, digest):
    with pytest.raises(DamagedBlock, match="is no digest of a KV block"):
        block_name(digest)
    cache = DiskCache(tmp_path, 100)
    assert (cache.get(digest), cache.put(digest, b"x"), cache.nbytes) == (None, False, 0)


def test_a_header_without_end_is_not_read(tmp_path):
    with new_store(tmp_path / "store"):
        pass
    os.truncate(tmp_path / "store" / "store.json", 1 << 40)
    with pytest.raises(StoreError, match="does not describe a log store"):
        LogStore.open(tmp_path / "store")


@pytest.mark.parametrize("write", [False, True])
def test_a_store_with_a_folder_of_blocks_that_is_a_link_is_not_opened(tmp_path, outside, write):
    with new_store(tmp_path / "store"):
        pass
    (tmp_path / "store" / "kv").mkdir(exist_ok=True)
    (tmp_path / "store" / "kv" / "ab").symlink_to(outside / "ab")
    with pytest.raises(StoreError, match="kv/ab is a link, a pipe or a device, which lagkit does not follow"):
        LogStore.open(tmp_path / "store", write=write)
    assert (outside / "ab" / "victim.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("linked", ["kv", "kv/??"])
def test_a_folder_that_becomes_a_link_while_a_store_is_open_is_not_followed(tmp_path, linked):
    with new_store(tmp_path / "store") as store:
        [log] = fill(store, [1])
        [folder] = (tmp_path / "store").glob(linked)
        folder.rename(tmp_path / "outside")
        folder.symlink_to(tmp_path / "outside")
        before = snapshot(tmp_path / "outside")
        again = {
            "read": lambda: store.block(log, "last"),
            "written": lambda: store.put_block(log, "last", kv(1)),
            "listed": store.verify,
            "pruned": store.prune,
            "removed": lambda: store.delete([log]),
        }
        for ask in again.values():
            with pytest.raises(StoreError, match=r"The folder .*kv\S* is a link, which a log store does not follow"):
                ask()
        assert snapshot(tmp_path / "outside") == before


# LanceDB


def lance_log(folder: Path, outside: Path) -> None:
    with LanceStore.open(folder, write=True) as store:
        row = store._row(trace(4), vector(4))
        store._logs.table.merge("id", log_rows(store.header, [(row, str(outside / "victim"))]))


def lance_block(folder: Path, outside: Path) -> None:
    with LanceStore.open(folder, write=True) as store:
        row = BlockRow("last", 3, 8, str(outside / "victim"))
        store._blocks.table.append(block_rows([NewBlock(trace(1).id, row, b"whatever")], 0))


LANCE: dict[str, Attack] = {
    "a log": lance_log,
    "a block": lance_block,
    "a table": linked("blocks.lance", "store"),
    "a table's files": linked("blocks.lance/data", "ab"),
    "the versions": linked("logs.lance/_versions", "ab"),
}


@pytest.mark.parametrize("name", LANCE)
def test_a_strangers_store_in_lancedb_changes_nothing_outside(tmp_path, outside, name):
    place = tmp_path / "store.lance"
    with new_store(place) as store:
        fill(store, [1, 2, 3])
    LANCE[name](place, outside)
    before = snapshot(outside)
    cache = DiskCache(tmp_path / "cache", 10_000)
    said = use(lambda write: LanceStore(str(place), write, cache=cache), tmp_path)
    assert snapshot(outside) == before
    if name in ("a log", "a block"):
        with LanceStore(str(place), cache=cache) as store:
            assert content(store) == {}  # pruned to nothing, and usable
    else:
        assert len(said) == 2
        assert all("is a link, a pipe or a device" in sentence for sentence in said)
        with pytest.raises(StoreError, match="is a link"):
            LanceStore.new(place, HEADER, exist_ok=True)


@pytest.mark.parametrize("name", ["a log", "a block"])
def test_rows_in_lancedb_that_name_a_path_are_damaged(tmp_path, outside, name):
    place = tmp_path / "store.lance"
    with new_store(place) as store:
        fill(store, [1, 2])
    LANCE[name](place, outside)
    with LanceStore.open(place, write=True) as store:
        assert store.verify()["problem"].tolist() == ["a row of it is damaged: its digest is none"]
        assert store.ids == [trace(1).id, trace(2).id]
        store.prune()
        assert store.verify().empty


# Runs


@pytest.fixture(scope="module")
def received(tmp_path_factory):
    """A finished run on a test world."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {"data": None, "world": {"log_questions": 6, "unseen_questions": 6}, "policies": ("no_logs",)}
    run = small_run(folder, new_lm(ActingLM), **settings)
    run.run()
    return folder, settings


RUN_FILES = ["manifest.json", "manifest.tmp", "results.parquet", "summary.csv", "report.md", "traces/log.jsonl"]
RUN_FILES += ["traces/no_logs.unseen.jsonl", "world/controls.json", "world/controls.tmp", "store/logs.sqlite"]


@pytest.mark.parametrize("name", [*RUN_FILES, "traces", "world", "store", "steps", "store/kv"])
def test_a_received_run_writes_through_no_link(received, tmp_path, outside, name):
    folder, settings = received
    shutil.copytree(folder, tmp_path / "run")
    linked(name, "store" if name == "store" else "ab" if "." not in name else "manifest.json")(
        tmp_path / "run", outside
    )
    before = snapshot(outside)

    def anew() -> None:
        small_run(tmp_path / "run", new_lm(ActingLM), **settings).run()

    for use_run in (anew, lambda: finished.reopen(tmp_path / "run"), lambda: finished.published(tmp_path / "run")):
        with pytest.raises(DataError, match=rf"{tmp_path}/run/{name} is a link, a pipe or a device"):
            use_run()
    assert snapshot(outside) == before
