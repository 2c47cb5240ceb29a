"""Stores of many made-up logs, which are searched by codes from 200 logs on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from lagkit.logs import quantised, vectors
from lagkit.logs.store import Store
from lagkit.types import Hit, Round, Trace


@contextmanager
def few_are_many() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "QUANTISED_FROM", 200)
        patch.setattr(quantised, "SAMPLE", 512)
        yield


def told(i: int) -> Trace:
    return Trace(f"q{i}", f"Who is {i}?", "", (Round("?", str(i)),))


def add(store: Store, rows: Iterable[np.ndarray], start: int = 0) -> list[str]:
    """Add a log for each embedding, numbered from `start` on."""
    return store.add_many((told(start + i), row, {}) for i, row in enumerate(rows))


def ids(hits: Sequence[Sequence[Hit]]) -> list[list[str]]:
    return [[hit.id for hit in row] for row in hits]
