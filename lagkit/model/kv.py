"""KV blocks: keys and values of some tokens as a value that can be cut, joined, written and injected."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lagkit.model import codec as codecs
from lagkit.model.names import Codec
from lagkit.util import files
from lagkit.util.errors import DamagedBlock

if TYPE_CHECKING:
    from lagkit.model.rope import Realigner

FORMATS: dict[Codec, str] = {"none": "lagkit-kv-1", "int8": "lagkit-kv-int8-1"}


class Part:
    """A stretch of KV at the start of a context: at hand, being read, or a cache that is continued."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(layers, kv_heads, head_dim)."""

    @abstractmethod
    def __len__(self) -> int: ...

    def resolve(self) -> Any:
        """The KV itself, waited for where it is being read; raises DamagedBlock."""
        return self

    @abstractmethod
    def write_into(self, realigner: Realigner, start: int, keys: Tensor, values: Tensor) -> None:
        """Write itself into slots `[layers, kv_heads, tokens, head_dim]`, the keys rotated to positions `start`.. ."""


@dataclass(frozen=True, eq=False, repr=False)
class KVBlock(Part):
    """Keys and values of consecutive or picked tokens of one text, free of positions; no tokens are legal too.

    `keys` (without RoPE) and `values`: `[layers, kv_heads, tokens, head_dim]`; `ids`: int64 `[tokens]`.
    Raises ValueError if the three disagree. Blocks share memory with what they are cut from: never write into one.
    """

    keys: Tensor
    values: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        if self.keys.ndim != 4 or self.keys.shape != self.values.shape or self.ids.shape != self.keys.shape[2:3]:
            shapes = ", ".join(str(tuple(t.shape)) for t in (self.keys, self.values, self.ids))
            raise ValueError(f"keys, values and ids of a KV block do not fit together: their shapes are {shapes}")
        if self.keys.dtype != self.values.dtype:
            raise ValueError(f"keys and values of a KV block differ in dtype: {self.keys.dtype}, {self.values.dtype}")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """Sizes, not numbers: a notebook shows a block that stands last in a cell."""
        layers, kv_heads, head_dim = self.shape
        sizes = f"layers={layers}, kv_heads={kv_heads}, tokens={len(self)}, head_dim={head_dim}"
        return f"KVBlock({sizes}, {str(self.keys.dtype).removeprefix('torch.')}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def shape(self) -> tuple[int, int, int]:
        layers, kv_heads, _, head_dim = self.keys.shape
        return layers, kv_heads, head_dim

    def write_into(self, realigner: Realigner, start: int, keys: Tensor, values: Tensor) -> None:
        at = torch.arange(start, start + len(self), device=keys.device)
        # From pinned memory to a GPU, neither copy waits for the other.
        realigner.rotate(self.keys.to(keys.device, non_blocking=True), at, out=keys)
        values.copy_(self.values, non_blocking=True)

    def slice(self, start: int, stop: int) -> KVBlock:
        """The tokens `[start, stop)`, counted as Python slices are; nothing is copied."""
        return KVBlock(self.keys[:, :, start:stop], self.values[:, :, start:stop], self.ids[start:stop])

    def take(self, index: Sequence[int] | Tensor) -> KVBlock:
        """The tokens at `index` (ints, `[n]`), in that order."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.ids.device)
        return KVBlock(self.keys.index_select(2, index), self.values.index_select(2, index), self.ids[index])

    @classmethod
    def concat(cls, blocks: Sequence[KVBlock]) -> KVBlock:
        """The tokens of all blocks, one after the other; raises ValueError if there is no block."""
        if not blocks:
            raise ValueError("concat needs at least one KV block")
        if len(blocks) == 1:
            return blocks[0]
        keys, values = (torch.cat([getattr(b, name) for b in blocks], dim=2) for name in ("keys", "values"))
        return cls(keys, values, torch.cat([b.ids for b in blocks]))

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> KVBlock:
        """The same tokens in another dtype or on another device."""
        keys, values = (t.to(device=device, dtype=dtype) for t in (self.keys, self.values))
        return KVBlock(keys, values, self.ids.to(device=device))

    def dump(self, codec: Codec = "none") -> bytes:
        """The content of a safetensors file, ids in 4 bytes each; raises ValueError for what the codec cannot hold."""
        tensors = {**codecs.pack(self.keys, self.values, codec), "ids": self.ids.to(torch.int32)}
        format = FORMATS[codec]
        if codec != "none":  # The tensors do not tell. Not an entry of its own: several are written in any order.
            format += "/" + str(self.keys.dtype).removeprefix("torch.")
        return safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()}, {"format": format})

    def save(self, path: str | Path, codec: Codec = "none") -> None:
        """Write a safetensors file, whole or not at all; raises OSError, and ValueError as `dump`."""
        files.write(Path(path), self.dump(codec))

    @classmethod
    def load(cls, path: str | Path, codec: Codec = "none") -> KVBlock:
        """Read a file that `save` wrote; raises DamagedBlock as `parse`, and where it cannot be read."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise DamagedBlock(f"KV block {path} cannot be used ({error}): encode its log again.") from error
        return cls.parse(data, path, codec)

    @classmethod
    def parse(cls, data: bytes, where: str | Path, codec: Codec = "none") -> KVBlock:
        """The block of which `dump` made `data`, in its dtype.

        Raises DamagedBlock, which names `where` it came from, also for another codec. Not memory-mapped: a page fault
        for every 4 kB takes longer than to read and check them all.
        """
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            found, _, dtype = (header.get("__metadata__") or {}).get("format", "none").partition("/")
            if found != FORMATS[codec]:
                raise ValueError(f"its format is {found}, not {FORMATS[codec]}")
            return cls(*codecs.unpack(tensors, codec, dtype), tensors["ids"].long())
        except (SafetensorError, ValueError, KeyError) as error:
            raise DamagedBlock(f"KV block {where} cannot be used ({error}): encode its log again.") from error
