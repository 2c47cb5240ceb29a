"""`kv/ab/<sha256>.safetensors`: block files, named by their content, whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from safetensors import SafetensorError

from lagkit.codec import Codec, packed_bytes
from lagkit.errors import DamagedBlock, StoreError
from lagkit.files import publish, sync_folder
from lagkit.kv import KVBlock

SUFFIX = ".safetensors"


class BlockRow(NamedTuple):
    """What the database knows of one KV block of one log."""

    key: str
    tokens: int
    bytes: int
    sha256: str


def block_name(sha256: str) -> str:
    """A block file's name relative to the store."""
    return f"kv/{sha256[:2]}/{sha256}{SUFFIX}"


def dtype_name(block: KVBlock) -> str:
    """The dtype of a block as a store's header names it."""
    return str(block.keys.dtype).removeprefix("torch.")


class BlockFiles:
    """The block files of the store in `folder`, all of one codec.

    Equal blocks share one file, so a file may serve several logs.
    """

    def __init__(self, folder: Path, codec: Codec) -> None:
        self.folder = folder
        self.codec = codec
        self._nbytes: int | None = None

    def path(self, sha256: str) -> Path:
        """Where the file with this content stands."""
        return self.folder / block_name(sha256)

    def save(self, block: KVBlock, what: str) -> tuple[str, int]:
        """Write a block; returns its file's sha256 and bytes. Raises StoreError (a full disk, say), naming `what`."""
        try:
            needed = packed_bytes(block.keys, block.values, self.codec)
            return self._place(partial(block.save, codec=self.codec), needed, what)
        except ValueError as error:
            raise StoreError(
                f"{what} cannot be kept as {self.codec} ({error}): look at the model's keys and values, or use a store "
                "with codec none."
            ) from error

    def adopt(self, source: BinaryIO, nbytes: int, what: str) -> tuple[str, int]:
        """Copy a block file from a stream, as `save`."""

        def copy(path: Path) -> None:
            with open(path, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)

        return self._place(copy, nbytes, what)

    def _place(self, write: Callable[[Path], None], needed: int, what: str) -> tuple[str, int]:
        root = self.folder / "kv"
        aside = root / f"new-{uuid.uuid4().hex}{SUFFIX}"
        try:
            root.mkdir(exist_ok=True)
            write(aside)
            sha256, nbytes = _digest(aside), aside.stat().st_size
            target = self.path(sha256)
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                sync_folder(root)
            before = file_size(target)
            publish(aside, target)
            if self._nbytes is not None:
                self._nbytes += nbytes - before
        except (OSError, SafetensorError) as error:
            raise StoreError(self._refusal(error, needed, what)) from error
        finally:
            with suppress(OSError):  # it is gone, or stays as an orphan
                aside.unlink()
        return sha256, nbytes

    def _refusal(self, error: Exception, needed: int, what: str) -> str:
        # safetensors reports what the system said in words only.
        said = re.search(r"os error (\d+)", str(error))
        code = int(said[1]) if said else getattr(error, "errno", None)
        full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = f"the disk is full ({shutil.disk_usage(self.folder).free:,} bytes are free)" if full else str(error)
        return (
            f"{what} could not be stored in {self.folder}: it needs {needed:,} bytes, but {why}. The store is as it "
            "was before; make room (prune(max_bytes=...) removes the oldest logs) and add it again."
        )

    def load(self, sha256: str, nbytes: int) -> KVBlock:
        """A block, its checksum computed. Raises DamagedBlock, naming the file."""
        path = self.path(sha256)
        try:
            data = path.read_bytes() if path.stat().st_size == nbytes else b""
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != sha256:
            self.check(sha256, nbytes)  # tells what is wrong
            raise DamagedBlock(f"The KV block {path} changed while it was read: ask for it again.")
        return KVBlock.parse(data, path, self.codec)

    def check(self, sha256: str, nbytes: int) -> None:
        """Read the whole file and raise DamagedBlock unless it is what was stored."""
        if flaw := self.flaw(sha256, nbytes):
            raise DamagedBlock(
                f"The KV block {self.path(sha256)} {flaw}. All other blocks stay usable; verify() lists what is "
                "damaged, prune() removes it, and then the block can be added again."
            )

    def content(self, sha256: str, nbytes: int) -> bytes:
        """The bytes of a file; raises as `check`."""
        self.check(sha256, nbytes)
        try:
            return self.path(sha256).read_bytes()
        except OSError as error:
            raise DamagedBlock(f"The KV block {self.path(sha256)} vanished while it was read ({error}).") from error

    def flaw(self, sha256: str, nbytes: int) -> str | None:
        """What is wrong with a file, in a few words, or None; raises StoreError if it may not be looked at."""
        path = self.path(sha256)
        try:
            size = path.stat().st_size
            if size != nbytes:
                return f"is damaged: it has {size:,} bytes instead of {nbytes:,}"
            return None if _digest(path) == sha256 else "is damaged: its content is not what was stored"
        except FileNotFoundError:
            return "is missing"
        except PermissionError as error:  # no reason to think that the file is damaged, nor to remove it
            raise StoreError(f"The KV block {path} may not be read ({error}): see to its permissions.") from error
        except OSError as error:
            return f"is damaged: it cannot be read ({error})"

    def names(self) -> Iterator[str]:
        """All files below `kv/`, unfinished ones too, relative to the store; raises StoreError if one may not look."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise StoreError(f"The folder {error.filename} cannot be listed ({error}).") from error

        for parent, _, files in os.walk(self.folder / "kv", onerror=refuse):
            for file in files:
                yield (Path(parent) / file).relative_to(self.folder).as_posix()

    @property
    def nbytes(self) -> int:
        """The bytes of all files below `kv/`, for whom has the store for writing: listed once, and then counted."""
        if self._nbytes is None:
            self._nbytes = sum(file_size(self.folder / name) for name in self.names())
        return self._nbytes

    def remove(self, name: str) -> int:
        """Remove a file by its name relative to the store; returns how many bytes that freed. Raises StoreError."""
        path = self.folder / name
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreError(f"The file {path} could not be removed ({error}): prune() tries again.") from error
        if self._nbytes is not None:
            self._nbytes -= size
        return size


def file_size(path: Path) -> int:
    """The bytes of a file; 0 where there is none (any more)."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
