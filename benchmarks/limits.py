"""Prefill and decoding against what this machine can do: `python -m benchmarks.limits --out FILE.json`.

The limit is the time of the model's own matrix products alone, for as many rows as a pass has tokens: of many rows they
are bound by arithmetic, of few by reading the weights. Where products are upcast, so are those of the limit, or they
have float32 weights, whichever are faster. Products and passes are timed in turns; medians are compared.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.model.upcast import UpcastLinear
from lagkit.runs.manifest import git_state, machine, versions
from lagkit.util.cli import show
from lagkit.util.errors import ConfigError
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import quiet, say

MODELS = {"smollm2": "float32", "qwen": "bfloat16"}
PROMPT, BATCHES, REPEATS = 1_000, (1, 16, 32), 3
FEW, MANY = 4, 20  # new tokens: the difference of two runs is free of the prompt
OPENING = "Count from one to one thousand, with commas between the numbers, and leave none out: one, two, three, four,"
GOALS = {"prefill": 0.65, "decode": 0.8}  # shares of the limit
_NAMED = 5  # operations of a profile


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, show the table and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--out", type=at, help="the JSON file")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of all models, where bfloat16 is slow, say")
    args = parser.parse_args(argv)
    quiet()
    rows, profiles = [], {}
    for name in args.model or MODELS:
        say(f"Measuring {name} ...")
        lm = LM.load(name, dtype=args.dtype or MODELS[name])
        rows += measured(lm)
        profiles[name] = profiled(lm)
    table = pd.DataFrame(rows)
    show(table.set_index(["model", "pass"]), "Shares of the limit")
    if args.out:
        about = {"machine": machine(), "versions": versions(), "git": git_state()}
        write_json(args.out, {"rows": rows, "profiles": profiles, **about})


def measured(
    lm: LM, *, prompt: int = PROMPT, batches: Sequence[int] = BATCHES, repeats: int = REPEATS
) -> list[dict[str, Any]]:
    """A row for prefill and one for decoding at each batch size.

    `limit_s`, `took_s`: seconds of the matrix products alone, and of the pass or step; `share` = limit_s / took_s.
    `gflops`, `gb_per_s`: the rates of the products. `torch_s`: of torch's own products, where the model's are upcast.
    Raises ConfigError where a model ends before it has said enough.
    """
    found = [_row(lm, "prefill", prompt, linear_layers(lm), partial(_prefill, lm, prompt), repeats)]
    layers = [*linear_layers(lm), lm.model.get_output_embeddings()]
    found += [_row(lm, "decode", batch, layers, partial(_decode, lm, batch), repeats) for batch in batches]
    return found


def linear_layers(lm: LM) -> list[nn.Linear]:
    """Those that every token passes, so not the one over the vocabulary."""
    return [module for module in lm.model.base_model.modules() if isinstance(module, nn.Linear)]


@torch.inference_mode()
def products(layers: Sequence[nn.Linear], rows: int) -> float:
    """Seconds of the layers' products of `rows` rows; each has its own weights, so that no cache holds them."""
    weight = layers[0].weight
    sizes = {layer.in_features for layer in layers}
    given = {size: torch.randn(rows, size, dtype=weight.dtype, device=weight.device) for size in sizes}
    began = time.perf_counter()
    for layer in layers:
        nn.functional.linear(given[layer.in_features], layer.weight)
    _wait(weight.device)
    return time.perf_counter() - began


@torch.inference_mode()
def upcast_products(layers: Sequence[nn.Linear], rows: int) -> float:
    """Seconds of upcast layers' products: their own, or those with float32 weights made off the clock if faster."""
    sizes = {layer.in_features for layer in layers}
    given = {size: torch.randn(rows, size, dtype=layers[0].weight.dtype) for size in sizes}
    own = min(_seconds(lambda: [layer(given[layer.in_features]) for layer in layers]) for _ in range(2))
    wide = 0.0
    for layer in layers:
        operands = given[layer.in_features].float(), layer.weight.float()
        wide += _seconds(partial(nn.functional.linear, *operands))
    return min(own, wide)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _prefill(lm: LM, tokens: int) -> float:
    """Seconds of reading a prompt."""
    ids = (lm.tokenizer.encode(OPENING) * tokens)[:tokens]
    began = time.perf_counter()
    lm.encode(Context(tuple(ids)), 0, 1)
    _wait(lm.device)
    return time.perf_counter() - began


def _decode(lm: LM, batch: int) -> float:
    """Seconds of a step of decoding."""
    context, took = Context(tuple(lm.tokenizer.encode(OPENING))), []
    for tokens in (FEW, MANY):
        began = time.perf_counter()
        said = lm.generate([context] * batch, tokens, batch_size=batch)
        _wait(lm.device)
        took.append(time.perf_counter() - began)
        if any(len(row.ids) < tokens for row in said):
            raise ConfigError(f"{lm.name} ends before {tokens} tokens: this measure needs a model that goes on.")
    return (took[1] - took[0]) / (MANY - FEW)


def _row(
    lm: LM, what: str, rows: int, layers: Sequence[nn.Linear], run: Callable[[], float], repeats: int
) -> dict[str, Any]:
    upcast = isinstance(layers[0], UpcastLinear)
    alone = upcast_products if upcast else products
    pairs = [(alone(layers, rows), run()) for _ in range(repeats + 1)][1:]  # the first one warms up
    limit, took = (median(side) for side in zip(*pairs, strict=True))
    weights = sum(layer.weight.numel() for layer in layers)
    return {
        "model": lm.name,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "pass": f"{what} {rows:,}",
        "limit_s": limit,
        "took_s": took,
        "share": limit / took,
        "goal": GOALS[what],
        "tokens_per_s": rows / took,
        "gflops": 2 * weights * rows / limit / 1e9,
        "gb_per_s": weights * lm.dtype.itemsize / limit / 1e9,
        **({"torch_s": products(layers, rows)} if upcast else {}),
    }


def batching_limit(rows: Sequence[dict[str, Any]], batch: int, prefilled: float, generated: float) -> float | None:
    """How many times as fast a batch can be as one question at a time, by `measured` matrix products alone.

    prefilled, generated: tokens of a question, the same for both; only decoding gains from a batch.
    None where a pass that is needed was not measured.
    """
    limit = {row["pass"]: row["limit_s"] for row in rows}
    try:
        read = prefilled * limit[f"prefill {PROMPT:,}"] / PROMPT
        alone, together = generated * limit["decode 1"], generated * limit[f"decode {batch}"] / batch
    except KeyError:
        return None
    return (read + alone) / (read + together)


def profiled(lm: LM, batch: int = 16) -> dict[str, float]:
    """Share of decoding's time by operation, the largest first; the rest is `other`."""
    context = Context(tuple(lm.tokenizer.encode(OPENING)))
    with profile(activities=[ProfilerActivity.CPU]) as told:
        lm.generate([context] * batch, MANY, batch_size=batch)
    spent = Counter({event.key: event.self_cpu_time_total for event in told.key_averages()})
    named = {key.removeprefix("aten::"): time / spent.total() for key, time in spent.most_common(_NAMED)}
    return named | {"other": 1 - sum(named.values())}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
