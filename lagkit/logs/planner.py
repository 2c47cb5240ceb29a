"""Load or recompute a log's KV: whichever is faster, by the measured rates of the store and the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from timeit import repeat, timeit
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.util.errors import StoreError

if TYPE_CHECKING:
    from lagkit.logs.files import BlockRow
    from lagkit.logs.store import Store

Way = Literal["load", "recompute"]

_SAMPLE = 16  # blocks that are read to measure a store
_PREFILLED = 256  # tokens that are read to measure a model


@dataclass(frozen=True)
class Rates:
    """Rates of a machine: `prefill` in tokens per second, `read` in bytes per second after `latency` seconds."""

    prefill: float
    read: float
    latency: float = 0.0

    def load_s(self, nbytes: int) -> float:
        """Seconds until a block of so many bytes has been read."""
        return self.latency + nbytes / self.read

    def recompute_s(self, tokens: int) -> float:
        """Seconds until the model has read so many tokens, a log's whole context up to the last one that is kept."""
        return tokens / self.prefill

    def way(self, tokens: int, nbytes: int) -> Way:
        """The faster of the two; loading, if they are equal."""
        return "load" if self.load_s(nbytes) <= self.recompute_s(tokens) else "recompute"


def measure_rates(lm: LM, store: Store) -> Rates:
    """The rates of this model and this store, as they are now: what the system has in memory is read from there.

    Up to 16 blocks are read once each, checksums included. Latency is fitted where their sizes
    differ by more than a factor of two, and is part of the rate otherwise. Raises StoreError if there is no block.
    """
    rows = _blocks(store)
    if not rows:
        raise StoreError(f"The log store at {store.path} has no KV blocks yet: encode logs before planning.")
    nbytes = np.array([row.bytes for row in rows], float)
    seconds = np.array([timeit(partial(store.load, row), number=1) for row in rows])
    read, latency = nbytes.sum() / seconds.sum(), 0.0
    if nbytes.max() > 2 * nbytes.min():
        per_byte, constant = np.polyfit(nbytes, seconds, 1)
        if per_byte > 0 and constant > 0:
            read, latency = 1 / per_byte, constant
    context = Context(tuple(range(3, 3 + _PREFILLED)))
    prefill = _PREFILLED / median(repeat(partial(lm.encode, context, 0, 0), number=1, repeat=3))
    return Rates(prefill, float(read), float(latency))


def _blocks(store: Store) -> list[BlockRow]:
    """Some blocks of the store, the smallest and the largest of those looked at among them."""
    found: dict[str, BlockRow] = {}
    for log in store.ids[: 4 * _SAMPLE]:
        found |= {row.digest: row for key in store.block_keys(log) if (row := store.find(log, key))}
    rows = sorted(found.values(), key=lambda row: row.bytes)
    return rows[: _SAMPLE // 2] + rows[_SAMPLE // 2 :][-_SAMPLE // 2 :]


@dataclass(frozen=True)
class Size:
    """A log in a model: tokens that are `read` to compute its KV, those `kept`, and the bytes of one of these."""

    model: str
    read: int
    kept: int
    bytes_per_token: int

    @property
    def nbytes(self) -> int:
        """Bytes of the block."""
        return self.kept * self.bytes_per_token

    def __str__(self) -> str:
        return f"{self.model}, {self.kept} of {self.read} tokens"


def decisions(rates: Mapping[str, Mapping[str, Rates]], sizes: Sequence[Size]) -> pd.DataFrame:
    """What a planner decides: a row for each place and each log of a model that the place has rates for.

    rates: place -> model -> rates. Columns: `place`, `log`, `way`, `load_ms`, `recompute_ms`, and `gain`, how many
    times faster the better way is.
    """
    rows = []
    for place, of_models in rates.items():
        for size in sizes:
            if found := of_models.get(size.model):
                load, recompute = found.load_s(size.nbytes), found.recompute_s(size.read)
                gain = max(load, recompute) / min(load, recompute)
                way = found.way(size.read, size.nbytes)
                rows.append((place, str(size), way, 1e3 * load, 1e3 * recompute, gain))
    return pd.DataFrame(rows, columns=["place", "log", "way", "load_ms", "recompute_ms", "gain"])
