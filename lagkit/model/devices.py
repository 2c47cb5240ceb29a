"""Devices and number formats by name, checked before anything is loaded or fetched."""

from __future__ import annotations

import re
from typing import Literal, get_args

import torch

from lagkit.util.errors import ConfigError

DType = Literal["float32", "bfloat16"]


def device_name(name: str) -> str:
    """`name`, if devices are called so: `cpu`, `cuda`, `cuda:N` or `mps`. Raises ConfigError if not."""
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"There is no device {name!r}: use cpu, cuda, cuda:N (the GPU number N) or mps.")
    return name


def present_device(name: str) -> str:
    """`name`, if this machine has the device. Raises ConfigError if not."""
    kind, _, number = device_name(name).partition(":")
    if kind == "cuda" and int(number or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"There is no device {name} here (torch finds {count} GPUs): leave out device, or use cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("There is no device mps here: leave out device, or use cpu.")
    return name


def best_device() -> str:
    """`cuda` if there is one, then `mps`, then `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def torch_dtype(name: str) -> torch.dtype:
    """The number format of that name. Raises ConfigError for one that models are not loaded in."""
    if name not in (names := get_args(DType)):
        raise ConfigError(f"There is no dtype {name!r}: use {' or '.join(names)}.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
