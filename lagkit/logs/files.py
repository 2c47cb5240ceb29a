"""The rows of a store, and its block files, named by content and written atomically: `kv/ab/<digest>.safetensors`."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from lagkit.model.kv import KVBlock
from lagkit.model.names import Codec
from lagkit.util import files
from lagkit.util.errors import DamagedBlock, StoreError
from lagkit.util.paths import file_size, is_digest

SUFFIX = ".safetensors"


class BlockRow(NamedTuple):
    """What a store knows of one KV block of one log."""

    key: str
    tokens: int
    bytes: int
    digest: str


# A log as stores hold it: id, embedding (little-endian float32), trace as JSON.
LogRow = tuple[str, bytes, str]


class Packed(NamedTuple):
    """A log as it travels from one store to another: nothing of it is decoded."""

    id: str
    embedding: bytes
    trace: str
    blocks: tuple[BlockRow, ...]


class NewBlock(NamedTuple):
    """A block on its way into a store, as the bytes of its file."""

    log: str
    row: BlockRow
    content: bytes


def digest_of(content: bytes) -> str:
    """The BLAKE3 of a file's content: as sound as a SHA-256, and two to four times as fast."""
    return blake3(content).hexdigest()


def block_name(digest: str) -> str:
    """A block file's name relative to the store; raises DamagedBlock for what is no digest, and so could lead out."""
    if not is_digest(digest):
        raise DamagedBlock(f"{digest!r:.80} is no digest of a KV block: the store that names it is damaged.")
    return f"kv/{digest[:2]}/{digest}{SUFFIX}"


def dtype_name(block: KVBlock) -> str:
    """The name of a block's dtype in a header."""
    return str(block.keys.dtype).removeprefix("torch.")


class BlockFiles:
    """The block files of the store in `folder`, all of one codec.

    Equal blocks share one file, so a file may serve several logs.
    """

    def __init__(self, folder: Path, codec: Codec) -> None:
        self.folder = folder
        self.codec = codec
        self._nbytes: int | None = None

    def path(self, digest: str) -> Path:
        """The path of the file with this content; raises StoreError if a folder on the way is a link."""
        return self._own(block_name(digest))

    def _own(self, name: str) -> Path:
        """The path of a file of the store, by its name; raises StoreError if a folder on the way is a link by now."""
        place = str(self.folder)
        for part in name.split("/")[:-1]:
            place = os.path.join(place, part)
            _refuse_link(place)
        return self.folder / name

    def put(self, block: NewBlock) -> None:
        """Write a block's file; it is on disk when this returns. Raises StoreError (a full disk, say), naming it."""
        root, target = self.folder / "kv", self.path(block.row.digest)
        try:
            root.mkdir(exist_ok=True)
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                files.sync_folder(root)
            before = file_size(target)
            files.write(target, block.content)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            why = f"the disk is full ({shutil.disk_usage(self.folder).free:,} bytes are free)" if full else str(error)
            raise StoreError(
                f"Block {block.row.key!r} of log {block.log} could not be stored in {self.folder}: it needs "
                f"{len(block.content):,} bytes, but {why}. The store is as it was before; make room "
                "(prune(max_bytes=...) removes the oldest logs) and add it again."
            ) from error
        if self._nbytes is not None:
            self._nbytes += len(block.content) - before

    def load(self, digest: str, nbytes: int) -> KVBlock:
        """A block, its checksum computed. Raises DamagedBlock, naming the file."""
        return KVBlock.parse(self.content(digest, nbytes), self.path(digest), self.codec)

    def content(self, digest: str, nbytes: int) -> bytes:
        """The bytes of a file; raises DamagedBlock, naming it, unless they are what was stored."""
        path = self.path(digest)
        try:
            data = path.read_bytes() if _plain_size(path) == nbytes else b""
        except OSError:
            data = b""
        if digest_of(data) == digest:
            return data
        if flaw := self.flaw(digest, nbytes):
            raise DamagedBlock(
                f"The KV block {path} {flaw}. All other blocks stay usable; verify() lists what is damaged, prune() "
                "removes it, and then the block can be added again."
            )
        raise DamagedBlock(f"The KV block {path} changed while it was read: ask for it again.")

    def flaw(self, digest: str, nbytes: int) -> str | None:
        """What is wrong with a file, in a few words, or None; raises StoreError if it cannot be looked at."""
        path = self.path(digest)
        try:
            size = _plain_size(path)
            if size is None:
                return "is damaged: it is a link, a pipe or a device"
            if size != nbytes:
                return f"is damaged: it has {size:,} bytes instead of {nbytes:,}"
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, blake3)  # type: ignore[arg-type]  # not typed as a hash
            return None if found.hexdigest() == digest else "is damaged: its content is not what was stored"
        except (FileNotFoundError, NotADirectoryError):
            return "is missing"
        except OSError as error:
            if error.errno == errno.EIO:
                return f"is damaged: it cannot be read ({error})"
            # No reason to think that the file is damaged, nor to remove it: permissions, a disk that is not there.
            raise StoreError(f"The KV block {path} may not be read ({error}): see to its permissions.") from error

    def demand(self, any_blocks: bool) -> None:
        """Raise StoreError where there are `any_blocks`, but no folder `kv`: on a disk that is not mounted, say."""
        if any_blocks and not (self.folder / "kv").is_dir():
            raise StoreError(
                f"The folder {self.folder / 'kv'} is missing, so all KV blocks would be taken for lost: put it back, "
                "or, if it is lost, make an empty one."
            )

    def names(self) -> Iterator[str]:
        """All files below `kv/`, unfinished ones too, relative to the store; raises StoreError, for links too."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise StoreError(f"The folder {error.filename} cannot be listed ({error}).") from error

        _refuse_link(self.folder / "kv")
        for parent, folders, names in os.walk(self.folder / "kv", onerror=refuse):
            for name in folders:
                _refuse_link(Path(parent) / name)
            for name in names:
                yield (Path(parent) / name).relative_to(self.folder).as_posix()

    @property
    def nbytes(self) -> int:
        """The bytes of all files below `kv/`, for a writer: listed once, and then counted."""
        if self._nbytes is None:
            self._nbytes = sum(file_size(self.folder / name) for name in self.names())
        return self._nbytes

    def remove(self, name: str) -> int:
        """Remove a file by its name relative to the store; returns how many bytes that freed. Raises StoreError."""
        path = self._own(name)
        try:
            size = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreError(f"The file {path} could not be removed ({error}): prune() tries again.") from error
        if self._nbytes is not None:
            self._nbytes -= size
        return size


def _refuse_link(folder: Path | str) -> None:
    if os.path.islink(folder):
        raise StoreError(
            f"The folder {folder} is a link, which a log store does not follow: put what it leads to in its place, or "
            "remove it."
        )


def _plain_size(path: Path) -> int | None:
    """The bytes of a file; None for what is no file of its own. Raises OSError."""
    status = path.lstat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None
