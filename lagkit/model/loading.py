"""Finds a language model by its name, here or behind an API."""

from __future__ import annotations

from lagkit.model.api.requests import Requests
from lagkit.model.backend import API, Backend
from lagkit.model.lm import LM
from lagkit.util.errors import ConfigError


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    api: Requests | None = None,
) -> Backend:
    """A model by alias, hub id or folder (see `LM.load`), or as `api:NAME` the one that an endpoint calls NAME.

    api: how the endpoint is asked. Raises what `LM.load` and `APIModel` raise, and ConfigError for a device or dtype of
    a model behind an API.
    """
    if name.startswith(API):
        if device or dtype:
            raise ConfigError(f"A device or a dtype does nothing for a model behind an API, {name}: leave it out.")
        from lagkit.model.api.model import APIModel  # here, since it needs an extra

        return APIModel(name.removeprefix(API), requests=api)
    return LM.load(name, device=device, dtype=dtype)
