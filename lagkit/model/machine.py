"""What this machine has for a model: disk, memory, and speed in bfloat16, looked at before expensive work."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import psutil
import torch
from torch.nn import functional

from lagkit.util.errors import MachineTooSmall
from lagkit.util.progress import warn

_LARGE = 5e8  # parameters from which memory and speed are looked at


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
    """For a large model on a CPU: raise MachineTooSmall where its weights find no room; warn where it will be slow.

    Slow is a processor that multiplies bfloat16 more slowly than float32; both are measured, in about a second.
    """
    if parameters < _LARGE:
        return
    check_memory(f"{name!r} in {str(dtype).removeprefix('torch.')}", _loaded(parameters, dtype))
    if dtype != torch.bfloat16:
        return
    speed, other = _gigaflops(torch.bfloat16), _gigaflops(torch.float32)
    if speed < other:
        took, instead = (2e-6 * parameters / rate for rate in (speed, other))  # seconds for 1,000 tokens
        warn(
            f"{name!r} is slow here: 1,000 tokens of prompt take about {took:,.0f} s, since this processor has no fast "
            f"bfloat16 ({speed:,.0f} GFLOP/s); dtype=float32 would take {instead:,.0f} s and "
            f"{_loaded(parameters, torch.float32):.1f} GB of memory."
        )


def _loaded(parameters: float, dtype: torch.dtype) -> float:
    """Gigabytes with which a model works: its weights, and half a gigabyte for all else."""
    return parameters * dtype.itemsize / 1e9 + 0.5


def _gigaflops(dtype: torch.dtype) -> float:
    """10^9 operations a second of a linear layer on a prompt of 256 tokens: the best of three."""
    x, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        functional.linear(x, weight)
        seconds.append(time.perf_counter() - began)
    return 2e-9 * x.numel() * len(weight) / min(seconds)
