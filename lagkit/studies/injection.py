"""Cost of injecting logs, against reading their text: from a closed store, and when they are in memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from lagkit.logs.header import Header
from lagkit.logs.planner import Rates, Size, decisions, measure_rates
from lagkit.logs.store import LogStore
from lagkit.model.block_cache import BlockCache
from lagkit.model.cache import build_cache
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.types import Round, Trace

_KEY = "log"


@dataclass(frozen=True)
class Costs:
    """Medians in milliseconds: the parts of a cold and of a hot injection, and a prefill of the same tokens.

    Cold: from a closed store, whose files are in the system's page cache, with checksums. Hot: the blocks were injected
    at these places before. rates: of this model and the folder for temporary files.
    """

    cold: Mapping[str, float]
    hot: Mapping[str, float]
    cold_ms: float
    hot_ms: float
    prefill_ms: float
    rates: Rates
    bytes_per_token: int

    @property
    def cold_share(self) -> float:
        """A cold injection over a prefill."""
        return self.cold_ms / self.prefill_ms

    @property
    def hot_share(self) -> float:
        """A hot injection over a prefill."""
        return self.hot_ms / self.prefill_ms

    def table(self) -> pd.DataFrame:
        """A row for each of `cold`, `hot` and `prefill`, in milliseconds; `share` is that of the prefill."""
        rows = {
            "cold": {**self.cold, "all": self.cold_ms, "share": self.cold_share},
            "hot": {**self.hot, "all": self.hot_ms, "share": self.hot_share},
            "prefill": {"all": self.prefill_ms, "share": 1.0},
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("milliseconds")

    def decisions(self, model: str, kept: int, read: Sequence[int]) -> pd.DataFrame:
        """Decisions of a planner here for logs of `kept` tokens, each behind so many that were `read`: load or not."""
        sizes = [Size(model, tokens, kept, self.bytes_per_token) for tokens in read]
        return decisions({"here": {model: self.rates}}, sizes)


def measure(lm: LM, *, logs: int = 3, tokens: int = 150, repeats: int = 5) -> Costs:
    """Measure with logs of random tokens, in turns: a busy machine slows all of it."""
    rng = np.random.default_rng(0)
    texts = [tuple(rng.integers(3, lm.model.config.vocab_size, tokens).tolist()) for _ in range(logs)]
    whole = Context(tuple(token for text in texts for token in text))
    cold, hot, prefills = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        with LogStore.new(folder, Header.new(lm.fingerprint, "none", 2, lm.dtype)) as store:
            blocks = [lm.encode(Context(text), 0, len(text)) for text in texts]
            vector = np.eye(2, dtype=np.float32)[0]
            traces = [Trace(str(i), f"Question {i}?", "", (Round(str(i), str(i)),)) for i in range(logs)]
            ids = store.add_many((trace, vector, {_KEY: block}) for trace, block in zip(traces, blocks, strict=True))
        for _ in range(repeats):
            cold.append(_inject(lm, Path(folder), ids, held := BlockCache()))
            hot.append(_inject(lm, Path(folder), ids, held))
            began = time.perf_counter()
            lm.encode(whole, 0, 0)
            prefills.append(1e3 * (time.perf_counter() - began))
        with LogStore.open(folder) as store:
            rates = measure_rates(lm, store)
    parts = [{name: median(run[name] for run in runs) for name in runs[0]} for runs in (cold, hot)]
    cold_ms, hot_ms = (median(sum(run.values()) for run in runs) for runs in (cold, hot))
    return Costs(parts[0], parts[1], cold_ms, hot_ms, median(prefills), rates, blocks[0].nbytes // tokens)


def _inject(lm: LM, folder: Path, ids: list[str], hot: BlockCache) -> dict[str, float]:
    """Milliseconds of each step from a closed store to a filled cache."""
    times = [time.perf_counter()]
    with LogStore.open(folder, lm) as store:
        times.append(time.perf_counter())
        rows = [row for log in ids if (row := store.find(log, _KEY))]
        parts = [hot.fetch(row.digest, row.tokens, row.bytes, partial(store.load, row)) for row in rows]
        for part in parts:
            part.resolve()
        times.append(time.perf_counter())
        build_cache([parts], lm.model, lm.realigner, 1)
        times.append(time.perf_counter())
    return dict(zip(("open", "read and check", "realign"), (1e3 * np.diff(times)).tolist(), strict=True))
