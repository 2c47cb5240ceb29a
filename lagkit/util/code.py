"""Digest of a function by its compiled code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

_CONSTANTS = (bool, int, float, str, bytes, tuple, frozenset, re.Pattern, type(None))


def digest(function: Callable[..., Any]) -> str:
    """Eight hex digits for a function: its code, defaults, and the functions and constants of its module that it uses.

    The same in each process of a Python version. Raises TypeError for what is no function of Python.
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function!r} is no function of Python")
    return hashlib.sha256(repr(_function(function, set())).encode()).hexdigest()[:8]


def _function(function: FunctionType, known: set[FunctionType]) -> list[Any]:
    if function in known:
        return []
    known.add(function)
    used = [function.__globals__.get(name) for name in sorted(_names(function.__code__))]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    values = [*used, *cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    own = [value for value in values if not isinstance(value, FunctionType) or value.__module__ == function.__module__]
    return [_code(function.__code__), [_value(value, known) for value in own]]


def _value(value: Any, known: set[FunctionType]) -> Any:
    if isinstance(value, FunctionType):
        return _function(value, known)
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return repr(value) if isinstance(value, _CONSTANTS) else type(value).__name__


def _code(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), code.co_names, [_value(constant, set()) for constant in code.co_consts]]


def _names(code: CodeType) -> set[str]:
    """The names that a function and those inside of it use."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
