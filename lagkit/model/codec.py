"""KV in fewer bytes: int8, with one scale for each channel of the keys and for each token of the values.

Keys have channels that are large for every token, so a scale that a token's channels share would drown the small ones;
this holds for keys without RoPE, which would smear such a channel over two. Values have no such channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from lagkit.model.names import Codec

CODECS: tuple[Codec, ...] = get_args(Codec)

# A scale is a byte, its place in this list: logs are short, so that a channel's scale is shared by some twenty tokens.
# The next scale is 9% larger, which costs 4% of error on average. They hold magnitudes of up to 480,000.
SCALES = 2.0 ** ((torch.arange(256) - 160) / 8)

# The largest number of a channel is at most so many scales, and so at most 127 of them when rounded. Not 127, for then
# a number could round down so far that the next smaller scale held it, and to encode twice would not be to encode once.
_MOST = 127.2


def pack(keys: Tensor, values: Tensor, codec: Codec) -> dict[str, Tensor]:
    """What a block's file holds of `keys` and `values` `[layers, kv_heads, tokens, head_dim]`.

    int8: both as int8, `key_scales` uint8 `[layers, kv_heads, head_dim]`, `value_scales` uint8
    `[layers, kv_heads, tokens]`. Raises ValueError for what int8 cannot hold: nan, inf, numbers above 480,000.
    """
    if codec == "none":
        return {"keys": keys, "values": values}
    (keys, key_scales), (values, value_scales) = quantise(keys, 2), quantise(values, 3)
    return {
        "keys": keys,
        "key_scales": key_scales.squeeze(2),
        "values": values,
        "value_scales": value_scales.squeeze(3),
    }


def unpack(tensors: Mapping[str, Tensor], codec: Codec, dtype: str) -> tuple[Tensor, Tensor]:
    """Keys and values again; int8 in the `dtype` of torch with this name.

    Raises ValueError if the tensors are not what `pack` makes, or the dtype is none of floating point.
    """
    keys, values = tensors["keys"], tensors["values"]
    if codec == "none":
        return keys, values
    wanted = getattr(torch, dtype, None)
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise ValueError(f"its dtype is {dtype or 'not told'}")
    return dequantise(keys, tensors["key_scales"], 2, wanted), dequantise(values, tensors["value_scales"], 3, wanted)


def quantise(numbers: Tensor, shared: int, most: float = _MOST) -> tuple[Tensor, Tensor]:
    """int8 `numbers`, and the uint8 places of their scales in `SCALES`, one for all along dimension `shared`.

    Each scale is the smallest that `most` of hold the largest magnitude, so no number is off by more than half a scale.
    Raises ValueError for nan, inf, or numbers that the largest scale does not hold.
    """
    numbers = numbers.float()
    if not numbers.numel():
        scales = numbers.new_zeros([1 if i == shared else n for i, n in enumerate(numbers.shape)], dtype=torch.uint8)
        return numbers.to(torch.int8), scales
    largest = numbers.abs().amax(shared, keepdim=True)
    grid = SCALES.to(numbers.device)
    if not (largest <= most * grid[-1]).all():  # nan is not either
        raise ValueError(f"its largest number is {largest.max():g}, which int8 cannot hold")
    places = torch.searchsorted(grid, largest / most)
    return (numbers / grid[places]).round().to(torch.int8), places.to(torch.uint8)


def dequantise(numbers: Tensor, places: Tensor, shared: int, dtype: torch.dtype) -> Tensor:
    """The numbers of `quantise` in `dtype`; raises ValueError if numbers and scales do not fit together.

    places: `quantise`'s, without the dimension `shared`.
    """
    expected = [n for i, n in enumerate(numbers.shape) if i != shared]
    if (numbers.dtype, places.dtype, list(places.shape)) != (torch.int8, torch.uint8, expected):
        found = f"{places.dtype} {list(places.shape)} for {numbers.dtype} {list(numbers.shape)}"
        raise ValueError(f"its scales are {found}")
    scales = SCALES.to(numbers.device)[places.int()].unsqueeze(shared)
    return (numbers * scales).to(dtype)
