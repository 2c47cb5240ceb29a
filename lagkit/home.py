"""The folder where lagkit keeps what it fetched or computed once: models and embeddings."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import platformdirs

from lagkit.paths import at


@cache  # a relative one is where it was when it was first asked for
def _home(named: str | None) -> Path:
    return at(named or platformdirs.user_cache_dir("lagkit"))


def lagkit_home() -> Path:
    """`$LAGKIT_HOME`, or the platform's cache folder for this user; created when missing."""
    home = _home(os.environ.get("LAGKIT_HOME"))
    home.mkdir(parents=True, exist_ok=True)
    return home
