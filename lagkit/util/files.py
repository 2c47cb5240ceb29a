"""Atomic writes: a reader sees the old file or the new one, never a part; and reading with damage reported."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lagkit.util.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

# What parsers of JSON, CSV and Parquet raise, and what comes of a value of another shape.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OSError, NotImplementedError, RecursionError)


@contextmanager
def intact(path: Path, remedy: str) -> Iterator[None]:
    """Guard the reading of a file that lagkit wrote: raises DataError, naming it and the remedy, if it is damaged."""
    try:
        yield
    except _DAMAGE as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"The file {path} is damaged ({why}): {remedy}.") from error


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A new file beside `path` to write to, which takes its place when the block ends, and is removed if that fails.

    Its name is random, for any number of processes, and it is created exclusively: no link is written through. durable:
    whether the content is on disk when the block ends. A kill leaves at most a file `NAME.*.new` beside the old one.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    aside.touch(exist_ok=False)  # by O_CREAT and O_EXCL, with the rights that any new file gets
    try:
        yield aside
        if durable:
            publish(aside, path)
        else:
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def publish(aside: Path, target: Path) -> None:
    """Put a finished file in its place: when this returns it is on disk under its name, whatever happens next."""
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(aside, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: str | bytes, *, durable: bool = True) -> Path:
    """Write a whole file as `replacing` does, text as UTF-8; returns `path`."""
    with replacing(path, durable=durable) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_table(path: Path, table: pd.DataFrame, *, durable: bool = True) -> None:
    """Write a table as Parquet, as `replacing` does."""
    with replacing(path, durable=durable) as aside:
        table.to_parquet(aside, compression="zstd")


def as_json(value: Any) -> str:
    """A value as JSON for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people to read."""
    write(path, as_json(value))
