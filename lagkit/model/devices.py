"""What this machine has for a model, before one is fetched: devices and number formats, disk, memory, and speed."""

from __future__ import annotations

import shutil
import time
from functools import cache
from pathlib import Path
from typing import get_args

import psutil
import torch
from torch.nn import functional

from lagkit.model.names import DType, device_name
from lagkit.util.errors import ConfigError, MachineTooSmall
from lagkit.util.progress import warn

_LARGE = 5e8  # parameters from which memory is looked at, and time told


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


def check_disk(what: str, folder: Path, gigabytes: float) -> None:
    """Raise MachineTooSmall where the disk of `folder` has less free."""
    if (free := shutil.disk_usage(folder).free / 1e9) < gigabytes:
        raise MachineTooSmall(
            f"{what} needs {gigabytes:.1f} GB of disk, and {folder.parent} has {free:.1f} GB free: make room there, or "
            "set LAGKIT_HOME to a folder on another disk."
        )


def check_memory(what: str, gigabytes: float) -> None:
    """Raise MachineTooSmall where less memory is available."""
    if (free := psutil.virtual_memory().available / 1e9) < gigabytes:
        raise MachineTooSmall(
            f"{what} needs {gigabytes:.1f} GB of memory, and {free:.1f} GB are available: end other programs, or use a "
            "smaller model."
        )


def check_load(name: str, parameters: float, dtype: torch.dtype) -> None:
    """For a large model on a CPU: raise MachineTooSmall without room; warn where bfloat16 is not fast."""
    if parameters < _LARGE:
        return
    check_memory(f"{name!r} in {str(dtype).removeprefix('torch.')}", _loaded(parameters, dtype))
    if slow(dtype):
        rate = _gigaflops(torch.float32, at_least=0.5)  # a processor at rest takes a while to reach its speed
        warn(
            f"{name!r} is slow here: 1,000 tokens of prompt take about {2e-6 * parameters / rate:,.0f} s, since this "
            f"processor has no fast bfloat16, and linear layers multiply in float32 ({rate:,.0f} GFLOP/s)."
        )


def slow(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies so slowly in this format that products are better made in float32."""
    # Less than half as fast: speeds vary as they are measured, and a model should be rounded the same way each time.
    return dtype == torch.bfloat16 and 2 * _gigaflops(torch.bfloat16) < _gigaflops(torch.float32)


def _loaded(parameters: float, dtype: torch.dtype) -> float:
    """Gigabytes with which a model works: its weights, and half a gigabyte for all else."""
    return parameters * dtype.itemsize / 1e9 + 0.5


@cache
def _gigaflops(dtype: torch.dtype, at_least: float = 0) -> float:
    """10^9 operations a second of a linear layer on a prompt of 256 tokens: the best in some seconds, or of three."""
    x, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    seconds = list[float]()
    while len(seconds) < 3 or sum(seconds) < at_least:
        began = time.perf_counter()
        functional.linear(x, weight)
        seconds.append(time.perf_counter() - began)
    return 2e-9 * x.numel() * len(weight) / min(seconds)
