"""What a log store on an object store costs beside one in a folder: `python -m benchmarks.lance --out FILE.json`.

The object store is moto's S3 server in a process of its own on loopback: what is measured is the software, not a
network. A real one adds its latency to each request, and its bandwidth bounds the megabytes. To give a part of an
object moto reads all of it, so that the first read of a block pays for the up to 64 MiB that were committed together.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lagkit.logs.copying import Copied, copy
from lagkit.logs.header import Header
from lagkit.logs.lance import DiskCache, LanceStore
from lagkit.logs.store import LogStore, Store
from lagkit.model.kv import KVBlock
from lagkit.runs import manifest
from lagkit.types import Round, Trace
from lagkit.util import files
from lagkit.util.paths import at

# SmolLM2-135M: layers, kv heads, head dimension; a log's tokens; the dimension of MiniLM's embeddings.
LAYERS, HEADS, HEAD_DIM, TOKENS, DIM = 30, 3, 64, 150, 384
IDENTITY = {"model": {"name": "random"}, "embedder": "random", "dim": DIM, "dtype": "bfloat16"}
KEY = "last"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=at, required=True, metavar="FILE.json")
    parser.add_argument("--logs", type=int, default=1000, metavar="N", help="in each store (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=600, metavar="N", help="logs that have a block, the oldest ones")
    parser.add_argument("--repeat", type=int, default=20, metavar="N", help="of what takes milliseconds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server() as bucket:
        found = measure(Path(folder), bucket, args.logs, args.blocks, args.repeat)
    found["machine"], found["versions"] = manifest.machine(), manifest.versions()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(args.out, found)
    print(json.dumps(found, indent=2))


@contextmanager
def server() -> Iterator[str]:
    """The address of an empty bucket of an S3 server, which the environment then leads to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, quiet = [sys.executable, "-m", "moto.server", "-p", str(port)], subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}
    os.environ.update(keys, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    try:
        _make_bucket(f"http://127.0.0.1:{port}")
        yield "s3://bucket"
    finally:
        process.terminate()
        process.wait()


def _make_bucket(url: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    for _ in range(100):
        try:
            client.create_bucket(Bucket="bucket")
            return
        except Exception:  # until it answers, botocore has many names for that it does not
            time.sleep(0.1)
    raise RuntimeError(f"The S3 server at {url} does not answer.")


def measure(folder: Path, bucket: str, logs: int, blocks: int, repeat: int) -> dict[str, Any]:
    """All numbers; milliseconds are medians."""
    places = {"folder": folder / "store", "s3": f"{bucket}/store"}
    nbytes = block(0).nbytes
    found: dict[str, Any] = {"logs": logs, "blocks": blocks, "repeat": repeat, "bytes of a block": nbytes}
    for name, place in places.items():
        with Store.new(place, Header.new(**IDENTITY)) as store:
            found[name] = adding(store, logs, blocks, repeat)
        found[name] |= reading(place, folder / "cache", blocks, repeat)
    ways = {"folder to s3": ("folder", f"{bucket}/copy"), "s3 to folder": ("s3", folder / "copy")}
    found["copy"] = {name: copying(places[source], target) for name, (source, target) in ways.items()}
    return found


def adding(store: Store, logs: int, blocks: int, repeat: int) -> dict[str, float]:
    """Logs with blocks and without in one go, then a few one by one."""
    content = block(0)
    began = time.perf_counter()
    store.add_many((trace(i), vector(i), {KEY: numbered(content, i)}) for i in range(blocks))
    with_blocks = time.perf_counter() - began
    began = time.perf_counter()
    store.add_many((trace(i), vector(i), {}) for i in range(blocks, logs - repeat))
    without = time.perf_counter() - began
    last = range(logs - repeat, logs)
    single = [seconds(partial(store.add, trace(i), vector(i), {KEY: numbered(content, i)})) for i in last]
    return {
        "add many, ms a log with a block": 1e3 * with_blocks / blocks,
        "add many, MB/s of blocks": blocks * block(0).nbytes / 1e6 / with_blocks,
        "add many, ms a log without a block": 1e3 * without / (logs - repeat - blocks),
        "add one with a block, ms": 1e3 * median(single),
    }


def reading(place: str | Path, cache: Path, blocks: int, repeat: int) -> dict[str, float]:
    """Opening, blocks and searches, by readers that have nothing in memory."""
    remote = isinstance(place, str)
    kind = partial(LanceStore, cache=DiskCache(cache / "reader", 2**30)) if remote else LogStore.open
    opening = [seconds(lambda: kind(place).close()) for _ in range(repeat)]
    queries = np.stack([vector(-1 - i) for i in range(repeat)])
    picked = [trace(i).id for i in range(0, blocks, max(1, blocks // repeat))][:repeat]
    with kind(place) as store:
        one = [seconds(lambda: read(store, picked[0]))]
        first = [seconds(partial(read, store, log)) for log in picked[1:]]
        again = [seconds(partial(read, store, log)) for log in picked]
        first_search = seconds(lambda: store.search(queries[:1], 3))
        search = [seconds(partial(store.search, query[None], 3)) for query in queries]
        get = [seconds(partial(store.get, log)) for log in picked]
        got = [seconds(partial(store.get, log)) for log in picked]
    return {
        "open, ms": 1e3 * median(opening),
        "very first block after opening, ms": 1e3 * one[0],
        "first read of a block, ms": 1e3 * median(first),
        "block again, ms": 1e3 * median(again),
        "first search, ms": 1e3 * first_search,
        "search, ms": 1e3 * median(search),
        "first read of a trace, ms": 1e3 * median(get),
        "trace again, ms": 1e3 * median(got),
    }


def copying(source: str | Path, target: str | Path) -> dict[str, float]:
    """Megabytes of blocks a second: of the copy, and of the comparison that follows."""
    with Store.open(source) as ours, Store.new(target, ours.header) as theirs:
        done: Copied = copy(ours, theirs)
    return {
        "MB": done.bytes / 1e6,
        "copy, MB/s": done.bytes / 1e6 / done.seconds,
        "compare, MB/s": done.checked / 1e6 / done.checking,
    }


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read(store: Store, log: str) -> None:
    """A block with all its bytes: what is mapped is not read before it is used."""
    found = store.block(log, KEY)
    found.keys.clone()
    found.values.clone()


def block(i: int) -> KVBlock:
    """A block of the size that SmolLM2 makes, random by a seed."""
    drawn = torch.randn(2, LAYERS, HEADS, TOKENS, HEAD_DIM, generator=torch.Generator().manual_seed(i)).bfloat16()
    return KVBlock(drawn[0], drawn[1], torch.arange(TOKENS))


def numbered(block: KVBlock, i: int) -> KVBlock:
    """The same keys and values with other ids, so that no two files are equal."""
    return KVBlock(block.keys, block.values, block.ids + i)


def vector(i: int) -> np.ndarray:
    """A unit vector of its own for each number."""
    drawn = np.random.default_rng(abs(i) + 10**6 * (i < 0)).normal(size=DIM)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def trace(i: int) -> Trace:
    """A trace of some four kilobytes."""
    told = Round(f"{i}: {'word ' * 400}", "so it is. " * 200)
    return Trace(f"q{i}", f"Which is number {i}?", "Be brief.", (told,))


if __name__ == "__main__":
    main()
