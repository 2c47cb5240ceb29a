"""KV blocks that were used lately: read in the background, kept in memory and re-aligned, within a bound in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lagkit.model.kv import KVBlock, Part

if TYPE_CHECKING:
    from lagkit.model.rope import Realigner

READERS = 4  # of files at once: a checksum is computed without the interpreter's lock, and a far disk makes one wait
MAX_BYTES = 2**30


class BlockCache:
    """Blocks by the checksum of their content; the least recently used go first. Any thread may use it.

    max_bytes: of blocks and of their keys as they were re-aligned; one that goes lives on where a context holds it.
    pin: keep them in page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, *, pin: bool = False) -> None:
        self.max_bytes, self.nbytes = max_bytes, 0
        self._pin = pin
        self._held: OrderedDict[str, PendingBlock] = OrderedDict()
        self._turn = threading.Lock()
        self._readers: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def fetch(self, name: str, tokens: int, nbytes: int, read: Callable[[], KVBlock]) -> PendingBlock:
        """The block `name`, of `tokens` tokens and `nbytes` bytes; what is not here is being read from now on.

        What `read` raises comes out of `PendingBlock.resolve`, and the block is read again when it is next asked for.
        """
        with self._turn:
            held = self._held.get(name)
            if held is None or held.failed:
                if held is not None:
                    self._drop(name)
                held = self._held[name] = PendingBlock(tokens, self.remember)
                self._grow(held, nbytes)
                self._readers = self._readers or ThreadPoolExecutor(READERS, "lagkit-read")
                held.block = self._readers.submit(self._read, read)
            if name in self._held:  # not if it is larger than the bound
                self._held.move_to_end(name)
            return held

    def remember(self, held: PendingBlock, nbytes: int) -> bool:
        """Count a block's re-aligned keys; False if it has gone, and they are not to be kept."""
        with self._turn:
            if not held.gone:
                self._grow(held, nbytes)
            return not held.gone

    def _read(self, read: Callable[[], KVBlock]) -> KVBlock:
        block = read()
        return KVBlock(block.keys.pin_memory(), block.values.pin_memory(), block.ids) if self._pin else block

    def _grow(self, held: PendingBlock, nbytes: int) -> None:
        held.nbytes += nbytes
        self.nbytes += nbytes
        while self.nbytes > self.max_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, name: str) -> None:
        held = self._held.pop(name)
        held.gone = True
        self.nbytes -= held.nbytes


@dataclass(eq=False)
class PendingBlock(Part):
    """A block that is being read, or is here, with its re-aligned keys by start position where there is room for them.

    nbytes: of both. gone: whether the cache has dropped it.
    """

    tokens: int
    remember: Callable[[PendingBlock, int], bool] = field(repr=False)
    nbytes: int = 0
    gone: bool = False
    block: Future[KVBlock] = field(default_factory=Future, repr=False)
    _aligned: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.tokens

    @property
    def failed(self) -> bool:
        """Whether it could not be read."""
        return self.block.done() and self.block.exception() is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.resolve().shape

    def resolve(self) -> KVBlock:
        return self.block.result()

    def write_into(self, realigner: Realigner, start: int, keys: Tensor, values: Tensor) -> None:
        block = self.resolve()
        if (aligned := self._aligned.get(start)) is not None:
            keys.copy_(aligned)
            values.copy_(block.values, non_blocking=True)
            return
        block.write_into(realigner, start, keys, values)
        if self.remember(self, keys.nbytes):
            self._aligned[start] = keys.clone(memory_format=torch.contiguous_format)
