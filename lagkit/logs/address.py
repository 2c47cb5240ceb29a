"""Addresses of stores: a folder, a `.lance` folder, or an address on an object store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from lagkit.util.errors import StoreError
from lagkit.util.paths import at

SCHEMES = ("s3", "gs", "az")
SUFFIX = ".lance"


def checked_uri(place: str | Path) -> str:
    """An address without a slash at its end; a folder as an absolute path.

    Raises StoreError for one that cannot be a store's, or holds credentials.
    """
    uri = str(place)
    if "://" not in uri:
        return str(at(uri))
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StoreError(
            "A store's address is only a bucket and a path, such as s3://bucket/logs; credentials and endpoint belong "
            "in environment variables (docs/stores.md)."
        )
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise StoreError(
            f"{uri} is no place for a store; give a folder, or {', '.join(f'{s}://...' for s in SCHEMES)}."
        )
    return uri.rstrip("/")


def beside(place: str | Path, name: str) -> str:
    """The address of another store next to one: `s3://bucket/logs` and `s3://bucket/logs-steps`, for `steps`."""
    uri = checked_uri(place)
    stem, suffix = (uri.removesuffix(SUFFIX), SUFFIX) if uri.endswith(SUFFIX) else (uri, "")
    return f"{stem}-{name}{suffix}"
