"""Networks that compute as integer kernels do: the runtime's outputs, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from integer_nets import NETS, images, look, outputs, resnet
from torch import nn

from lilliput.export import export
from lilliput.export.onnx import predictor
from lilliput.quant import Quantize, integers
from lilliput.quant.exact import Exact


@pytest.mark.parametrize("name", ["resnet", "shuffled"])
def test_the_runtime_computes_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, x = Quantize()(NETS[name](), look()), images(128, seed=11)
    done = export(model, images(2), tmp_path / "net.onnx")
    found, exact = predictor(done.path)(x), outputs(integers(model, images(2)), x)
    layers = [m for m in integers(model, images(2)).modules() if isinstance(m, Exact)]
    assert len(layers) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in NETS[name]().modules())
    assert torch.equal(found.argmax(1), exact.argmax(1))
    assert torch.allclose(found, exact, atol=1e-6 * float(found.abs().max()))


@pytest.mark.parametrize("name", NETS)
def test_it_stays_near_the_simulation(name: str) -> None:
    model, x = Quantize()(NETS[name](), look()), images(32)
    exact, wanted = outputs(integers(model, images(2)), x), outputs(model, x)
    assert exact.dtype == torch.float32
    assert ((exact - wanted).abs().amax(1) / wanted.abs().max()).median() < 1e-4


def test_the_network_itself_stays_as_it_was() -> None:
    model = Quantize()(resnet(), look()).train()
    before = outputs(model, images())
    model.train()
    integers(model, images(2))
    assert model.training and torch.equal(outputs(model, images()), before)


def test_a_network_of_floats_is_computed_in_floats() -> None:
    made = integers(resnet(), images(2))
    assert not any(isinstance(m, Exact) for m in made.modules())
    assert torch.allclose(outputs(made, images()), outputs(resnet(), images()), atol=1e-4)
