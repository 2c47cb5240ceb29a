"""Support of models: whether KV can be moved, how exactly, its size, and the cost of injecting it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from lagkit.model import families
from lagkit.model.cache import build_cache, prefill, stack_layers
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM
from lagkit.runs.experiment import Experiment
from lagkit.stats.metrics import summarize
from lagkit.studies.drift import dense, divergence
from lagkit.studies.sanity import displaced
from lagkit.util.errors import LagkitError, UnsupportedModel
from lagkit.util.progress import progress

EXACT = 1e-4  # the largest relative error of a layer's keys, in float32, that still counts as exact
DTYPES = ("float32", "bfloat16")
SUPPORTED, REFUSED, UNMEASURED = "supported", "refused", "not measured"


class Load(Protocol):
    """`LM.load`, `families.load` and their like."""

    def __call__(self, name: str, /, *, dtype: str) -> LM: ...


@dataclass(frozen=True)
class Sizes:
    """Sizes in tokens: a log, a prompt behind it, the distance of the move, and a block whose injection is timed.

    texts: how many pairs of log and prompt are drawn, of random tokens. repeats: of each timing.
    """

    log: int = 48
    prompt: int = 32
    shift: int = 48
    texts: int = 8
    timed: int = 256
    repeats: int = 7


def survey(
    names: Iterable[str], load: Load, sizes: Sizes, *, dtypes: Sequence[str] = DTYPES, seed: int = 0
) -> pd.DataFrame:
    """A row per model, named by the index; the columns are those of `measure`. One model is in memory at a time."""
    names = list(names)
    rows = [measure(name, load, sizes, dtypes=dtypes, seed=seed) for name in progress(names, "Measuring models")]
    columns = None if rows else ["verdict", "reason"]
    return pd.DataFrame(rows, pd.Index(names, name="model", dtype=object), columns)


def survey_families(
    names: Sequence[str], sizes: Sizes, *, dtypes: Sequence[str] = DTYPES, seed: int = 0
) -> pd.DataFrame:
    """`survey` of tiny random models, one a family; all families that lagkit knows if none is named."""
    return survey(families.listed(names), families.load, sizes, dtypes=dtypes, seed=seed)


def traits(names: Iterable[str]) -> list[str]:
    """Peculiarity of the keys of each family; empty for a model of another name."""
    return [families.FAMILIES[name].trait if name in families.FAMILIES else "" for name in names]


def measure(name: str, load: Load, sizes: Sizes, *, dtypes: Sequence[str] = DTYPES, seed: int = 0) -> dict[str, Any]:
    """One model's row: `verdict` (supported, refused, not measured), `reason` (an error's sentence), and measurements.

    For each dtype, as `NAME.DTYPE`, what `fidelity` gives; then what `anatomy` and `cost` give, of the last dtype.
    """
    row: dict[str, Any] = {"verdict": SUPPORTED, "reason": ""}
    for dtype in dtypes:
        try:
            lm = load(name, dtype=dtype)
            row |= {f"{key}.{dtype}": value for key, value in fidelity(lm, sizes, seed).items()}
        except LagkitError as error:
            verdict = REFUSED if isinstance(error, UnsupportedModel) else UNMEASURED
            # What was measured before is kept: a model may be exact in one dtype and refused in another.
            return row | {"verdict": verdict, "reason": str(error) if dtype == dtypes[0] else f"In {dtype}: {error}"}
    return row | anatomy(lm) | cost(lm, sizes, seed)


def compare(
    names: Iterable[str], open_run: Callable[[str], Experiment]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Run each model's experiment: summaries, differences to `no_logs`, answers, and why models failed.

    The tables are those of `metrics.summarize` and `Experiment.differences`, with the model as their first level, and
    of `Experiment.run`, with the model before the name of each policy.
    """
    summaries, differences, answers, reasons = {}, {}, {}, {}
    for name in names:
        try:
            experiment = open_run(name)
            results = experiment.run()
            summaries[name], differences[name] = summarize(results), experiment.differences(results)
            answers[name] = results.assign(policy=f"{name}." + results["policy"])
        except LagkitError as error:
            reasons[name] = str(error)
    tables = (summaries, differences, answers)
    means, apart, rows = (pd.concat(parts, names=["model"]) if parts else pd.DataFrame() for parts in tables)
    return means, apart, rows, reasons


def fidelity(lm: LM, sizes: Sizes, seed: int = 0) -> dict[str, float]:
    """Exactness of moving a log; means over the texts, but the worst for `error`.

    error: relative error (norm over norm, worst layer) of keys read at 0 and turned to `shift`, against keys read
    there. unturned: the same without turning, the least of the texts. kl, agreement: of the prompt's next tokens, when
    the log was read alone at `shift` and is injected at 0, against a dense prefill of both. kl_moved: of the dense
    prefill at `shift`: rounding alone. kl_unturned: of a log injected as it was read. Raises ContextTooLong.
    """
    draw = torch.Generator().manual_seed(seed)
    texts = [(_random(lm, sizes.log, draw), _random(lm, sizes.prompt, draw)) for _ in range(sizes.texts)]
    found = [_fidelity(lm, log, prompt, sizes.shift) for log, prompt in texts]
    collected = {key: [one[key] for one in found] for key in found[0]}
    how = {"error": max, "unturned": min}
    return {key: how.get(key, mean)(values) for key, values in collected.items()}


def anatomy(lm: LM) -> dict[str, Any]:
    """The kind of RoPE and what a block of this model is made of.

    turned: how many dimensions of a head RoPE turns. bare_layers: how many layers have none. bytes_per_token: of keys
    and values in bfloat16.
    """
    block = lm.encode(Context((3, 4)), 0, 2).to(torch.bfloat16)
    layers, kv_heads, _, head_dim = block.keys.shape
    rows = lm.realigner.inv_freq
    bare = int((rows == 0).all(dim=1).sum()) * (layers // len(rows))
    return {
        "family": lm.model.config.model_type,
        "rope": lm.realigner.kind,
        "layout": lm.realigner.layout,
        "limit": lm.realigner.limit,
        "turned": 2 * rows.shape[1],
        "bare_layers": bare,
        "layers": layers,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "bytes_per_token": block.nbytes // len(block),
    }


def cost(lm: LM, sizes: Sizes, seed: int = 0) -> dict[str, float]:
    """Median seconds to turn a block and lay it into a cache, and to prefill the same tokens, measured in turns.

    The block has `sizes.timed` tokens, or as many as the model's context holds.
    """
    tokens = min(sizes.timed, lm.context_length)
    context = Context(_random(lm, tokens, torch.Generator().manual_seed(seed)))
    block = lm.encode(context, 0, tokens)
    ways = {
        "inject_s": lambda: build_cache([[block]], lm.model, lm.realigner, 1),
        "prefill_s": lambda: lm.encode(context, 0, 0),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(sizes.repeats):
        for way, work in ways.items():
            seconds[way].append(_seconds(lm, work))
    found = {way: median(times) for way, times in seconds.items()}
    return {"timed": tokens, **found, "inject_over_prefill": found["inject_s"] / found["prefill_s"]}


def _fidelity(lm: LM, log: tuple[int, ...], prompt: tuple[int, ...], shift: int) -> dict[str, float]:
    """One text's numbers."""
    lm.check(Context((*log, *prompt)), shift)
    here = torch.arange(len(log), device=lm.device)
    keys, _ = _read_at(lm, log, here)
    there, values = _read_at(lm, log, here + shift)
    turned = lm.realigner.rotate(lm.realigner.unrotate(keys, here), here + shift)
    block = KVBlock(lm.realigner.unrotate(there, here + shift), values, torch.tensor(log))
    context = Context(prompt, (block,))
    expected = dense(lm, context, 0)
    injected = divergence(expected, lm.logits(context))
    stale = displaced(lm, context, lambda positions: positions + shift)
    return {
        "error": _error(there, turned),
        "unturned": _error(there, keys),
        **injected,
        "kl_moved": divergence(expected, dense(lm, context, shift))["kl"],
        "kl_unturned": divergence(expected, lm.logits(stale))["kl"],
    }


@torch.inference_mode()
def _read_at(lm: LM, ids: tuple[int, ...], positions: Tensor) -> tuple[Tensor, Tensor]:
    """Keys with RoPE and values `[layers, kv_heads, tokens, head_dim]` of `ids` read at `positions`."""
    cache = prefill(lm.model, torch.tensor([ids], device=lm.device), positions[None])
    return stack_layers(cache, 0, len(ids))


def _error(expected: Tensor, found: Tensor) -> float:
    """The worst layer's norm of the difference over the norm of what is expected."""
    gap = (expected.float() - found.float()).flatten(1).norm(dim=1)
    return float((gap / expected.float().flatten(1).norm(dim=1)).max())


def _random(lm: LM, tokens: int, generator: torch.Generator) -> tuple[int, ...]:
    """Random ids, without the first three, which are special tokens in many vocabularies."""
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]
    return tuple(torch.randint(3, vocabulary, (tokens,), generator=generator).tolist())


def _seconds(lm: LM, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if lm.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - began
