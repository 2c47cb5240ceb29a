"""Checkpoints of a training run: weights and the optimizers' memory as safetensors, the rest in the file's header."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lagkit.util.errors import DataError
from lagkit.util.files import replacing


def save(
    path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], facts: dict[str, Any]
) -> None:
    """Write aside and rename, so that a kill leaves the previous checkpoint."""
    tensors = {f"model/{name}": weight.detach() for name, weight in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{index}/{name}": value for name, value in state.items()}
    with replacing(path) as aside:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, {"facts": json.dumps(facts)})


def read_facts(path: Path) -> dict[str, Any]:
    """What was saved beside the tensors; raises DataError when the file cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads(file.metadata()["facts"]))
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"The checkpoint {path} cannot be read ({error}): delete it to start anew.") from error


def restore(path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put the tensors of a checkpoint back where they came from."""
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    with safe_open(path, "pt") as file:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(file.get_tensor(f"model/{name}"))
        for key in filter(lambda key: key.startswith("optimizer/"), file.keys()):
            _, i, index, name = key.split("/")
            states[int(i)].setdefault(int(index), {})[name] = file.get_tensor(key)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
