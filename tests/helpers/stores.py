"""Small stores whose content follows from a number, so that it can be checked after anything happened to them."""

from __future__ import annotations

import numpy as np
import torch

from lagkit.logs.files import block_name
from lagkit.logs.header import Header
from lagkit.logs.store import LogStore, Store
from lagkit.model.kv import KVBlock
from lagkit.types import Hit, Round, Trace, Usage

DIM = 8
IDENTITY = {"model": {"name": "tiny", "rope": "r1"}, "embedder": "mini", "dim": DIM, "dtype": "float32"}
HEADER = Header.new(**IDENTITY)


def header(**changes) -> Header:
    """`HEADER` with these changes."""
    return Header.new(**{**IDENTITY, **changes})


def new_store(path, **changes) -> Store:
    """A new store, of the kind that its place says."""
    return Store.new(path, header(**changes))


def trace(i: int) -> Trace:
    """Trace number `i`."""
    told = Round(f"Who is {i}?", f"<ans>{i} ünï \ud800</ans>", "q", (Hit("p", 0.5),), (Hit("l", 0.25),), Usage(1, 2, 3))
    return Trace(f"q{i}", f"Who is {i}?", "Be brief.", (told,) * (1 + i % 3), answer=str(i), correct=bool(i % 2))


def vector(i: int, dim: int = DIM) -> np.ndarray:
    """A unit vector of its own for each number, float32 `[dim]`."""
    drawn = np.random.default_rng(i).normal(size=dim)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def kv(i: int, tokens: int = 3, dtype: torch.dtype = torch.float32) -> KVBlock:
    """A block of its own for each number: 2 layers, 1 head, 4 dimensions."""
    keys = torch.arange(2 * tokens * 4, dtype=torch.float32).reshape(2, 1, tokens, 4) + i
    return KVBlock(keys.to(dtype), (-keys).to(dtype), torch.arange(tokens) + i)


def same(a: KVBlock, b: KVBlock) -> bool:
    """Equal bit by bit."""
    pairs = ((a.keys, b.keys), (a.values, b.values), (a.ids, b.ids))
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def fill(store: Store, numbers) -> list[str]:
    """Add the logs of these numbers, each with a block `last` of its own."""
    return store.add_many((trace(i), vector(i), {"last": kv(i)}) for i in numbers)


def content(store: Store) -> dict[str, tuple]:
    """All that a store says about its logs, for comparison before and after."""
    return {
        log: (store.get(log), {key: store.block(log, key).keys.tolist() for key in store.block_keys(log)})
        for log in store
    }


def files_of(store: Store) -> list[str]:
    """The names of all files below kv/; in LanceDB what they would be called."""
    if not isinstance(store, LogStore):
        blocks = vars(store)["_block_rows"]
        blocks.sync()
        return sorted({block_name(block.digest) for block in blocks.entries})
    return sorted(path.relative_to(store.path).as_posix() for path in (store.path / "kv").rglob("*") if path.is_file())


def file_of(store: LogStore, log: str, key: str = "last"):
    """The path of a block's file."""
    [(digest,)] = store._db.read("SELECT digest FROM blocks JOIN logs USING (seq) WHERE id = ? AND key = ?", log, key)
    return store.path / "kv" / digest[:2] / f"{digest}.safetensors"
