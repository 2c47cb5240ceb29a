"""What KV in fewer bits costs: bytes, errors of keys and values, divergence of next tokens, and other answers.

Everything is against the same logs as the model made them. `int8` is the codec of `model.codec`; the other schemes
are what it was chosen from, and are not offered.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor

from lagkit.agent.context import KVContextBuilder
from lagkit.datasets import loaders as data
from lagkit.logs.encode import Encoder
from lagkit.logs.header import Header
from lagkit.logs.store import LogStore, Store
from lagkit.model.cache import build_cache
from lagkit.model.codec import CODECS, dequantise, quantise
from lagkit.model.kv import KVBlock
from lagkit.model.names import Codec
from lagkit.policy import Variant
from lagkit.runs.answers import result_row
from lagkit.runs.experiment import Experiment
from lagkit.stats.intervals import paired_interval
from lagkit.studies.drift import divergence
from lagkit.studies.examples import meet
from lagkit.types import Question, Trace
from lagkit.util.errors import ConfigError
from lagkit.util.progress import progress

TARGET_BYTES, TARGET_AGREEMENT = 0.53, 0.99
AGAIN = "uncompressed, other batches"


@dataclass(frozen=True)
class Scheme:
    """A way to write KV in `bits`: keys with a scale for each channel, or for each token as values have it.

    offset: numbers are counted from the smallest one that shares the scale, rather than from zero; scale and offset
    then take two bytes each, where a scale alone takes one.
    """

    bits: int
    offset: bool = False
    keys: str = "channel"

    def lossy(self, block: KVBlock) -> KVBlock:
        """The block as it comes back."""
        keys, values = self._back(block.keys, 2 if self.keys == "channel" else 3), self._back(block.values, 3)
        return KVBlock(keys.to(block.keys.dtype), values.to(block.keys.dtype), block.ids)

    def nbytes(self, block: KVBlock) -> float:
        """Bytes of its numbers and their scales, without a file's header."""
        layers, heads, tokens, channels = block.keys.shape
        shared = layers * heads * (tokens + (channels if self.keys == "channel" else tokens))
        return self.bits / 8 * 2 * block.keys.numel() + (4 if self.offset else 1) * shared

    def _back(self, numbers: Tensor, shared: int) -> Tensor:
        if not self.offset:
            quantised, places = quantise(numbers, shared, 2 ** (self.bits - 1) - 0.8)
            return dequantise(quantised, places.squeeze(shared), shared, numbers.dtype)
        numbers, steps = numbers.float(), 2**self.bits - 1
        low, high = numbers.amin(shared, keepdim=True), numbers.amax(shared, keepdim=True)
        scale, low = (t.bfloat16().float() for t in ((high - low).clamp(min=1e-30) / steps, low))
        return ((numbers - low) / scale).round().clamp(0, steps) * scale + low


# 4 bits have offsets: without, they are worse.
SCHEMES: dict[str, Scheme] = {
    "int8": Scheme(8),
    "int8, keys by token": Scheme(8, keys="token"),
    "int8 with offsets": Scheme(8, offset=True),
    "int4": Scheme(4),
    "int4 with offsets": Scheme(4, offset=True),
}
ANSWERED = ("int8", "int4 with offsets")


class Loss:
    """A run, its stored logs under one KV policy, and what schemes make of them; answers are kept in the run's folder.

    `cases`: for how many unseen questions divergence is measured. Raises ConfigError for a run whose own store is
    compressed, and for a policy that injects no KV, or that of single steps.
    """

    def __init__(self, run: Experiment, policy: str, cases: int) -> None:
        variant = Variant.parse(policy)
        self.run, self.name, self.policy, self.cases = run, policy, variant.policy, cases
        self.limits = variant.limits(run.config.limits)
        if run.config.store.codec != "none":
            raise ConfigError(
                f"The run's own store is kept as {run.config.store.codec}: compare with one of codec none."
            )
        if self.policy is None or self.policy.inject != "kv" or self.policy.unit != "trace":
            raise ConfigError(f"{policy} keeps no KV of whole logs, so no codec changes it: name another policy.")
        self.key = Encoder(run.local_lm, run.prompt).key(self.policy)

    @cached_property
    def blocks(self) -> dict[str, KVBlock]:
        """The run's logs as they were encoded, by id, without those of no tokens."""
        self._build()
        with self.run.store() as store:
            found = {log: store.block(log, self.key) for log in store if store.has_block(log, self.key)}
        return {log: block for log, block in found.items() if len(block)}

    def _build(self) -> None:
        self.run.build()
        self.run.encode()

    def schemes(self) -> pd.DataFrame:
        """A row per scheme, means over logs.

        `bytes`: over those of bf16; `keys`, `values`: relative error (Frobenius norm); `kl`, `agreement`: as in
        `drift.divergence`, over the tokens of a prompt behind its nearest log.
        """
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in SCHEMES}
        for block in self.blocks.values():
            for name, scheme in SCHEMES.items():
                back = scheme.lossy(block)
                rows[name].append(
                    {
                        "bytes": scheme.nbytes(block) / (4 * block.keys.numel()),
                        "keys": relative_error(block.keys, back.keys),
                        "values": relative_error(block.values, back.values),
                    }
                )
        means = pd.DataFrame({name: pd.DataFrame(found).mean() for name, found in rows.items()}).T
        return means.join(self._divergences())

    def _divergences(self) -> pd.DataFrame:
        run, rows = self.run, []
        lm, builder = run.local_lm, KVContextBuilder(run.local_lm, run.prompt, self.policy)
        for case in progress(meet(run, self.cases), "Next tokens behind logs"):
            if (block := self.blocks.get(case.log.id)) is None:
                continue
            ways = {"": block} | {name: scheme.lossy(block) for name, scheme in SCHEMES.items()}
            contexts = {n: builder.build(case.question, case.user_turn, (b,)) for n, b in ways.items()}
            logits = {name: lm.logits(context) for name, context in contexts.items()}
            expected = logits.pop("")
            rows += [{"scheme": name, **divergence(expected, found)} for name, found in logits.items()]
        return pd.DataFrame(rows).groupby("scheme").mean()

    def answers(self) -> pd.DataFrame:
        """How often a scheme's logs give the answer that the uncompressed ones give; a row per scheme, and `AGAIN`.

        `AGAIN` is the uncompressed store once more, in batches of half the size: what rounding alone changes. Columns:
        `n`; `same` answers with their share's Wilson interval `low`, `high`; `same_responses`, in all rounds; `right`
        and `right_before`, shares; `gain`, their paired difference with its interval.
        """
        with self.run.writing():
            self._build()
            with self.run.store() as store:
                plain = self._ask("", store)
                half = max(1, self.limits.batch_size // 2)
                found = {AGAIN: self._ask(".again", store, batch_size=half)}
            for name in ANSWERED:
                with self._store(name) as store:
                    found[name] = self._ask(f".{name.replace(' ', '-')}", store)
        return pd.DataFrame({name: self._compared(plain, traces) for name, traces in found.items()}).T

    @property
    def questions(self) -> list[Question]:
        """The questions of all the run's splits; seen ones find their own log."""
        return [question for split in self.run.config.data.splits for question in self.run.questions(split)]

    def _ask(self, suffix: str, store: Store, **changes: Any) -> list[Trace]:
        limits = replace(self.limits, **changes)
        return self.run.ask(f"{self.name}.codec{suffix}", self.policy, self.name, self.questions, store, limits=limits)

    def _store(self, name: str) -> LogStore:
        """The run's logs as a scheme leaves them: in a store with that codec, or as lossy blocks in one without."""
        scheme, folder = SCHEMES[name], self.run.out / "codecs" / name.replace(" ", "-")
        codec: Codec = "int8" if name == "int8" else "none"
        head = Header.of(self.run.lm, self.run.embedder, codec)
        with self.run.store() as plain, LogStore.new(folder, head, exist_ok=True) as store:
            store.delete([log for log in store if log not in plain])
            for log, vector in zip(plain.ids, plain.embeddings(), strict=True):
                if log not in store:
                    block = self.blocks.get(log)
                    kept = {} if block is None else {self.key: block if codec == "int8" else scheme.lossy(block)}
                    store.add(plain.get(log), vector, kept)
        return LogStore.open(folder, codec=codec)

    def _compared(self, plain: Sequence[Trace], traces: Sequence[Trace]) -> dict[str, Any]:
        pairs = list(zip(plain, traces, strict=True))
        same = sum(a.answer == b.answer and not (a.error or b.error) for a, b in pairs)
        found = binomtest(same, len(pairs)).proportion_ci(method="wilson")
        before, after = (
            pd.Series({q.id: self._right(q, t) for q, t in zip(self.questions, told, strict=True)})
            for told in (plain, traces)
        )
        return {
            "n": len(pairs),
            "same": same,
            "low": found.low,
            "high": found.high,
            "same_responses": sum([r.response for r in a.rounds] == [r.response for r in b.rounds] for a, b in pairs),
            "right_before": before.mean(),
            "right": after.mean(),
            "gain": paired_interval(before, after, data.hops(self.questions)),
        }

    @staticmethod
    def _right(question: Question, trace: Trace) -> float:
        row = result_row(question, trace)
        return float(row["em"] if "em" in row else row["accuracy"])

    def files(self) -> dict[str, float]:
        """Bytes of int8 files over those of bf16, files with their headers.

        `all` logs; the `worst` log, of `worst_tokens`; `tokens`, the mean; `from_tokens`: no block of so many tokens or
        more takes more than `TARGET_BYTES`.
        """
        sizes = {log: file_sizes(block) for log, block in self.blocks.items()}
        like = next(iter(self.blocks.values())).keys
        first = shortest(like.shape[0], like.shape[1], like.shape[3])
        worst = max(sizes, key=lambda log: sizes[log]["int8"] / sizes[log]["none"])
        return {
            "all": sum(size["int8"] for size in sizes.values()) / sum(size["none"] for size in sizes.values()),
            "worst": sizes[worst]["int8"] / sizes[worst]["none"],
            "worst_tokens": len(self.blocks[worst]),
            "tokens": sum(map(len, self.blocks.values())) / len(self.blocks),
            "from_tokens": first,
        }

    def reading(self, repeats: int = 5) -> dict[str, float]:
        """Median milliseconds from a log's file to a cache with its KV in place, uncompressed and int8, in turns."""
        lm = self.run.local_lm
        times: dict[Codec, list[float]] = {"none": [], "int8": []}
        with tempfile.TemporaryDirectory() as folder:
            for number, block in enumerate(list(self.blocks.values())[:20]):
                paths = {codec: Path(folder) / f"{number}-{codec}" for codec in times}
                for codec, path in paths.items():
                    path.write_bytes(block.dump(codec))
                for codec in [*times] * repeats:
                    began = time.perf_counter()
                    found = KVBlock.parse(paths[codec].read_bytes(), paths[codec], codec)
                    build_cache([[found]], lm.model, lm.realigner, 1)
                    times[codec].append(1e3 * (time.perf_counter() - began))
        return {str(codec): median(found) for codec, found in times.items()}


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Norm of the difference over norm of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def file_sizes(block: KVBlock) -> Mapping[str, int]:
    """Bytes of the block's file in bf16, by codec."""
    return {codec: len(block.to(torch.bfloat16).dump(codec)) for codec in CODECS}


def shortest(layers: int, kv_heads: int, head_dim: int, limit: int = 64) -> int:
    """The least tokens from which on no block up to `limit` takes more than `TARGET_BYTES` of bf16 as int8.

    Longer ones take less, since their tokens share the scales of the keys. `limit + 1` if even these take more.
    """
    for tokens in range(limit, 0, -1):
        numbers = torch.ones(layers, kv_heads, tokens, head_dim)
        sizes = file_sizes(KVBlock(numbers, numbers, torch.arange(tokens)))
        if sizes["int8"] > TARGET_BYTES * sizes["none"]:
            return tokens + 1
    return 1
