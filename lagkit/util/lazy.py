"""Lazy submodules: imported when they are first used."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType


def submodules(package: str, path: Iterable[str]) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package's `__init__`."""
    names = sorted(module.name for module in pkgutil.iter_modules(path))

    def found(name: str) -> ModuleType:
        if name not in names:
            raise AttributeError(f"{package} has no {name!r}; it has {', '.join(names)}.")
        return import_module(f"{package}.{name}")

    return found, lambda: names
