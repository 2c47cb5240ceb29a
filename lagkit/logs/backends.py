"""Opens stores by their address: a folder (`LogStore`), or LanceDB on an object store or in a `.lance` folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lagkit.logs.address import SUFFIX, checked_uri
from lagkit.logs.base import Store
from lagkit.logs.store import LogStore
from lagkit.util.errors import StoreError


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
