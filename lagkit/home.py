"""The folder where lagkit keeps what it fetched or computed once: models and embeddings."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def lagkit_home() -> Path:
    """`$LAGKIT_HOME`, or the platform's cache folder for this user; created when missing."""
    named = os.environ.get("LAGKIT_HOME")
    home = Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("lagkit"))
    home.mkdir(parents=True, exist_ok=True)
    return home
