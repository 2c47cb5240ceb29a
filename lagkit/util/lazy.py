"""What is imported, or loaded, when it is first used."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any


def submodules(package: str, path: Iterable[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package's `__init__`: its modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(path))
    return attributes(package, {name: f"{package}.{name}" for name in names})


def attributes(
    package: str, places: Mapping[str, str], *own: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package's `__init__`. places: name -> `module:name`, or a module.

    own: names that it has by itself.
    """

    def found(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"{package} has no {name!r}; it has {', '.join(places)}.")
        module, _, attribute = places[name].partition(":")
        value = import_module(module)
        value = getattr(value, attribute) if attribute else value
        setattr(sys.modules[package], name, value)  # where it is found from now on
        return value

    return found, lambda: [*places, *own]


_GRAMMAR = "rfc3987_syntax"


def import_nbformat() -> None:
    """Import nbformat without a grammar that takes 1.5 s to compile: kernels, jobs and commands start sooner.

    It is a grammar of addresses, which no notebook is checked against: nbformat imports jsonschema, and that the
    grammar, where JupyterLab is installed. The price: jsonschema then takes anything for an address (`iri`).
    """
    if _GRAMMAR in sys.modules:
        return
    sys.modules[_GRAMMAR] = None  # type: ignore[assignment]  # its import raises ImportError, as if it were not there
    try:
        import_module("nbformat")
    finally:
        sys.modules.pop(_GRAMMAR, None)


if TYPE_CHECKING:
    loaded_once = cached_property
else:

    class loaded_once(cached_property):
        """A cached property that takes long: the first thread that asks loads it, others wait for what it loads."""

        _turn = RLock()  # one of them may ask for another

        def __get__(self, instance: object, owner: type | None = None) -> object:
            with self._turn:
                return super().__get__(instance, owner)
