"""`kv/ab/<sha256>.safetensors`: block files, named by their content, whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from safetensors import SafetensorError

from lagkit.model.codec import Codec, packed_bytes
from lagkit.model.kv import KVBlock
from lagkit.util.errors import DamagedBlock, StoreError
from lagkit.util.files import publish, sync_folder
from lagkit.util.paths import file_size, is_digest

SUFFIX = ".safetensors"


class BlockRow(NamedTuple):
    """What the database knows of one KV block of one log."""

    key: str
    tokens: int
    bytes: int
    sha256: str


def block_name(sha256: str) -> str:
    """A block file's name relative to the store; raises DamagedBlock for what is no sha256, and so could lead out."""
    if not is_digest(sha256):
        raise DamagedBlock(f"{sha256!r:.80} is no sha256 of a KV block: the store that names it is damaged.")
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
        """Where the file with this content stands; raises StoreError if a folder on the way is a link."""
        return self._own(self.folder / block_name(sha256))

    def _own(self, path: Path) -> Path:
        """The path of a file below the store; raises StoreError if a folder on the way is a link."""
        for folder in path.parents:
            if folder == self.folder:
                return path
            if folder.is_symlink():
                self._refuse_link(folder)
        raise StoreError(f"{path} is not in the log store at {self.folder}.")

    def _refuse_link(self, folder: Path) -> NoReturn:
        raise StoreError(
            f"The folder {folder} is a link, which a log store does not follow: put what it leads to in its place, or "
            "remove it."
        )

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
            data = path.read_bytes() if _plain_size(path) == nbytes else b""
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
        """What is wrong with a file, in a few words, or None; raises StoreError if it cannot be looked at."""
        path = self.path(sha256)
        try:
            size = _plain_size(path)
            if size is None:
                return "is damaged: it is a link, a pipe or a device"
            if size != nbytes:
                return f"is damaged: it has {size:,} bytes instead of {nbytes:,}"
            return None if _digest(path) == sha256 else "is damaged: its content is not what was stored"
        except (FileNotFoundError, NotADirectoryError):
            return "is missing"
        except OSError as error:
            if error.errno == errno.EIO:
                return f"is damaged: it cannot be read ({error})"
            # No reason to think that the file is damaged, nor to remove it: permissions, a disk that is not there.
            raise StoreError(f"The KV block {path} may not be read ({error}): see to its permissions.") from error

    def demand(self, any_blocks: bool) -> None:
        """Raises StoreError where there are `any_blocks`, but no folder to hold them: elsewhere is not lost."""
        if any_blocks and not (self.folder / "kv").is_dir():
            raise StoreError(
                f"The folder {self.folder / 'kv'} is missing, so all KV blocks would be taken for lost: put it back, "
                "or, if it is lost, make an empty one."
            )

    def names(self) -> Iterator[str]:
        """All files below `kv/`, unfinished ones too, relative to the store.

        Raises StoreError if one may not look, or if a folder is a link.
        """

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise StoreError(f"The folder {error.filename} cannot be listed ({error}).") from error

        for parent, folders, files in os.walk(self.folder / "kv", onerror=refuse):
            for folder in folders:
                if (Path(parent) / folder).is_symlink():
                    self._refuse_link(Path(parent) / folder)
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
        path = self._own(self.folder / name)
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


def _plain_size(path: Path) -> int | None:
    """The bytes of a file; None for what is no file of its own. Raises OSError."""
    status = path.lstat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
