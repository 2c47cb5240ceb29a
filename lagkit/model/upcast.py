"""Upcast products: bfloat16 layers in float32, for processors that have no fast bfloat16.

There torch multiplies bfloat16 several times slower than float32. Weights stay bfloat16 in memory and become float32 a
piece at a time, which the processor's cache holds: as fast as a float32 model, at half its memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Weights that are float32 at a time: 4 MB, within the cache of most processors.
_PIECE = 1 << 20

# Of fewer rows torch's own product is as fast: it is bound by reading the weights.
_FEW = 4


class UpcastLinear(nn.Linear):
    """A linear layer that multiplies and adds in float32, and rounds each result to its input's format once."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        rows = input.reshape(-1, self.in_features)
        if len(rows) < _FEW:
            return super().forward(input)
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


def upcast(model: nn.Module) -> None:
    """Let the model's linear layers multiply in float32; their weights stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear:  # a layer of another class computes in its own way
            module.__class__ = UpcastLinear
