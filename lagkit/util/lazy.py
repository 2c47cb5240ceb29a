"""What is imported, or loaded, when it is first used."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING


def submodules(package: str, path: Iterable[str]) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package's `__init__`."""
    names = sorted(module.name for module in pkgutil.iter_modules(path))

    def found(name: str) -> ModuleType:
        if name not in names:
            raise AttributeError(f"{package} has no {name!r}; it has {', '.join(names)}.")
        return import_module(f"{package}.{name}")

    return found, lambda: names


if TYPE_CHECKING:
    loaded_once = cached_property
else:

    class loaded_once(cached_property):
        """A cached property that takes long: the first thread that asks loads it, others wait for what it loads."""

        _turn = RLock()  # one of them may ask for another

        def __get__(self, instance: object, owner: type | None = None) -> object:
            with self._turn:
                return super().__get__(instance, owner)
