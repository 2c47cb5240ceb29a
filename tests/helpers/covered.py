"""Which settings have a test, so that a new one without fails the tests; and how commands refuse them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., None])


class Covered:
    """A decorator that notes the settings whose effect a test shows; `names` counts the tests of each."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    def __call__(self, *names: str) -> Callable[[Test], Test]:
        """Note `names` for the test that is decorated."""
        self.names.update(names)
        return lambda test: test


def fails(capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int], *words: object) -> str:
    """What a command says that is refused with one line."""
    assert command([str(word) for word in words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line
