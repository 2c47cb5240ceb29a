"""The kinds of faults: each takes a random generator and an empty folder, and says what was found."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lagkit.util.errors import LagkitError

Kind = Callable[[random.Random, Path], str]
KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    def register(made: Kind) -> Kind:
        KINDS[name] = made
        return made

    return register


def refusal(do: Callable[[], Any]) -> str | None:
    """The sentence with which something was refused; None if it was done."""
    try:
        do()
    except LagkitError as error:
        return str(error)
    return None
