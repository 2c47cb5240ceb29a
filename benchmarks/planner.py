"""What loading and computing KV cost here, and what a planner decides: `python -m benchmarks.planner --out FILE.json`.

This machine is measured; an H200 and far disks are computed from the figures below, which are their makers' or round.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lagkit.logs.header import Header
from lagkit.logs.planner import Rates, Size, decisions, measure_rates
from lagkit.logs.store import LogStore
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.runs.manifest import git_state, machine, versions
from lagkit.types import Round, Trace
from lagkit.util.cli import show
from lagkit.util.files import write_json
from lagkit.util.paths import at
from lagkit.util.progress import quiet, say

# Tokens that are read to compute a log, and those kept of it: a short action, a round, a long one, and a round that is
# read behind a conversation of ten times its length.
TOKENS = ((28, 28), (150, 150), (500, 500), (1_500, 150))
MODELS = {"testbed": "float32", "smollm2": "bfloat16"}  # measured here, in the dtypes of their tiers
LLAMA: dict[str, Any] = {"name": "Llama-3.1-8B", "bytes_per_token": 2 * 32 * 8 * 128 * 2, "flop_per_token": 14.0e9}
H200_FLOPS = 790e12  # a second, dense bf16 in practice
# Bytes a second, and seconds until the first.
FAR = {
    "H200, host memory": (55e9, 0.0),
    "H200, local NVMe": (7e9, 1e-4),
    "H200, 100 Gb/s file system": (10e9, 5e-4),
    "H200, 10 Gb/s network": (1.25e9, 1e-3),
    "H200, object store": (0.5e9, 0.03),
}
NETWORKS = {"this machine, 1 Gb/s network": (125e6, 1e-3), "this machine, object store": (50e6, 0.05)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, show the table and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("--out", type=at, help="the JSON file")
    parser.add_argument("--device", default="cpu", help="the models' device")
    args = parser.parse_args(argv)
    quiet()
    rates: dict[str, dict[str, Rates]] = {"this machine, page cache": {}, "this machine, disk": {}}
    rates |= {place: {} for place in NETWORKS}
    sizes = []
    for name, dtype in MODELS.items():
        say(f"Measuring {name} ...")
        lm = LM.load(name, device=args.device, dtype=dtype)
        cached, cold, per_token = measured(lm)
        rates["this machine, page cache"][name], rates["this machine, disk"][name] = cached, cold
        for place, (read, latency) in NETWORKS.items():
            rates[place][name] = replace(cached, read=read, latency=latency)
        sizes += [Size(name, read, kept, per_token) for read, kept in TOKENS]
    prefill = H200_FLOPS / LLAMA["flop_per_token"]
    rates |= {place: {LLAMA["name"]: Rates(prefill, *far)} for place, far in FAR.items()}
    sizes += [Size(LLAMA["name"], read, kept, LLAMA["bytes_per_token"]) for read, kept in TOKENS]
    table = decisions(rates, sizes)
    show(table.set_index(["place", "log"]), "What a planner decides")
    if args.out:
        found = {place: {model: asdict(r) for model, r in models.items()} for place, models in rates.items()}
        about = {"machine": machine(), "versions": versions(), "git": git_state()}
        write_json(args.out, {"rates": found, "decisions": table.to_dict("records"), **about})


def measured(lm: LM) -> tuple[Rates, Rates, int]:
    """Rates with the store's files in the system's page cache, and after they were dropped; bytes of a token's KV."""
    with tempfile.TemporaryDirectory() as folder:
        dtype = str(lm.dtype).removeprefix("torch.")
        with LogStore.new(Path(folder) / "s", Header.new(lm.fingerprint, "none", 2, dtype)) as store:
            rng = np.random.default_rng(0)
            for number in range(16):
                ids = rng.integers(3, lm.model.config.vocab_size, 28 if number % 2 else 500).tolist()
                block = lm.encode(Context(tuple(ids)), 0, len(ids))
                trace = Trace(str(number), f"{number}?", "", (Round("", str(number)),))
                store.add(trace, np.eye(2, dtype=np.float32)[0], {"block": block})
            cached = measure_rates(lm, store)
            _drop_pages(Path(folder))
            return cached, measure_rates(lm, store), block.nbytes // len(block)


def _drop_pages(folder: Path) -> None:
    """Ask the system to forget what it holds of the files, which are on disk already."""
    for path in folder.rglob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def read(path: Path) -> pd.DataFrame:
    """The decisions of a result file."""
    return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["decisions"])


def about(path: Path) -> dict[str, Any]:
    """What a result file was made with."""
    return json.loads(path.read_text(encoding="utf-8"))["machine"]


if __name__ == "__main__":
    main()
