"""The tensors of a safetensors file as views of one mapping of it: bytes are read when they are used.

safetensors' own `get_tensor` maps too, but leaves some bytes behind at each call, by which a process grows that reads
for long. What is in the file, and that it is sound, it still says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I8": torch.int8, "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64},
}


class Mapped:
    """An open file: `format` of its metadata, and its tensors by name."""

    def __init__(self, file: safe_open, path: Path) -> None:
        self.format: str = (file.metadata() or {}).get("format", "none")
        self._file, self._path = file, path

    def tensors(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The tensors of these names. Raises ValueError if one is not there, or of a dtype that no block has."""
        slices = {name: self._file.get_slice(name) for name in self._file.offset_keys()}
        if missing := set(names) - slices.keys():
            raise ValueError(f"it has no tensor {min(missing)!r}")
        size = self._path.stat().st_size
        raw = torch.from_file(str(self._path), shared=False, size=size, dtype=torch.uint8)
        found, stop = {}, size
        for name, part in reversed(slices.items()):  # they lie without gaps, up to the end of the file
            shape, dtype = part.get_shape(), _DTYPES.get(part.get_dtype())
            if dtype is None:
                raise ValueError(f"its tensor {name!r} is {part.get_dtype()}")
            start = stop - prod(shape) * dtype.itemsize
            if start % dtype.itemsize:
                raise ValueError(f"its tensor {name!r} is not aligned")
            found[name], stop = raw[start:stop].view(dtype).reshape(shape), start
        return {name: found[name] for name in names}


@contextmanager
def opened(path: str | Path) -> Iterator[Mapped]:
    """A safetensors file, checked as safetensors does. Raises OSError or SafetensorError, as it does."""
    with safe_open(path, framework="pt") as file:
        yield Mapped(file, Path(path))
