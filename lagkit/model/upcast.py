"""Upcast products: bfloat16 layers in float32, for processors that have no fast bfloat16.

There torch multiplies bfloat16 several times slower than float32. Weights stay bfloat16 in memory and become float32 a
piece at a time, which the processor's cache holds: as fast as a float32 model, at half its memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Weights that are float32 at a time: 4 MB, within the cache of most processors.
_PIECE = 1 << 20

# Of fewer rows torch's own product is the faster.
_FEW = 4


class UpcastLinear(nn.Linear):
    """A bfloat16 layer that multiplies and adds in float32, and rounds each result once; for inference only."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`; what it is not made for goes torch's way, or raises so."""
        if torch.is_grad_enabled() or not self._takes(input):
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        step = min(max(1, _PIECE // self.in_features), self.out_features)
        wide, piece = rows.float(), rows.new_empty(step, self.in_features, dtype=torch.float32)
        out = rows.new_empty(len(rows), self.out_features)
        for start in range(0, self.out_features, step):
            columns = slice(start, start + step)
            weight = self.weight[columns]
            # Weights first: of few rows the product is then faster than that of rows with weights.
            product = (piece[: len(weight)].copy_(weight) @ wide.T).T
            out[:, columns] = product if self.bias is None else product + self.bias[columns]
        return out.view(*input.shape[:-1], self.out_features)

    def _takes(self, input: Tensor) -> bool:
        fits = input.dtype == self.weight.dtype and input.shape[-1:] == (self.in_features,)
        return fits and self.weight.numel() > 0 and input.numel() >= _FEW * self.in_features


def upcast(model: nn.Module) -> None:
    """Let the model's bfloat16 linear layers multiply in float32; their weights stay as they are."""
    for module in model.modules():
        # A layer of another class, as experts of a mixture are, computes in its own way.
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.__class__ = UpcastLinear
