"""LiteRT files: the same integers, in its form of them. What needs LiteRT itself is skipped where it is missing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from integer_nets import LAST, NETS, close, images, look, norms_of_their_own, outputs, quantized, resnet
from torch import Tensor, fx, nn

from lilliput import zoo
from lilliput.clock import Clock, latency
from lilliput.comparison import compare
from lilliput.core.edits import Map
from lilliput.core.perform import perform
from lilliput.data.task import Task
from lilliput.errors import ConfigError, ExportError, ModelError
from lilliput.evaluate import evaluate
from lilliput.export import export
from lilliput.export.levels import operations
from lilliput.export.program import on_bytes
from lilliput.export.tflite import counted, input_shape, predictor, weights_quantized
from lilliput.measure import time_exports
from lilliput.measure.lite import Lite, Operation
from lilliput.measure.quiet import unheard
from lilliput.quant import Quantize, integers

WITHOUT = importlib.util.find_spec("litert_torch") is None
litert = pytest.mark.skipif(WITHOUT, reason="litert is not installed")
quiet = pytest.mark.filterwarnings("ignore")  # what LiteRT imports warns about itself


class Linears(nn.Module):
    """Linear layers between quantizers, behind two grids that are joined and values that are turned around."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.mix, self.wide, self.out = nn.Conv2d(12, 6, 1, bias=False), nn.Linear(6, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.cat([self.a(x), torch.relu(self.b(x))], 1).flip(3))
        return self.out(torch.relu(self.wide(x.mean((2, 3)))))


class Floats(nn.Module):
    """Values in floats, quantized for a layer that runs in floats as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc((x + x.sigmoid()).mean((2, 3)))


# --- the form, which needs PyTorch alone ---------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("name", ["resnet", "shuffled"])
def test_weights_are_written_as_values_and_quantizers(name: str) -> None:
    made, _ = on_bytes(quantized(name), images(1))
    wanted = torch.cat([made(x[None]) for x in images(4)])
    weights_quantized(made)
    assert torch.equal(torch.cat([made(x[None]) for x in images(4)]), wanted)
    weights = [n for n in made.graph.nodes if n.target == operations().dequantize_per_channel.default]
    assert weights and all(isinstance(n.args[0], fx.Node) and n.args[0].op == "call_function" for n in weights)


def made_of(*kinds: tuple[str, str, str]) -> list[Operation]:
    """A chain of operations: kind, the type it reads, the type it makes."""
    return [Operation(kind, (n,), (n + 1,), (reads,), (makes,)) for n, (kind, reads, makes) in enumerate(kinds)]


def test_operations_are_counted_by_what_they_make() -> None:
    chain = made_of(("QUANTIZE", "float32", "int8"), ("CONV_2D", "int8", "int8"), ("QUANTIZE", "int8", "int8"),
                    ("DEQUANTIZE", "int8", "float32"), ("LOGISTIC", "float32", "float32"))  # fmt: skip
    assert counted(chain) == ({"CONV_2D": 1, "QUANTIZE": 1}, {"LOGISTIC": 1})


def test_a_change_of_grids_by_way_of_floats_is_named() -> None:
    chain = made_of(("CONV_2D", "int8", "int8"), ("DEQUANTIZE", "int8", "float32"), ("QUANTIZE", "float32", "int8"))
    assert counted(chain) == ({"CONV_2D": 1}, {"QUANTIZE": 1})


def test_activations_that_no_byte_holds_are_refused(tmp_path: Path) -> None:
    model = perform(resnet(), [Map("conv1", "input", "affine", {"bits": 16, "signed": False, "scale": 0.1})])
    with pytest.raises(ExportError, match=r"net\.tflite: conv1: activations have `bits` \(=16\)"):
        export(model, images(1), tmp_path / "net.tflite")


@pytest.mark.skipif(not WITHOUT, reason="litert is installed")
@pytest.mark.parametrize("make", [resnet, lambda: quantized("resnet")])
def test_without_litert_it_says_what_to_install(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"net\.tflite: `litert_torch` is not installed; `pip install 'lilliput\[litert\]'`"):
        export(make(), images(1), tmp_path / "net.tflite")
    assert not (tmp_path / "net.tflite").exists()
    (tmp_path / "net.tflite").write_bytes(b"never read")
    with pytest.raises(ModelError, match=r"net\.tflite: `ai_edge_litert` is not installed; `pip install 'lilliput\[litert\]'`"):
        predictor(tmp_path / "net.tflite")


def test_native_code_is_unheard_and_heard_again(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), unheard():
        os.write(2, b"INFO: of no use\n")
        raise ValueError
    os.write(2, b"an error\n")
    assert capfd.readouterr().err == "an error\n"


# --- files, which need LiteRT ----------------------------------------------------------------------------------------------


@litert
@quiet
@pytest.mark.parametrize("name", ["resnet", "branches", "shuffled", "gated"])
def test_a_float_file_computes_what_the_network_does(name: str, tmp_path: Path) -> None:
    model, x = NETS[name](), images(5)
    done = export(model, images(1), tmp_path / "net.tflite")
    assert close(predictor(done.path)(x), outputs(model, x)) and done.max_error <= 1e-5
    assert not done.integer_nodes and not done.float_nodes and done.bytes == done.path.stat().st_size


@litert
@quiet
@pytest.mark.parametrize("name,bits", [("resnet", 8), ("pruned_resnet", 8), ("branches", 8), ("branches", 4), ("shuffled", 8)])
def test_a_file_of_integers_computes_what_the_network_does(name: str, bits: int, tmp_path: Path) -> None:
    model, x = quantized(name, bits), images(64, seed=9)
    done = export(model, images(1), tmp_path / "net.tflite")
    found = predictor(done.path)(x)
    for wanted in (outputs(model, x), outputs(integers(model, images(1)), x)):
        assert close(found, wanted) and torch.equal(found.argmax(1), wanted.argmax(1))
    assert set(done.float_nodes) == {LAST[name]} and done.integer_nodes["CONV_2D"] >= 3
    assert done.integer_nodes["DEPTHWISE_CONV_2D"] >= 1 and done.max_error <= 1e-5
    takes = [each.reads for each in Lite(done.path).operations if each.kind.endswith("CONV_2D")]
    assert {types for types in takes} == {("int8", "int8", "int32")}


@litert
@quiet
def test_linear_layers_between_quantizers_are_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Quantize()(Linears().eval(), look()), images(32, seed=9)
    done = export(model, images(1), tmp_path / "net.tflite")
    assert close(predictor(done.path)(x), outputs(model, x))
    assert set(done.float_nodes) == {"out"} and done.integer_nodes["FULLY_CONNECTED"] == 1


@litert
@quiet
def test_a_mobilenet_is_integers_but_for_its_last_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = norms_of_their_own(zoo.create("mobilenet_v1", width=0.25, classes=10))
    done = export(Quantize()(model, look()), images(1), tmp_path / "net.tflite")
    assert done.integer_nodes["DEPTHWISE_CONV_2D"] == 13 and set(done.float_nodes) == {"classifier"}


@litert
@quiet
def test_what_runs_in_floats_is_named(tmp_path: Path) -> None:
    done = export(quantized("gated"), images(1), tmp_path / "net.tflite")
    assert set(done.float_nodes) == {"fc", "LOGISTIC", "MUL"} and done.integer_nodes["CONV_2D"] == 2
    assert "in floats: LOGISTIC: `1` run in floats" in str(done)


@litert
@quiet
def test_a_quantizer_between_floats_is_dropped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Quantize()(Floats().eval(), look()), images(8)
    done = export(model, images(1), tmp_path / "net.tflite")
    assert set(done.float_nodes) == {"fc", "ADD", "LOGISTIC", "MEAN"}
    model.fc.input_maps = nn.ModuleList()  # type: ignore[union-attr]
    assert close(predictor(done.path)(x), outputs(model, x))


@litert
@quiet
def test_weights_alone_are_written_in_floats(tmp_path: Path) -> None:
    model = Quantize(activations=32)(resnet(), look())
    done = export(model, images(1), tmp_path / "net.tflite")
    assert done.max_error <= 1e-4 and not done.integer_nodes and not done.float_nodes


@litert
@quiet
def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Lite(export(resnet(), images(1), tmp_path / "net.tflite").path)
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""


@litert
@quiet
def test_files_are_run_evaluated_compared_and_timed(tmp_path: Path) -> None:
    model, x = quantized("resnet"), images(7)
    path = export(model, images(4), tmp_path / "net.tflite").path
    assert input_shape(path) == (3, 8, 8) and Lite(path).shape == (4, 3, 8, 8)
    assert close(predictor(path, threads=2)(x), outputs(model, x))
    labels = outputs(model, x).argmax(1)
    task = Task((x, labels), (x, labels), (x, labels), classes=[str(c) for c in range(10)], normalize="none")
    assert evaluate(path, task).value == 1.0
    found = latency(path, images(4), runtime="litert", threads=2)
    assert found.p10 <= found.median_ms <= found.p90 and (found.runtime, found.threads) == ("litert", 2)
    assert Clock(images(4), "litert")(model) > 0
    desk = export(model, images(4), tmp_path / "net.onnx").path
    both = time_exports({"desk": desk, "lite": path}, images(4), runs=2)
    assert {name: t.runtime for name, t in both.items()} == {"desk": "onnxruntime", "lite": "litert"}
    one = export(model, task.example(), tmp_path / "one.tflite").path
    first, second = compare([desk, one], task)
    assert (first.latency.runtime, second.latency.runtime) == ("onnxruntime", "litert") and second.agreement == 1.0


@litert
@quiet
def test_what_is_no_file_of_litert(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        Lite(tmp_path / "absent.tflite")
    (tmp_path / "odd.tflite").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="LiteRT cannot load it"):
        Lite(tmp_path / "odd.tflite")
    whole = export(resnet(), images(1), tmp_path / "net.tflite").path
    with pytest.raises(ModelError, match=r"net\.tflite: takes \(1, 3, 8, 8\) and was given \(1, 3, 9, 9\)"):
        Lite(whole)(images(1, size=9))
    (tmp_path / "half.tflite").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ModelError, match="LiteRT cannot load it"):
        Lite(tmp_path / "half.tflite")
    with pytest.raises(ConfigError, match=r"`net\.onnx`: `litert` times `\.tflite` files and modules"):
        latency("net.onnx", images(1), runtime="litert")


class Sorted(nn.Module):
    """What torch.export cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x.sum((1, 2, 3)) > 0] if float(x.sum()) > 0 else x


@litert
@quiet
def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"LiteRT cannot hold this network: .+") as raised:
        export(Sorted().eval(), images(1), tmp_path / "net.tflite")
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())
