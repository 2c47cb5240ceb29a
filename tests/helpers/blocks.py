"""Random KV blocks, made in-process."""

from __future__ import annotations

import torch

from lagkit.model.kv import KVBlock


def block_of(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 2) -> KVBlock:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(layers, 2, tokens, 8, generator=generator).to(dtype) for _ in range(2))
    return KVBlock(keys, values, torch.randint(2**31 - 1, (tokens,), generator=generator))


def same(a: KVBlock, b: KVBlock) -> bool:
    return all(
        torch.equal(x, y) and x.dtype == y.dtype for x, y in ((a.keys, b.keys), (a.values, b.values), (a.ids, b.ids))
    )
