"""Names that settings give to devices, number formats, codecs and sources of KV; reading them takes no torch."""

from __future__ import annotations

import re
from typing import Literal

from lagkit.util.errors import ConfigError

DType = Literal["float32", "bfloat16"]
Codec = Literal["none", "int8"]
BlockSource = Literal["load", "recompute", "planned"]


def device_name(name: str) -> str:
    """`name`, if devices are called so: `cpu`, `cuda`, `cuda:N` or `mps`. Raises ConfigError if not."""
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"There is no device {name!r}: use cpu, cuda, cuda:N (the GPU number N) or mps.")
    return name
