"""What a notebook shows of a store."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

from lagkit.util.paths import shown

if TYPE_CHECKING:
    from lagkit.logs.contract import Readable


def card(store: Readable, held: str) -> str:
    """A store's facts and kinds of blocks as HTML; `held` names where its bytes are."""
    facts = {
        "model": store.model.get("name", json.dumps(store.model)),
        "embedder": f"{store.embedder} ({store.dim} dimensions)",
        "dtype": store.dtype,
        "codec": store.codec,
        "logs": f"{len(store):,}",
        held: f"{store.nbytes:,} bytes",
    }
    rows = "".join(f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    path = escape(shown(store.path))
    return f"<b>{type(store).__name__}</b> <code>{path}</code><table>{rows}</table>{store.summary().to_html()}"
