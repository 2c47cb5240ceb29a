"""Absolute paths, and checks of names and links from untrusted files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lagkit.util.errors import ConfigError, LagkitError

_DIGEST = re.compile("[0-9a-f]{64}")


def at(path: str | os.PathLike[str], base: Path | None = None) -> Path:
    """An absolute path: `~` is the user's home, and what is relative is below `base`, by default the current folder.

    Called once, where a path enters: `os.chdir` changes nothing afterwards. Links are kept as they are. Raises
    ConfigError for what is no text and no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"{path!r} stands where a path is needed: give a file or a folder, in quotes.")
    return ((base or Path()) / os.path.expanduser(path)).absolute()


def shown(place: Path | str) -> str:
    """A place for a page that may be shared: a path from the current folder, which does not name the user's home."""
    return os.path.relpath(place) if isinstance(place, Path) else place


def is_digest(name: object) -> bool:
    """Whether a name from a file is a digest in 64 lower hexadecimal digits, the only ones that become file names."""
    return isinstance(name, str) and _DIGEST.fullmatch(name) is not None


def refuse_links(folder: Path, error: type[LagkitError], depth: int = 1) -> None:
    """Raises `error` if a link, a pipe or a device is in `folder`, or in folders of it down to `depth` levels.

    A folder may come from a stranger: what is written through a link, or deleted behind one, lies elsewhere.
    """
    for entry in _foreign(folder, depth):
        raise error(
            f"{entry} is a link, a pipe or a device, which lagkit does not follow out of {folder}: remove it, or put "
            "what it leads to in its place."
        )


def _foreign(folder: Path | str, depth: int) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # whoever needs the folder says what is wrong with it
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if depth > 1:
                yield from _foreign(entry.path, depth - 1)
        elif not entry.is_file(follow_symlinks=False):
            yield entry.path


def file_size(path: Path) -> int:
    """The bytes of a file; 0 where there is none (any more)."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
