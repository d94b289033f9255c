"""ExecuTorch files: integers as XNNPACK takes them. What needs ExecuTorch itself is skipped where it is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from integer_nets import LAST, NETS, close, images, look, outputs, quantized, resnet
from torch import Tensor, nn

from lilliput.clock import Clock, latency
from lilliput.core.edits import Map
from lilliput.core.perform import perform
from lilliput.data.task import Task
from lilliput.errors import ConfigError, ExportError, ModelError
from lilliput.evaluate import evaluate
from lilliput.export import export
from lilliput.export.levels import Level
from lilliput.export.program import on_bytes
from lilliput.export.pte import input_shape, predictor
from lilliput.measure import time_exports
from lilliput.measure.phone import Phone
from lilliput.quant import Quantize, integers
from lilliput.quant.integer import Affine

WITHOUT = importlib.util.find_spec("executorch") is None
phone = pytest.mark.skipif(WITHOUT, reason="executorch is not installed")
quiet = pytest.mark.filterwarnings("ignore")  # what ExecuTorch imports warns about itself


# --- the form, which needs PyTorch alone ---------------------------------------------------------------------------------


@given(bits=st.integers(2, 8), signed=st.booleans(), zero=st.integers(0, 3), codes=st.lists(st.integers(-300, 300), min_size=1))
def test_a_level_is_the_quantizer_on_signed_bytes(bits: int, signed: bool, zero: int, codes: list[int]) -> None:
    affine = Affine.like(torch.zeros(1), bits=bits, signed=signed, scale=0.37, zero=0 if signed else zero)
    x = 0.37 * (torch.tensor(codes) + torch.linspace(-0.4, 0.4, len(codes)))  # no value lies where two roundings differ
    level = Level(affine)
    assert torch.allclose(level(x), affine(x), rtol=1e-6) and level.grid.low == -128 and level.grid.high <= 127


@quiet
@pytest.mark.parametrize("name,bits", [*((name, 8) for name in NETS), ("resnet", 4), ("branches", 3)])
def test_the_form_computes_what_the_network_does(name: str, bits: int) -> None:
    model = quantized(name, bits)
    made, stays = on_bytes(model, images(1))
    assert close(torch.cat([made(x[None]) for x in images(8)]), outputs(model, images(8)))
    assert set(stays) == {LAST[name]} and "XNNPACK's integer layers end in bytes" in stays[LAST[name]]


@quiet
def test_every_layer_but_the_last_stands_between_bytes() -> None:
    made, _ = on_bytes(quantized("resnet"), images(1))
    kinds = [str(node.target) for node in made.graph.nodes if node.op == "call_function"]
    layers = [n for n in made.graph.nodes if "conv2d" in str(n.target)]
    assert all("dequantize_per_tensor" in str(n.args[0].target) and len(n.users) == 1 for n in layers)
    assert all("quantize_per_tensor" in str(next(iter(n.users)).target) for n in layers)
    assert not any("relu" in kind for kind in kinds)  # a quantizer with its zero at the lowest byte is one


class Odd(nn.Module):
    """What else stands between layers: ceiling and padded pools, clips and moves XNNPACK lacks, values read in floats too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True)
        self.relu, self.fc = nn.ReLU6(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        x = self.b(x.flip(3))
        x = self.c(torch.relu(x[:, :, 1::2, :]))
        y = self.d(x)
        return self.fc((y + y.sigmoid()).mean((2, 3)))


@quiet
def test_what_has_no_integer_form_stays_in_floats() -> None:
    torch.manual_seed(0)
    model = Quantize()(Odd().eval(), look())
    made, stays = on_bytes(model, images(1))
    assert close(torch.cat([made(x[None]) for x in images(8)]), outputs(model, images(8)))
    assert set(stays) >= {"fc"}


@quiet
def test_a_bias_without_weights_is_kept() -> None:
    model = resnet()
    with torch.no_grad():
        model.bn1.weight[0] = 0.0  # type: ignore[union-attr,operator]
    model = Quantize()(model, look())
    made, _ = on_bytes(model, images(1))
    assert close(torch.cat([made(x[None]) for x in images(4)]), outputs(model, images(4)))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "wide": ("affine", {"bits": 16, "signed": False, "scale": 0.1}, r"net\.pte: conv1: activations have `bits` \(=16\)"),
    "halves": ("float", {"kind": "fp16"}, r"activations pass through `float`"),
    "slices": ("affine", {"bits": 8, "axis": 1, "scale": [0.1] * 3}, r"activations have scales along `axis` \(=1\)"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_activations_that_no_byte_holds_are_refused(why: str, tmp_path: Path) -> None:
    kind, spec, message = REFUSED[why]
    model = perform(resnet(), [Map("conv1", "input", kind, spec)])
    with pytest.raises(ExportError, match=message) as raised:
        export(model, images(1), tmp_path / "net.pte")
    assert "write an `.onnx`" in str(raised.value) and not (tmp_path / "net.pte").exists()


@pytest.mark.skipif(not WITHOUT, reason="executorch is installed")
@pytest.mark.parametrize("make", [resnet, lambda: quantized("resnet")])
def test_without_executorch_it_says_what_to_install(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"net\.pte: `executorch` is not installed; `pip install 'lilliput\[phone\]'`"):
        export(make(), images(1), tmp_path / "net.pte")
    assert not (tmp_path / "net.pte").exists()


# --- files, which need ExecuTorch ------------------------------------------------------------------------------------------


@phone
@quiet
@pytest.mark.parametrize("name,bits", [("resnet", 8), ("branches", 4), ("shuffled", 8)])
def test_a_file_of_integers_computes_what_the_network_does(name: str, bits: int, tmp_path: Path) -> None:
    model, x = quantized(name, bits), images(64, seed=9)
    done = export(model, images(1), tmp_path / "net.pte")
    found = predictor(done.path)(x)
    for wanted in (outputs(model, x), outputs(integers(model, images(1)), x)):
        assert close(found, wanted) and torch.equal(found.argmax(1), wanted.argmax(1))
    assert set(done.float_nodes) == {LAST[name]} and done.integer_nodes["convolution"] >= 4
    assert done.max_error <= 1e-5 and done.bytes == done.path.stat().st_size


@phone
@quiet
def test_what_runs_in_floats_is_named(tmp_path: Path) -> None:
    done = export(quantized("gated"), images(1), tmp_path / "net.pte")
    assert set(done.float_nodes) == {"fc", "mul", "sigmoid"} and done.integer_nodes["convolution"] == 2
    assert "in floats: sigmoid: `1` run in XNNPACK's float kernels" in str(done)


@phone
@quiet
@pytest.mark.parametrize("bits", [8, 32])
def test_weights_alone_are_written_in_floats(bits: int, tmp_path: Path) -> None:
    model = Quantize(bits=bits, activations=32)(resnet(), look())
    done = export(model, images(1), tmp_path / "net.pte")
    assert done.max_error <= 1e-4 and not done.integer_nodes and not done.float_nodes


@phone
@quiet
def test_files_are_run_evaluated_and_timed(tmp_path: Path) -> None:
    model, x = quantized("resnet"), images(7)
    path = export(model, images(4), tmp_path / "net.pte").path
    assert input_shape(path) == (3, 8, 8) and Phone(path).shape == (4, 3, 8, 8)
    assert close(predictor(path)(x), outputs(model, x))
    labels = outputs(model, x).argmax(1)
    task = Task((x, labels), (x, labels), (x, labels), classes=[str(c) for c in range(10)], normalize="none")
    assert evaluate(path, task).value == 1.0
    older = Phone(path, threads=1)
    for threads in (2, 1):
        found = latency(path, images(4), runtime="executorch", threads=threads)
        assert found.p10 <= found.median_ms <= found.p90 and (found.runtime, found.threads) == ("executorch", threads)
    assert close(older(x[:4])[0], outputs(model, x[:4]))  # loaded before the pool of threads was made anew
    assert Clock(images(4), "executorch")(model) > 0
    desk = export(model, images(4), tmp_path / "net.onnx").path
    both = time_exports({"desk": desk, "phone": path}, images(4), runs=2)
    assert {name: t.runtime for name, t in both.items()} == {"desk": "onnxruntime", "phone": "executorch"}


@phone
@quiet
def test_what_is_no_file_of_executorchs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        Phone(tmp_path / "absent.pte")
    (tmp_path / "odd.pte").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="ExecuTorch cannot load it"):
        Phone(tmp_path / "odd.pte")
    with pytest.raises(ConfigError, match=r"`net\.onnx`: `executorch` times `\.pte` files and modules"):
        latency("net.onnx", images(1), runtime="executorch")
