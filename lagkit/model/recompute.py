"""Selective recomputation: KV that was computed apart, some tokens of which are computed anew behind all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lagkit.model.cache import build_cache, stack_layers
from lagkit.model.kv import KVBlock, Part

if TYPE_CHECKING:
    from lagkit.model.lm import LM
    from lagkit.model.rope import Realigner


@dataclass(frozen=True, eq=False)
class PlacedBlock(Part):
    """A block at positions of its own, wherever its slots are. positions: int64 `[tokens]`."""

    block: KVBlock
    positions: Tensor

    def __len__(self) -> int:
        return len(self.block)

    @property
    def ids(self) -> Tensor:
        """As a KVBlock has them."""
        return self.block.ids

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.block.shape

    def write_into(self, realigner: Realigner, start: int, keys: Tensor, values: Tensor) -> None:
        """At its own positions, wherever its slots `start`."""
        realigner.rotate(self.block.keys.to(keys.device), self.positions.to(keys.device), out=keys)
        values.copy_(self.block.values)


@torch.inference_mode()
def recompute(lm: LM, blocks: Sequence[KVBlock], slots: Sequence[int]) -> KVBlock:
    """Blocks as one, the tokens at `slots` (counted from the first block's first) read anew, behind all in front.

    Layer by layer they see the others' KV as it is, and theirs as it is recomputed (EPIC, arXiv 2410.15332; CacheBlend,
    arXiv 2405.16444). With all slots this is dense prefill. Attention windows are not minded.
    """
    whole = KVBlock.concat(blocks)
    if not slots:
        return whole
    picked = torch.tensor(sorted(slots))
    kept = torch.tensor(sorted({*range(len(whole))} - {*slots}), dtype=torch.long)
    rest = PlacedBlock(whole.take(kept), kept)
    cache, _ = build_cache([[rest]], lm.model, lm.realigner, len(picked))
    hidden = torch.cat([kept, picked])[None] > picked[:, None]
    mask = torch.zeros(hidden.shape, dtype=lm.dtype).masked_fill(hidden, torch.finfo(lm.dtype).min)
    at = picked[None].to(lm.device)
    lm.model.base_model(
        input_ids=whole.ids[picked][None].to(lm.device),
        attention_mask=mask[None, None].to(lm.device),
        position_ids=at,
        past_key_values=cache,
    )
    keys, values = stack_layers(cache, len(kept), len(whole))
    keys = lm.realigner.unrotate(keys, at[0])
    picked = picked.to(whole.keys.device)
    return KVBlock(whole.keys.index_copy(2, picked, keys), whole.values.index_copy(2, picked, values), whole.ids)
