"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, content: str | bytes) -> Path:
    """Write aside, then rename, so that a kill leaves the old file or the new one; returns the path."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    return aside.replace(path)
