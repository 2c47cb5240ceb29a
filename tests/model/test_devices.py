"""What is looked at before a large model is loaded: the memory it needs, and how long it would take."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from lagkit.model import devices
from lagkit.model.hub import parameters
from lagkit.model.lm import LM
from lagkit.util.errors import MachineTooSmall
from tests.helpers.lms import saved


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A saved model that counts as large."""
    monkeypatch.setattr(devices, "_LARGE", 1)
    return str(saved(tmp_path / "large"))


@pytest.fixture
def speeds(monkeypatch):
    """GFLOP/s in each format, as if measured."""
    told = {torch.bfloat16: 10.0, torch.float32: 70.0}
    monkeypatch.setattr(devices, "_gigaflops", lambda dtype, at_least=0: told[dtype])
    monkeypatch.setattr(devices, "_loaded", lambda parameters, dtype: parameters * dtype.itemsize / 1e9)
    return told


def test_parameters_are_counted_by_the_files(large):
    assert parameters(large) == pytest.approx(sum(p.numel() for p in LM.load(large).model.parameters()), rel=0.1)


def test_a_processor_without_fast_bfloat16_is_told_before_loading(speeds, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "off")  # a warning is told all the same
    devices.check_load("qwen", 1.78e9, torch.bfloat16)
    assert capsys.readouterr().err == (
        "'qwen' is slow here: 1,000 tokens of prompt take about 51 s, since this processor has no fast bfloat16, and "
        "linear layers multiply in float32 (70 GFLOP/s).\n"
    )
    speeds[torch.bfloat16] = 36.0
    devices.check_load("qwen", 1.78e9, torch.bfloat16)
    devices.check_load("qwen", 1.78e9, torch.float32)
    assert capsys.readouterr().err == ""


def test_loading_looks_at_memory_and_speed(large, speeds, capsys, monkeypatch):
    assert LM.load(large, device="cpu").dtype == torch.bfloat16
    assert "is slow here" in capsys.readouterr().err
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    with pytest.raises(MachineTooSmall, match=r"'.*large' in float32 needs 0\.0 GB of memory, and 0\.0 GB are availab"):
        LM.load(large, device="cpu", dtype="float32")


def test_small_models_are_not_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr("psutil.virtual_memory", pytest.fail)
    assert LM.load(str(saved(tmp_path / "small")), device="cpu").dtype == torch.bfloat16


def test_speed_is_measured():
    assert 0 < devices._gigaflops(torch.float32) < 1e6
    began = time.perf_counter()
    devices._gigaflops(torch.float32, at_least=0.2)
    assert time.perf_counter() - began >= 0.2
