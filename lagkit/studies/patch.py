"""What a log's own context adds to its KV, put back in part: in some layers, or as a matrix of low rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lagkit.model.kv import KVBlock
from lagkit.util.errors import ConfigError, DataError


@dataclass(frozen=True)
class Patch:
    """What a context adds, in the layers `[first, stop)`; of it the `rank` largest singular directions, or all.

    A direction is one of a layer's keys, or of its values, as a matrix `[tokens, kv_heads * head_dim]`.
    """

    name: str
    first: int
    stop: int
    rank: int | None = None

    @classmethod
    def of(cls, spec: str, layers: int) -> Patch:
        """`from:P` or `below:P` percent of a model's layers, or `rank:R` in all of them; raises ConfigError."""
        how, _, words = spec.partition(":")
        number = int(words) if words.isdecimal() else -1
        edge, whole = round(number * layers / 100), cls(spec, 0, layers)
        if how == "rank" and number > 0:
            return replace(whole, rank=number)
        if how in ("from", "below") and 0 <= number <= 100:
            return replace(whole, first=edge) if how == "from" else replace(whole, stop=edge)
        raise ConfigError(f"{spec!r} is no part of a context: give from:P or below:P with P percent, or rank:R.")

    def apply(self, alone: KVBlock, own: KVBlock) -> KVBlock:
        """The KV of a log alone with the patch. Raises DataError where the two blocks do not hold the same tokens."""
        if not torch.equal(alone.ids, own.ids):
            raise DataError(
                "A log alone and behind its context do not keep the same tokens, so neither patches the other: the "
                "model's tokenizer joins the first word with what stands before it."
            )
        keys, values = (self._added(*pair) for pair in ((alone.keys, own.keys), (alone.values, own.values)))
        return KVBlock(keys, values, alone.ids)

    def share(self, block: KVBlock) -> float:
        """Numbers of the patch over those of the block, as the two factors of each matrix if of a rank."""
        layers, kv_heads, head_dim = block.shape
        whole = len(block) * kv_heads * head_dim
        width = kv_heads * head_dim
        stored = whole if self.rank is None else min(self.rank, len(block), width) * (len(block) + width)
        return (self.stop - self.first) * stored / (layers * whole)

    def _added(self, alone: Tensor, own: Tensor) -> Tensor:
        """`[layers, kv_heads, tokens, head_dim]`, as both are."""
        layers = slice(self.first, self.stop)
        there = own[layers] if self.rank is None else alone[layers] + _cut(own[layers] - alone[layers], self.rank)
        return torch.cat([alone[: self.first], there, alone[self.stop :]])


def _cut(added: Tensor, rank: int) -> Tensor:
    """The largest singular directions of each layer's matrix; the heads of a token are one row of it."""
    layers, heads, tokens, dim = added.shape
    u, s, v = torch.linalg.svd(added.float().transpose(1, 2).reshape(layers, tokens, heads * dim), full_matrices=False)
    low = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
    kept: Tensor = low.reshape(layers, tokens, heads, dim).transpose(1, 2).to(added.dtype)
    return kept
