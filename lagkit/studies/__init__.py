"""Studies of the notebooks, one module a question."""

from collections.abc import Sequence
from typing import Any

from lagkit.util.errors import ConfigError
from lagkit.util.lazy import submodules


def at_least_one(**given: int | Sequence[Any]) -> None:
    """Refuse parameters of a notebook, numbers or lists, of which it needs at least one; raises ConfigError."""
    for name, value in given.items():
        if not isinstance(value, int | list | tuple):
            raise ConfigError(f"{name} = {value!r} is neither a whole number nor a list: give one of the two.")
        if (value if isinstance(value, int) else len(value)) < 1:
            what = "a whole number above 0" if isinstance(value, int) else "at least one"
            raise ConfigError(f"Nothing could be shown with {name} = {value!r}: give {what}.")


__getattr__, __dir__ = submodules(__name__, __path__)
