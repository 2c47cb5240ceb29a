"""Archives of strangers: nothing but a sound archive of our own is let in, and a refusal leaves no trace."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from lagkit.__main__ import main
from lagkit.logs.files import digest_of
from lagkit.logs.store import LogStore
from lagkit.util.errors import StoreError
from tests.helpers.stores import HEADER, content, files_of, fill, kv, new_store


@pytest.fixture
def parts(folder_store, tmp_path):
    """The members of a sound archive of three logs, by name."""
    fill(folder_store, [1, 2, 3])
    with tarfile.open(folder_store.export(tmp_path / "good.tar")) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def pack(path, parts, *more, seal=True):
    """Write members as an archive, with right checksums unless `seal` is off, and further ones after them."""
    names = ("store.json", "logs.jsonl", "embeddings.safetensors")
    if seal:
        sums = {name: digest_of(parts[name]) for name in names if name in parts}
        parts = {**parts, "checksums.json": json.dumps(sums).encode()}
    with tarfile.open(path, "w") as tar:
        for name, raw in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
        for member in more:
            tar.addfile(member, io.BytesIO(b"x" * member.size))


def files_around(path):
    return sorted(file for file in path.parent.rglob("*") if not file.is_dir())


def refused(path, message):
    """Import into a store with a log of its own; it must be refused, and leave no trace."""
    folder = path.parent / "target"
    with new_store(folder) as target:
        fill(target, [9])
        before, files, around = content(target), files_of(target), files_around(path)
        with pytest.raises(StoreError, match=message) as error:
            target.import_archive(path)
        assert str(path) in str(error.value)
        assert (content(target), files_of(target), files_around(path)) == (before, files, around)
        assert target.verify().empty
    shutil.rmtree(folder)


def member(name, kind=tarfile.REGTYPE, size=0, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


@pytest.mark.parametrize(
    "stranger",
    [
        member("../evil", size=3),
        member("/evil", size=3),
        member("kv/../../evil.safetensors", size=3),
        member(f"kv/ab/{'AB' * 32}.safetensors", size=3),
        member(f"kv/cd/ab{'0' * 62}.safetensors", size=3),
        member("kv/", tarfile.DIRTYPE),
        member("logs.jsonl", size=3),
        member(f"kv/ab/ab{'0' * 62}.safetensors", tarfile.SYMTYPE, target="/etc/passwd"),
        member(f"kv/ab/ab{'0' * 62}.safetensors", tarfile.LNKTYPE, target="store.json"),
        member(f"kv/ab/ab{'0' * 62}.safetensors", tarfile.FIFOTYPE),
    ],
    ids=lambda m: f"{m.name[:20]}-{m.type.decode()}",
)
def test_members_that_do_not_belong_there_are_refused(parts, tmp_path, stranger):
    pack(tmp_path / "bad.tar", parts, stranger)
    refused(tmp_path / "bad.tar", r"is no intact archive of logs \(its member .* does not belong there\)")


@pytest.mark.parametrize("name", ["store.json", "logs.jsonl", "embeddings.safetensors", "checksums.json", "kv"])
def test_a_missing_member_is_named(parts, tmp_path, name):
    gone = next(part for part in parts if part.startswith(name))
    pack(tmp_path / "bad.tar", {part: raw for part, raw in parts.items() if part != gone}, seal=name == "kv")
    refused(tmp_path / "bad.tar", f"it has no {gone}")


def changed_log(parts, change):
    logs = [json.loads(line) for line in parts["logs.jsonl"].splitlines()]
    change(logs)
    return {**parts, "logs.jsonl": "\n".join(json.dumps(log) for log in logs).encode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logs: logs[1].update(id=logs[0]["id"]), "a trace is not what its id says"),
        (lambda logs: logs[1]["trace"].update(system="Lie."), "a trace is not what its id says"),
        (lambda logs: logs[1]["trace"].update(colour="red"), "colour"),
        (lambda logs: logs[1].pop("trace"), "trace"),
        (lambda logs: logs.pop(), "it has 3 embeddings for 2 logs"),
        (lambda logs: logs[1].update(blocks=[{"key": "k"}]), "missing 3 required"),
        (lambda logs: logs[1]["blocks"][0].update(key=5), "encode"),
        (lambda logs: logs[1]["blocks"][0].update(key="\ud800"), "surrogates not allowed"),
        (lambda logs: logs[1]["blocks"][0].update(digest="../../evil"), "'../../evil' is no digest of a block"),
        (lambda logs: logs[1]["blocks"][0].update(bytes=1), "the size of block"),
        (lambda logs: logs[1]["blocks"][0].update(tokens=4), "is another KV block"),
        (lambda logs: logs.__setitem__(1, 7), "not subscriptable"),
    ],
)
def test_malformed_logs_are_refused(parts, tmp_path, change, message):
    pack(tmp_path / "bad.tar", changed_log(parts, change))
    refused(tmp_path / "bad.tar", message)


def test_deeply_nested_json_is_refused(parts, tmp_path):
    pack(tmp_path / "bad.tar", {**parts, "logs.jsonl": b"[" * 100_000})
    refused(tmp_path / "bad.tar", "recursion")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"format": 5}, "store.json has store format 5, newer than the 4"),
        ({"format": 3}, "store.json has store format 3, of an earlier lagkit"),
        ({"kind": "x"}, "store.json does not describe a log store"),
        ({"model": {"name": "other"}}, r'built with model {"name": "other"}, but {"name": "tiny", "rope": "r1"} was'),
    ],
)
def test_other_headers_are_refused(parts, tmp_path, head, message):
    head = {**json.loads(parts["store.json"]), "crc32": None, **head}
    pack(tmp_path / "bad.tar", {**parts, "store.json": json.dumps(head).encode()})
    refused(tmp_path / "bad.tar", message)


def test_wrong_embeddings_are_refused(parts, tmp_path):
    rows = load(parts["embeddings.safetensors"])["embeddings"]
    for changed, message in [
        ({"embeddings": rows * 2}, "has length 2.0000"),
        ({"embeddings": rows[:, :4].copy()}, r"an array of shape \[3, 4\]"),
        ({"vectors": rows}, "embeddings"),
    ]:
        pack(tmp_path / "bad.tar", {**parts, "embeddings.safetensors": save(changed)})
        refused(tmp_path / "bad.tar", message)
    pack(tmp_path / "bad.tar", {**parts, "embeddings.safetensors": b"\xff" * 100})
    refused(tmp_path / "bad.tar", "is no intact archive")


def swap_block(parts, raw):
    """Replace one block by other bytes, with everything that names it put right."""
    old = next(name for name in parts if name.startswith("kv/"))
    digest = digest_of(raw)

    def change(logs):
        for block in (block for log in logs for block in log["blocks"]):
            if block["digest"] in old:
                block.update(digest=digest, bytes=len(raw))

    kept = {name: part for name, part in parts.items() if name != old}
    return changed_log({**kept, f"kv/{digest[:2]}/{digest}.safetensors": raw}, change)


def test_blocks_that_are_something_else_are_refused(parts, tmp_path):
    half = kv(1).to(kv(1).keys.bfloat16().dtype).dump()
    for raw, message in [
        (b"no tensors", "is no KV block"),
        (save({"keys": np.zeros(3)}), "is no KV block"),
        (half, "is another KV block"),
    ]:
        pack(tmp_path / "bad.tar", swap_block(parts, raw))
        refused(tmp_path / "bad.tar", message)
    name = next(name for name in parts if name.startswith("kv/"))
    pack(tmp_path / "bad.tar", {**parts, name: parts[name][:-1] + b"x"})
    refused(tmp_path / "bad.tar", f"the checksum of block {name[6:-12]} is wrong")


def test_files_of_other_formats_are_refused(parts, tmp_path):
    good = (tmp_path / "good.tar").read_bytes()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("store.json", parts["store.json"])
    pickled = b"\x80\x04cos\nsystem\n(S'touch evil'\ntR."
    for raw in (
        b"",
        b"hello",
        zipped.getvalue(),
        gzip.compress(good),
        pickled,
        good[:700],
        good[: len(good.rstrip(b"\0")) // 2],
    ):
        (tmp_path / "bad.tar").write_bytes(raw)
        refused(tmp_path / "bad.tar", "cannot be read as an archive of logs|is no intact archive of logs")
    refused(tmp_path / "absent.tar", "cannot be read as an archive of logs .*No such file")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_one_altered_byte_is_refused_or_harmless(tmp_path, place, mask):
    path = tmp_path / "good.tar"
    with LogStore.new(tmp_path / "source", HEADER, exist_ok=True) as source:
        if not path.exists():
            fill(source, [1, 2, 3])
            source.export(path)
        wanted = content(source)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= mask
    (tmp_path / "bad.tar").write_bytes(raw)
    with LogStore.new(tmp_path / "target", HEADER, exist_ok=True) as target:
        try:
            target.import_archive(tmp_path / "bad.tar")
        except StoreError:
            assert (len(target), files_of(target)) == (0, [])
        else:
            assert content(target) == wanted
            target.delete(target.ids)


def test_a_damaged_archive_leaves_no_new_store(parts, tmp_path):
    damaged = {name: raw[:-1] + b"!" if name.startswith("kv/") else raw for name, raw in parts.items()}
    pack(tmp_path / "bad.tar", damaged)
    assert main(["store", "import", str(tmp_path / "new"), str(tmp_path / "bad.tar")]) == 2
    assert not (tmp_path / "new").exists()
