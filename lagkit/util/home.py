"""Folders of lagkit: what is shipped with it, and its cache."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import platformdirs

from lagkit.util.paths import at

BUNDLED = Path(__file__).resolve().parents[1] / "_bundled"


def laboratory() -> Path:
    """The folder of `nightly.yaml`, `notebooks/`, `data/` and `tests/baselines/`: the checkout, or a wheel's copy.

    The copy, `BUNDLED`, is not written to: it may be read-only, and the next installation replaces it.
    """
    return BUNDLED if BUNDLED.is_dir() else BUNDLED.parents[1]


@cache  # a relative one is where it was when it was first asked for
def _home(named: str) -> Path:
    return at(named)


def lagkit_home() -> Path:
    """`$LAGKIT_HOME`, or the platform's cache folder for this user; created when missing."""
    home = _home(os.path.expanduser(os.environ.get("LAGKIT_HOME") or platformdirs.user_cache_dir("lagkit")))
    home.mkdir(parents=True, exist_ok=True)
    return home
