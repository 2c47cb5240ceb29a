"""The room that a store takes: a full disk can be emptied, readers do not make it grow, archives promise nothing."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import tarfile
import time
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from lagkit.__main__ import main
from lagkit.logs import archive, database, upkeep
from lagkit.logs.store import LogStore
from lagkit.util.errors import StoreError, StoreFull
from tests.helpers.stores import content, files_of, fill, kv, new_store, trace, vector

# A reader in a transaction


@contextmanager
def reading(store: LogStore):
    """Another connection in the middle of a transaction."""
    other = sqlite3.connect(store.path / "logs.sqlite", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM logs").fetchall()
    try:
        yield
    finally:
        other.close()


def updated(store: LogStore, numbers) -> list[int]:
    """Add and evict under a tiny cap; the sizes of the write-ahead log in between."""
    sizes = []
    for i in numbers:
        store.add(trace(i), vector(i), {"last": kv(i, tokens=50)})
        store.evict(200_000)
        sizes.append((store.path / "logs.sqlite-wal").stat().st_size)
    return sizes


def test_a_reader_in_a_transaction_does_not_make_the_store_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here, and most of the time
    monkeypatch.setattr(database, "HELD", 1 << 20)
    with new_store(tmp_path / "store") as store:
        for setting in ("synchronous = OFF", "busy_timeout = 50", f"journal_size_limit = {1 << 18}"):
            store._db.read(f"PRAGMA {setting}")
        with reading(store):
            said = r"somebody has been reading in one transaction while [\d,]{7,} bytes were written to its write-ahead"
            with pytest.raises(StoreError, match=said):
                updated(store, range(300))
            before = content(store)
            largest = store._db.nbytes
            for change in (lambda: fill(store, [900]), lambda: store.evict(0), store.prune):
                with suppress(StoreError):  # pruning nothing changes nothing
                    change()
            assert content(store) == before
            assert store._db.nbytes == largest < (1 << 20) + (1 << 18) + (256 << 10)  # and one transaction
        after = updated(store, range(300, 320))
        assert after[0] < 1 << 18  # emptied at once
        assert max(after) < database.SLACK
        assert store.verify().empty


def test_an_export_reads_blocks_outside_of_its_transaction(tmp_path, monkeypatch):
    """It may take hours; the write-ahead log of a writer would grow for as long."""
    with new_store(tmp_path / "store") as store:
        fill(store, [1, 2])
        with LogStore.open(store.path) as reader:
            read = reader.content
            seen = []

            def writing(row):
                fill(store, [3 + len(seen)])
                seen.append(store._db.read("PRAGMA wal_checkpoint(TRUNCATE)"))
                return read(row)

            monkeypatch.setattr(reader, "content", writing)
            reader.export(tmp_path / "logs.tar")
        assert seen == [[(0, 0, 0)]] * 2  # nobody was in the way
        with new_store(tmp_path / "other") as other:
            assert other.import_archive(tmp_path / "logs.tar") == [trace(1).id, trace(2).id]


# A full disk

needs_mount = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="mounts a small disk, which takes root"
)


@pytest.fixture
def disk(tmp_path):
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def full(folder: Path) -> None:
    """Use up every byte that is left."""
    with suppress(OSError), open(folder / "ballast", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    with pytest.raises(OSError, match="No space left"):
        (folder / "more").write_bytes(b"x" * 4096)
    (folder / "more").unlink()


@needs_mount
@pytest.mark.parametrize("opened", ["before", "after", "by command"])
def test_prune_frees_a_full_disk(disk, opened):
    store = new_store(disk / "store")
    ids = store.add_many((trace(i), vector(i), {"last": kv(i, tokens=1500)}) for i in range(10))
    store._db.reclaim()
    kept = 6 * (store.nbytes // 10)
    if opened != "before":
        store.close()
    full(disk)
    if opened == "by command":
        assert main(["store", "prune", str(disk / "store"), "--max-bytes", str(kept)]) == 0
        store = LogStore.open(disk / "store", write=True)
    else:
        store = store if opened == "before" else LogStore.open(disk / "store", write=True)
        gone = store.prune(max_bytes=kept)
        assert gone["log"].tolist() == ids[: len(gone)]
    with store:
        assert 3 <= len(store) <= 6
        assert store.ids == ids[-len(store) :]
        assert store._files.nbytes + store._db.live_bytes() <= kept
        assert store.verify().empty
        fill(store, [70])
        assert store.verify().empty


@needs_mount
def test_evict_frees_a_full_disk(disk):
    with new_store(disk / "store") as store:
        ids = store.add_many((trace(i), vector(i), {"last": kv(i, tokens=1500)}) for i in range(10))
        store._db.reclaim()
        full(disk)
        with pytest.raises(StoreError, match=r"disk is full|database or disk"):
            store.add(trace(20), vector(20), {"last": kv(20, tokens=1500)})
        gone = store.evict(store._files.nbytes // 2)
        assert gone == ids[: len(gone)]
        assert 0 < len(store) < 6
        assert store.verify().empty


def test_where_the_disk_is_full_only_files_of_logs_that_go_are_freed_first(tmp_path, monkeypatch):
    with new_store(tmp_path / "store") as store:
        ids = [store.add(trace(i), vector(i), {"last": kv(i, tokens=30_000)}) for i in range(6)]
        size = store._files.nbytes // 6
        assert size > 1 << 20
        delete, there = upkeep.delete_oldest, []

        def refused(db, excess):
            there.append([log for log in ids if has_file(store, log)])
            if len(there) < 4:
                raise StoreFull("no room")
            return delete(db, excess)

        monkeypatch.setattr(upkeep, "delete_oldest", refused)
        # Four go: the first for a start, then as many as take twice as much, and so on.
        assert store.evict(2 * size + store._db.live_bytes() // 3 + 100_000) == ids[:4]
        assert there == [ids, ids[1:], ids[3:], ids[4:]]
        assert store.verify().empty
        there.clear()
        with pytest.raises(StoreFull, match="no room"):  # nothing that could go first
            store.evict(2 * size + store._db.live_bytes() - 1)


def has_file(store: LogStore, log: str) -> bool:
    row = store.find(log, "last")
    return row is not None and store._files.path(row.digest).exists()


def test_a_kill_between_files_and_rows_costs_only_logs_that_go(tmp_path, monkeypatch):
    with new_store(tmp_path / "store") as store:
        ids = [store.add(trace(i), vector(i), {"last": kv(i, tokens=30_000)}) for i in range(3)]
        size, calls = store._files.nbytes // 3, []

        def killed(db, excess):
            calls.append(excess)
            raise StoreFull("no room") if len(calls) == 1 else KeyboardInterrupt

        monkeypatch.setattr(upkeep, "delete_oldest", killed)
        with pytest.raises(KeyboardInterrupt):
            store.evict(size // 2)
    monkeypatch.undo()
    with LogStore.open(store.path, write=True) as store:
        assert store.verify()["log"].tolist() == ids[:1]
        store.prune()
        assert (store.ids, store.block_keys(ids[0]), store.block_keys(ids[1])) == (ids, [], ["last"])
        assert store.verify().empty


# Archives


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, raw in members:
            stored, member.size = member.size, len(raw)
            tar.addfile(member, io.BytesIO(raw))
            member.size = stored
    return path


def sparse(name: str, size: int) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a few bytes that unpacks to `size` ones."""
    member = tarfile.TarInfo(name)
    member.pax_headers = {"GNU.sparse.map": f"{size - 1},1", "GNU.sparse.size": str(size), "GNU.sparse.numblocks": "1"}
    return member, b"x"


def refused_cheaply(path: Path, folder: Path, said: str) -> None:
    with new_store(folder) as target:
        tracemalloc.start()
        try:
            began = time.monotonic()
            with pytest.raises(StoreError, match=said):
                target.import_archive(path)
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
            assert time.monotonic() - began < 30
        finally:
            tracemalloc.stop()
        assert (len(target), files_of(target)) == (0, [])


@pytest.fixture
def exported(tmp_path):
    with new_store(tmp_path / "source") as store:
        fill(store, [1, 2])
        return store.export(tmp_path / "good.tar")


@pytest.mark.parametrize("name", ["store.json", "logs.jsonl", "embeddings.safetensors", "kv"])
def test_a_sparse_member_is_refused_by_name(exported, tmp_path, name):
    with tarfile.open(exported) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    at = next(i for i, (member, _) in enumerate(members) if member.name.startswith(name))
    members[at] = sparse(members[at][0].name, 1 << 32)
    path = packed(tmp_path / "bad.tar", *members)
    assert path.stat().st_size < 40_000
    refused_cheaply(
        path, tmp_path / "target", rf"bad\.tar is no intact archive of logs \(its member '{name}.*is sparse"
    )


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_member_that_promises_more_than_there_is_takes_no_memory(tmp_path, kind):
    member = tarfile.TarInfo("store.json")
    member.type, member.size = kind, 1 << 32
    (tmp_path / "bad.tar").write_bytes(
        member.tobuf(tarfile.GNU_FORMAT) + b"10 path=a\n".ljust(512, b"\0") + bytes(1024)
    )
    refused_cheaply(tmp_path / "bad.tar", tmp_path / "target", "archive of logs")


def test_members_that_no_log_names_are_refused_at_the_first(exported, tmp_path, monkeypatch):
    with tarfile.open(exported) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    many = [(tarfile.TarInfo(f"kv/{i % 256:02x}/{i % 256:02x}{i:062x}.safetensors"), b"") for i in range(2000)]
    path, seen = packed(tmp_path / "bad.tar", *members[:4], *many, *members[4:]), []
    members_of = archive.Archive._plain_members
    monkeypatch.setattr(
        archive.Archive, "_plain_members", lambda self: (seen.append(name) or name for name in members_of(self))
    )
    refused_cheaply(path, tmp_path / "target", r"no log names its member 'kv/00/0000")
    assert len(seen) == 5


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    member = tarfile.TarInfo("store.json")
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        member.size = 64 << 20
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    refused_cheaply(tmp_path / "bad.tar.gz", tmp_path / "target", "cannot be read as an archive of logs")


# Embeddings

WRONG = {
    "text": ("who", "text was given: embed it first"),
    "texts": (["1.0"] * 8, "text was given: embed it first"),
    "nothing": (None, "object was given"),
    "a mapping": ({"a": 1.0}, "object was given"),
    "truth": ([True] * 8, "bool was given"),
    "complex": (np.ones(8, complex), "complex128 was given"),
    "bytes": (b"12345678", "text was given"),
    "ragged": ([[1.0], [1.0, 2.0]], "what was given is no array"),
    "bfloat16": (torch.ones(8, dtype=torch.bfloat16), "what was given is no array"),
    "gradients": (torch.ones(8, requires_grad=True), "what was given is no array"),
    "a number": (1.0, r"an array of shape \[1\] was given"),
    "short": (np.ones(7), r"an array of shape \[1, 7\] was given"),
    "too large": (np.full(8, 1e300), "holds nan or inf"),
    "nan": (np.full(8, np.nan), "holds nan or inf"),
    "long": (np.ones(8), "has length 2.8284 instead of 1"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("place", ["store", "store.lance"])
def test_embeddings_of_a_wrong_type_are_refused_in_a_sentence(tmp_path, place, name):
    wrong, said = WRONG[name]
    with new_store(tmp_path / place) as store:
        fill(store, [1])
        with pytest.raises(StoreError, match=f"(A query|The embedding of log {trace(2).id}) .*{said}") as error:
            store.add(trace(2), wrong)
        assert "\n" not in str(error.value)
        with pytest.raises(StoreError, match=f"A query .*{said}"):
            store.search([wrong], 1)
        assert store.ids == [trace(1).id]


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.longdouble, list, torch.tensor])
def test_embeddings_of_another_float_are_taken_as_float32(tmp_path, kind):
    given = kind(vector(1)) if kind in (list, torch.tensor) else vector(1).astype(kind)
    with new_store(tmp_path / "store") as store:
        store.add(trace(1), given)
        assert np.abs(store.embeddings()[0] - vector(1)).max() < 1e-3
        assert store.embeddings().dtype == np.float32
        assert store.search([given], 1)[0][0].id == trace(1).id
