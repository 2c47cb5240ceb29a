"""Random KV blocks, made in-process."""

from __future__ import annotations

import torch

from lagkit.model.kv import KVBlock
from lagkit.model.lm import LM


def block_of(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 2) -> KVBlock:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(layers, 2, tokens, 8, generator=generator).to(dtype) for _ in range(2))
    return KVBlock(keys, values, torch.randint(2**31 - 1, (tokens,), generator=generator))


def same(a: KVBlock, b: KVBlock) -> bool:
    return all(
        torch.equal(x, y) and x.dtype == y.dtype for x, y in ((a.keys, b.keys), (a.values, b.values), (a.ids, b.ids))
    )


def plain_kv(lm: LM, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys before RoPE and values of every token, as the projections give them in one plain forward pass."""
    caught: dict[str, list[torch.Tensor]] = {"k_proj": [], "v_proj": []}
    hooks = [
        getattr(layer.self_attn, name).register_forward_hook(lambda _, __, out, name=name: caught[name].append(out[0]))
        for layer in lm.model.model.layers
        for name in caught
    ]
    try:
        with torch.no_grad():
            lm.model(torch.tensor([ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    heads = lm.model.config.num_key_value_heads
    return tuple(torch.stack([kv.unflatten(1, (heads, -1)).transpose(0, 1) for kv in kvs]) for kvs in caught.values())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to a relative error of 1e-5."""
    return bool((a - b).norm() <= 1e-5 * b.norm())
