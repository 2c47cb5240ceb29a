"""Where a store is says what keeps it: a folder (`LogStore`), or LanceDB on an object store or in a `.lance` folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lagkit.logs.base import Store
from lagkit.logs.store import LogStore
from lagkit.util.errors import StoreError
from lagkit.util.paths import at

SCHEMES = ("s3", "gs", "az")
SUFFIX = ".lance"


def store_at(place: str | Path) -> type[Store]:
    """The class whose stores are at such a place: a folder, `s3://...`, `gs://...`, `az://...`, or `folder.lance`.

    Raises StoreError for an address of another kind, and where LanceDB is asked for but not installed.
    """
    uri = checked_uri(place)
    if "://" not in uri and not uri.endswith(SUFFIX):
        return LogStore
    if find_spec("lancedb") is None:
        raise StoreError(f"Stores like {uri} need LanceDB: pip install 'lagkit[lance]'.")
    from lagkit.logs.lance import LanceStore

    return LanceStore


def open_store(place: str | Path, **how: Any) -> Store:
    """The store at a place, as `Store.open` takes it; raises what that and `store_at` raise."""
    return store_at(place).open(place, **how)


def checked_uri(place: str | Path) -> str:
    """A place as text, no slash at its end, a folder as `paths.at` has it.

    Raises StoreError for what can be no store's, or holds credentials.
    """
    uri = str(place)
    if "://" not in uri:
        return str(at(uri))
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StoreError(
            "A store's address is only a bucket and a path, such as s3://bucket/logs; credentials and endpoint belong "
            "into environment variables (docs/stores.md)."
        )
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise StoreError(
            f"{uri} is no place for a store; give a folder, or {', '.join(f'{s}://...' for s in SCHEMES)}."
        )
    return uri.rstrip("/")


def beside(place: str | Path, name: str) -> str:
    """The place of another store next to one: `s3://bucket/logs` and `s3://bucket/logs-steps`, for `steps`."""
    uri = checked_uri(place)
    stem, suffix = (uri.removesuffix(SUFFIX), SUFFIX) if uri.endswith(SUFFIX) else (uri, "")
    return f"{stem}-{name}{suffix}"
