"""Batch cache: the KV of rows that are decoded together, filled as prompts are read, and cut into rows at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import Cache

from lagkit.model.cache import CachedRow, layer_states, new_slots, spare_room
from lagkit.model.context import Context

# Slots of a batch, padding included, up to which prompts are prefilled together.
_PREFILLED = 2048


class BatchCache:
    """Slots for rows of known lengths, and for `room` tokens more each.

    Each layer has slots of its own, and rows change places within them. On a CPU slots take memory as they are filled,
    so that only a group of prompts is held twice while it is read, and a layer while rows are cut.

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
                keys, values = (new_slots(size, states.dtype, states.device) for states in layer)
                self._slots.append((keys, values))
            for slots, states in zip(self._slots[number], layer, strict=True):
                for row, (start, stop) in enumerate(spans):
                    held = slots[self._filled + row, :, self._longest - (stop - start) : self._longest]
                    held.copy_(states[row, :, start:stop])
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
        lengths = {row: self._lengths[row] for row in wanted}
        cut: dict[int, list[tuple[Tensor, Tensor]]] = {row: [] for row in wanted}
        while self._slots:
            keys, values = self._slots.pop(0)
            for row, n in lengths.items():
                at = (self.rows.index(row), slice(None), slice(self._longest - n, self._longest))
                cut[row].append((_row(keys, at), _row(values, at)))
        return {row: CachedRow(spare_room(cut[row], n), 0, 0, n) for row, n in lengths.items()}


def groups(contexts: Iterable[Context]) -> Iterator[list[Context]]:
    """Neighbours that are prefilled together: a forward pass has a price of its own, which long prompts outweigh."""
    group: list[Context] = []
    injected = prompt = 0
    for context in contexts:
        injected, prompt = max(injected, context.injected), max(prompt, len(context.ids))
        if group and (len(group) + 1) * (injected + prompt) > _PREFILLED:
            yield group
            group, injected, prompt = [], context.injected, len(context.ids)
        group.append(context)
    yield group


def _row(slots: Tensor, at: tuple[int, slice, slice]) -> Tensor:
    row = slots[at][None]
    return new_slots(row.shape, row.dtype, row.device).copy_(row)
