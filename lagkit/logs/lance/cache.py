"""A cache of an object store's files on the local disk: limited in bytes, least recently used first out.

A file is named by the digest of its content, so stores and processes share one folder, and nothing in it grows stale.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from lagkit.logs.files import digest_of
from lagkit.util import files
from lagkit.util.errors import ConfigError, StoreError
from lagkit.util.home import lagkit_home
from lagkit.util.paths import at, is_digest

VARIABLE = "LAGKIT_STORE_CACHE"
DEFAULT = 10 * 2**30
# When the cache is full it is emptied down to this share, so that not every new file looks through all.
_LEFT = 0.9


class DiskCache:
    """Files by their content's digest in `folder`, never more than `limit` bytes in all; 0 keeps nothing.

    Any number of processes may share the folder. A kill at any moment costs room for one file at most, until the next
    time that the cache is full. Raises StoreError where the folder cannot be written to.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = at(folder), limit
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The cache of log stores at {folder} cannot be made ({error}).") from error
        self._turn = threading.Lock()  # a file lock keeps other processes out, not other threads
        self._lock = FileLock(self.folder / "lock", thread_local=False)

    @classmethod
    def of(cls, uri: str) -> DiskCache:
        """The user's cache for an object store, of `$LAGKIT_STORE_CACHE` bytes; for a local folder one of 0 bytes.

        Raises ConfigError if the variable is no whole number.
        """
        told = os.environ.get(VARIABLE, str(DEFAULT))
        if not told.isdecimal():
            raise ConfigError(f"{VARIABLE} is {told!r}; set it to a number of bytes (0: no cache), or unset it.")
        return cls(lagkit_home() / "store-cache", int(told) if "://" in uri else 0)

    def get(self, digest: str) -> bytes | None:
        """The content with this digest, marked as just used; None if it is not cached. A damaged file is removed."""
        if not self.limit or not is_digest(digest):
            return None
        path = self._path(digest)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        if digest_of(content) == digest:
            return content
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, digest: str, content: bytes) -> bool:
        """Keep a file; False if it is larger than the cache, the disk is full, or its name is no digest."""
        if len(content) > self.limit or not is_digest(digest):
            return False
        path = self._path(digest)
        try:
            with self._turn, self._lock:
                if path.exists():
                    return True
                self._claim(len(content))
                path.parent.mkdir(exist_ok=True)
                files.write(path, content, durable=False)  # who reads it computes its checksum
                return True
        except OSError:  # a cache that cannot grow is no reason to fail
            return False

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""
        with self._turn, self._lock:
            return sum(size for _, size, _ in self._files())

    def _claim(self, nbytes: int) -> None:
        """Make room, and count it as taken before it is: a kill leaves a count too high, which the next one mends."""
        total = self._counted()
        if total is None or total + nbytes > self.limit:
            held = sorted(self._files())
            total = sum(size for _, size, _ in held)
            if total + nbytes > self.limit:
                for _, size, path in held:
                    if total + nbytes <= _LEFT * self.limit or not total:
                        break
                    path.unlink(missing_ok=True)
                    total -= size
        files.write(self.folder / "bytes", str(total + nbytes), durable=False)

    def _counted(self) -> int | None:
        try:
            return int((self.folder / "bytes").read_text())
        except (OSError, ValueError):
            return None

    def _files(self) -> list[tuple[int, int, Path]]:
        """When each was last used, its bytes, and where it is; unfinished ones too."""
        found = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest
