"""Batch cache: the KV of rows that are decoded together, filled as prompts are read, and cut into rows at the end."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from mmap import mmap

import torch
from torch import Tensor
from transformers import Cache

from lagkit.model.cache import CachedRow, layer_states, spare_room


class BatchCache:
    """Slots for rows of known lengths, and for `room` tokens more each.

    A layer has slots of its own, and rows change places within them, so that no more than a layer is held twice:
    not while prompts are read, nor when rows leave the batch, nor when it is cut into rows.

    rows: which row stands at each place; those that go on stand in front.
    """

    def __init__(self, lengths: Sequence[int], room: int) -> None:
        self._lengths, self._longest, self._room = lengths, max(lengths), room
        self._slots: list[tuple[Tensor, Tensor]] = []  # keys, values: [batch, kv_heads, longest + room, head_dim]
        self._filled = 0
        self.rows = list(range(len(lengths)))

    def fill(self, cache: Cache, spans: Sequence[tuple[int, int]]) -> None:
        """Copy the next rows from a cache that holds each at `spans`, `[start, stop)`, its keys at positions 0.. .

        Rows end together, so none has a hole: sliding windows see what they should whatever the lengths.
        """
        for number in range(len(cache.layers)):
            layer = layer_states(cache, number)
            if not self._filled:
                _, kv_heads, _, head_dim = layer[0].shape
                size = (len(self._lengths), kv_heads, self._longest + self._room, head_dim)
                self._slots.append((_memory(size, layer[0]), _memory(size, layer[1])))
            for slots, states in zip(self._slots[number], layer, strict=True):
                for row, (start, stop) in enumerate(spans):
                    held, pad = slots[self._filled + row], self._longest - (stop - start)
                    # Masked slots are multiplied by zero weights: left uninitialised, a NaN there would spread.
                    held[:, :pad] = 0
                    held[:, pad : self._longest] = states[row, :, start:stop]
        self._filled += len(spans)

    def open(self) -> tuple[Cache, Tensor]:
        """The cache from which the model goes on, and its mask, int64 `[batch, longest]`."""
        device = self._slots[0][0].device
        pads = self._longest - torch.tensor(self._lengths, device=device)[:, None]
        return spare_room(self._slots, self._longest), (torch.arange(self._longest, device=device) >= pads).long()

    def narrow(self, cache: Cache, places: Sequence[int]) -> None:
        """Leave the rows at these places, in rising order, in the cache of `open`; the others stand behind them."""
        cache.batch_select_indices(torch.tensor(places))
        for place, kept in enumerate(places):
            self.rows[place], self.rows[kept] = self.rows[kept], self.rows[place]

    def cut(self, wanted: Sequence[int]) -> dict[int, CachedRow]:
        """Each wanted row as it was filled in, in a cache of its own; the slots are freed, once `open`'s cache is."""
        like, depth = self._slots[0][0], len(self._slots)
        lengths = {row: self._lengths[row] for row in wanted}
        cut = {row: _memory((2, depth, 1, like.shape[1], n, like.shape[3]), like) for row, n in lengths.items()}
        for number in range(depth):
            layer = self._slots.pop(0)
            for row, n in lengths.items():
                place = self.rows.index(row)
                for into, slots in zip(cut[row][:, number], layer, strict=True):
                    into[0] = slots[place, :, self._longest - n : self._longest]
        return {row: CachedRow(spare_room([*zip(*cut[row], strict=True)], n), 0, 0, n) for row, n in lengths.items()}


def _memory(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor whose memory goes back to the system when it is freed; malloc may keep it for itself."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.frombuffer(mmap(-1, prod(shape) * like.itemsize), dtype=like.dtype).view(shape)
