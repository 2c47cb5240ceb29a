"""Upcast products give what bfloat16 ones should, reach a model that is loaded, and are faster where they are used."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lagkit.model import devices, upcast
from lagkit.model.context import Context
from lagkit.model.lm import LM
from tests.helpers.lms import saved

_ROUNDING = 2**-8  # of a number, at most, when it becomes bfloat16


def layer(inside: int, outside: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inside, outside, bias=bias).bfloat16()


@given(st.integers(1, 40), st.integers(1, 70), st.integers(4, 9), st.integers(1, 200), st.booleans())
def test_a_product_is_rounded_once(inside, outside, rows, piece, bias):
    plain = layer(inside, outside, bias=bias)
    x = torch.randn(1, rows, inside).bfloat16()
    exact = nn.functional.linear(
        x.double(), plain.weight.double(), plain.bias.double() if plain.bias is not None else None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upcast, "_PIECE", piece)
        upcast.upcast(plain)
        patch.setattr(nn.Linear, "forward", pytest.fail)
        with torch.inference_mode():
            got = plain(x)
    assert (got.shape, got.dtype) == (exact.shape, torch.bfloat16)
    size = x.abs().double() @ plain.weight.abs().double().T
    assert torch.all((got - exact).abs() <= _ROUNDING * exact.abs() + 1e-5 * size)


@pytest.fixture
def speeds(monkeypatch):
    """GFLOP/s in each format, as if measured."""
    told = {torch.bfloat16: 10.0, torch.float32: 21.0}
    monkeypatch.setattr(devices, "_gigaflops", lambda dtype: told[dtype])
    return told


def layers(lm: LM) -> set[type]:
    return {type(module) for module in lm.model.modules() if isinstance(module, nn.Linear)}


def test_a_loaded_model_multiplies_in_float32_where_that_is_much_faster(tmp_path, speeds):
    folder = str(saved(tmp_path / "model"))
    assert layers(LM.load(folder, device="cpu")) == {upcast.UpcastLinear}
    assert layers(LM.load(folder, device="cpu", dtype="float32")) == {nn.Linear}
    speeds[torch.bfloat16] = 11.0
    assert layers(LM.load(folder, device="cpu")) == {nn.Linear}


def test_an_upcast_model_is_the_same_model(tmp_path, speeds):
    folder = str(saved(tmp_path / "model"))
    ours, exact = LM.load(folder, device="cpu"), LM.load(folder, device="cpu", dtype="float32")
    speeds[torch.bfloat16] = 21.0
    native = LM.load(folder, device="cpu")
    assert ours.fingerprint == native.fingerprint
    assert {p.dtype for p in ours.model.parameters()} == {torch.bfloat16}
    prompt = Context(tuple(range(5, 25)))
    told, by_torch, wanted = (lm.logits(prompt).double() for lm in (ours, native, exact))
    assert (told - wanted).norm() <= 1.1 * (by_torch - wanted).norm()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("way", ["few", "gradient", "numbers", "width", "nothing", "empty"])
def test_torch_multiplies_what_upcasting_is_not_made_for(way, monkeypatch):
    ours = layer(0 if way == "empty" else 6, 8)
    upcast.upcast(ours)
    x = torch.randn({"few": 3, "nothing": 0}.get(way, 9), {"width": 5, "empty": 0}.get(way, 6))
    monkeypatch.setattr(nn.Linear, "forward", lambda self, input: "torch's")
    with torch.set_grad_enabled(way == "gradient"):
        assert ours(x if way == "numbers" else x.bfloat16()) == "torch's"


def test_layers_of_other_formats_and_classes_stay():
    class Other(nn.Linear):
        pass

    model = nn.ModuleList([nn.Linear(2, 2), Other(2, 2).bfloat16(), layer(2, 2)])
    upcast.upcast(model)
    assert [type(one) for one in model] == [nn.Linear, Other, upcast.UpcastLinear]


def test_it_is_faster_where_it_is_used():
    if not devices.slow(torch.bfloat16):
        pytest.skip("this processor multiplies bfloat16 fast")
    plain, ours = layer(1024, 4096), layer(1024, 4096)
    upcast.upcast(ours)
    x = torch.randn(256, 1024).bfloat16()
    took = {plain: [], ours: []}
    with torch.inference_mode():
        for one in (plain, ours) * 4:
            began = time.perf_counter()
            one(x)
            took[one].append(time.perf_counter() - began)
    assert 1.5 * min(took[ours]) < min(took[plain])
