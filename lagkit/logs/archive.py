"""Archives: a store in one file, a plain tar of JSON and safetensors, verified before any of it is used.

    store.json              the header
    logs.jsonl              one log a line: its id, its trace, its blocks (key, tokens, bytes, digest)
    embeddings.safetensors  `embeddings`, float32 [logs, dim], in the order of logs.jsonl
    checksums.json          the digests of these three
    kv/ab/<digest>.safetensors

Members are read by these names, in this order, and never unpacked by names in the file. None is read before it is
known to be complete, so that nothing is allocated for sizes that an archive only claims.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lagkit.logs.embeddings import unit_rows
from lagkit.logs.files import BlockRow, Packed, block_name, digest_of, dtype_name
from lagkit.logs.header import NAME as HEADER
from lagkit.logs.header import Header
from lagkit.model.kv import KVBlock
from lagkit.types import MALFORMED, Trace
from lagkit.util.errors import DamagedBlock, StoreError
from lagkit.util.files import replacing
from lagkit.util.paths import is_digest

LOGS, EMBEDDINGS, CHECKSUMS = "logs.jsonl", "embeddings.safetensors", "checksums.json"
_MEMBER = re.compile(rf"{HEADER}|{LOGS}|{EMBEDDINGS}|{CHECKSUMS}|kv/([0-9a-f]{{2}})/\1[0-9a-f]{{62}}\.safetensors")

# Exceptions from parsing an untrusted file.
_MALFORMED = (
    *MALFORMED,
    OSError,
    OverflowError,
    MemoryError,  # what a header promises is allocated before it is read
    tarfile.TarError,
    SafetensorError,
)


def write_archive(
    path: Path, header: Header, logs: Callable[[], Generator[Packed, None, None]], content: Callable[[BlockRow], bytes]
) -> Path:
    """Write all logs to `path` atomically, and return it.

    `logs` and `content` ask the store, and raise its errors. Raises StoreError if the file exists or
    cannot be written.
    """
    if path.exists():
        raise StoreError(f"{path} exists already: remove it, or export under another name.")
    try:
        with replacing(path) as aside, tarfile.open(aside, "w") as tar, closing(logs()) as packed:
            _fill(tar, header, packed, content)
    except OSError as error:
        raise StoreError(f"The archive {path} could not be written ({error}).") from error
    return path


def _fill(tar: tarfile.TarFile, header: Header, logs: Iterable[Packed], content: Callable[[BlockRow], bytes]) -> None:
    lines, vectors = [], []
    found: dict[str, BlockRow] = {}
    for log in logs:
        found |= {block.digest: block for block in log.blocks}
        blocks = [block._asdict() for block in log.blocks]
        lines.append(json.dumps({"id": log.id, "trace": json.loads(log.trace), "blocks": blocks}) + "\n")
        vectors.append(np.frombuffer(log.embedding, dtype="<f4"))
    matrix = np.stack(vectors) if vectors else np.zeros((0, header.dim), np.float32)
    parts = {
        HEADER: header.to_json(),
        LOGS: "".join(lines).encode(),
        EMBEDDINGS: save({"embeddings": matrix}),
    }
    parts[CHECKSUMS] = json.dumps({name: digest_of(part) for name, part in parts.items()}).encode()
    for name, part in parts.items():
        _put(tar, name, part)
    for digest, block in found.items():
        _put(tar, block_name(digest), content(block))


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class _Bounded(io.BufferedReader):
    """A file whose reads end with it: `tarfile` allocates what a header claims before it reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


class Archive:
    """An archive whose logs were checked when it was opened, and whose blocks `check` reads; a context manager."""

    header: Header
    logs: list[Packed]

    def __init__(self, path: Path) -> None:
        """Raises StoreError, naming what is wrong, for anything that `write_archive` did not write."""
        self.path = path
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(_Bounded(path))
                self._tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 - needs no closing
            except _MALFORMED as error:
                raise StoreError(f"{path} cannot be read as an archive of logs ({error}).") from error
            with self._intact():
                self._read()
            opened.pop_all()
        self._checked = False

    @contextmanager
    def _intact(self) -> Iterator[None]:
        try:
            yield
        except _MALFORMED as error:
            raise StoreError(f"{self.path} is no intact archive of logs ({error}).") from error

    def _read(self) -> None:
        """Raises ValueError, and others of `_MALFORMED`, for a member that is not what comes next."""
        self._members: dict[str, tarfile.TarInfo] = {}
        members = self._plain_members()
        for name in (HEADER, LOGS, EMBEDDINGS, CHECKSUMS):
            if next(members, None) != name:
                raise ValueError(f"it has no {name} in its place")
        parts = {name: self._content(name) for name in (HEADER, LOGS, EMBEDDINGS, CHECKSUMS)}
        self.header = Header.parse(parts[HEADER], f"{self.path}: {HEADER}")
        checksums: dict[str, str] = json.loads(parts.pop(CHECKSUMS))
        for name, part in parts.items():
            if digest_of(part) != checksums[name]:
                raise ValueError(f"the checksum of {name} is wrong")
        self.logs = list(self._packed(parts[LOGS], parts[EMBEDDINGS]))
        named = {block_name(block.digest) for log in self.logs for block in log.blocks}
        for name in members:
            if name not in named:
                raise ValueError(f"no log names its member {name!r}")

    def check(self) -> None:
        """Read all blocks, once; raises StoreError if one is not what the archive promises."""
        if not self._checked:
            with self._intact():
                self._check([block for log in self.logs for block in log.blocks])
            self._checked = True

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def content(self, block: BlockRow) -> bytes:
        """The bytes of a block's file."""
        return self._content(block_name(block.digest))

    def _plain_members(self) -> Iterator[str]:
        """The names of the members, each taken note of once it is known to be a file that is there as a whole."""
        for member in self._tar:
            name, plain = member.name, member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            if not plain or not _MEMBER.fullmatch(name) or name in self._members:
                raise ValueError(f"its member {name!r} does not belong there")
            if member.issparse():
                raise ValueError(f"its member {name!r} is sparse")
            if member.offset_data + member.size > self._file.size:
                raise ValueError(f"its member {name!r} is cut off")
            self._members[name] = member
            yield name

    def _content(self, name: str) -> bytes:
        file = self._tar.extractfile(self._members[name]) if name in self._members else None
        if file is None:
            raise ValueError(f"it has no {name}")
        return file.read()

    def _packed(self, lines: bytes, embeddings: bytes) -> Iterator[Packed]:
        logs: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
        vectors = unit_rows(load(embeddings)["embeddings"], self.header.dim, f"An embedding of {self.path}")
        if len(vectors) != len(logs):
            raise ValueError(f"it has {len(vectors)} embeddings for {len(logs)} logs")
        for log, vector in zip(logs, vectors, strict=True):
            trace, blocks = Trace.from_dict(log["trace"]), tuple(BlockRow(**block) for block in log["blocks"])
            if trace.id != log["id"]:
                raise ValueError("a trace is not what its id says")
            if strange := [block.digest for block in blocks if not is_digest(block.digest)]:
                raise ValueError(f"{strange[0]!r:.80} is no digest of a block")
            yield Packed(trace.id, vector.astype("<f4").tobytes(), json.dumps(trace.to_dict()), blocks)

    def _check(self, blocks: Sequence[BlockRow]) -> None:
        """Read all blocks; raises ValueError if one is not what the archive promises."""
        sizes = {name: member.size for name, member in self._members.items()}
        for block in blocks:
            block.key.encode()  # refuses what is no text, or none that a database takes
            if sizes.get(block_name(block.digest), block.bytes) != block.bytes:
                raise ValueError(f"the size of block {block.digest} is wrong")
        for block in {block.digest: block for block in blocks}.values():
            content = self.content(block)
            if digest_of(content) != block.digest:
                raise ValueError(f"the checksum of block {block.digest} is wrong")
            try:
                found = KVBlock.parse(content, self.path, self.header.codec)
            except DamagedBlock as error:
                raise ValueError(f"{block.digest} is no KV block") from error
            if (len(found), dtype_name(found)) != (block.tokens, self.header.dtype):
                raise ValueError(f"{block.digest} is another KV block")
