"""ONNX files: they compute what the network does, integers stay integers, and they are the same every time."""

from __future__ import annotations

import copy
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from integer_nets import NETS, images, look, outputs, resnet
from torch import Tensor, nn

from lilliput.core.edits import Map
from lilliput.core.maps import Mapping, maps
from lilliput.core.perform import perform
from lilliput.errors import ExportError, ModelError, UnknownName
from lilliput.export import Exported, export
from lilliput.export.onnx import input_shape, predictor
from lilliput.quant import Quantize


@cache
def quantized(name: str) -> nn.Module:
    return Quantize()(NETS[name](), look())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Exported:
    return export(resnet(), images(2), folder / "plain.onnx")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Exported:
    return export(quantized("resnet"), images(2), folder / "whole.onnx")


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def bare(path: Path, x: Tensor) -> Tensor:
    """Outputs without any of the runtime's optimisations: integers as floats, operation by operation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return torch.from_numpy(ort.InferenceSession(str(path), options).run(None, {"input": x.numpy()})[0])


def test_floats_agree_for_any_batch(plain: Exported) -> None:
    assert plain.max_error < 1e-5
    assert (plain.integer_nodes, plain.float_nodes, plain.saturating) == ({}, {}, ())
    for count in (1, 3, 16):
        assert torch.allclose(predictor(plain.path)(images(count)), outputs(resnet(), images(count)), atol=1e-5)


def test_every_layer_runs_as_integers(whole: Exported) -> None:
    assert whole.integer_nodes == {"QLinearConv": 7, "QLinearAdd": 3, "QLinearGlobalAveragePool": 1, "QGemm": 1}
    assert whole.float_nodes == {}
    assert whole.saturating == ()


def test_integers_agree(whole: Exported) -> None:
    x = images(64)
    wanted, found = outputs(quantized("resnet"), x), predictor(whole.path)(x)
    apart = (wanted - found).abs().amax(1) / wanted.abs().max()
    assert (apart < 1e-5).float().mean() > 0.8  # the others hold a value that fell to the other side of a tie
    assert apart.max() < 0.1
    assert (wanted.argmax(1) == found.argmax(1)).float().mean() > 0.95


def test_weights_are_stored_as_integers(plain: Exported, whole: Exported) -> None:
    stored = {t.name: t for t in onnx.load(whole.path).graph.initializer}
    assert stored["layer1.0.conv1.weight"].data_type == onnx.TensorProto.INT8
    layer = quantized("resnet").get_submodule("layer1.0.conv1")
    codes = layer.weight_maps[0].encode(layer.weight).values.numpy()
    assert np.array_equal(onnx.numpy_helper.to_array(stored["layer1.0.conv1.weight"]), codes)
    assert whole.bytes == whole.path.stat().st_size < 0.5 * plain.bytes  # of which most are names, in so small a network


def test_nodes_are_named_after_layers_and_nothing_is_said_twice(whole: Exported) -> None:
    model = onnx.load(whole.path)
    assert [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm")] == [
        n for n, m in quantized("resnet").named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["input", "output"]
    assert not model.graph.value_info and not model.metadata_props and not model.graph.doc_string
    assert not any(n.doc_string or n.metadata_props for n in model.graph.node)


def test_relus_are_left_to_the_quantizers(whole: Exported) -> None:
    assert kinds(whole.path)["Relu"] == 0
    assert kinds(whole.path)["QuantizeLinear"] == 12  # as many as there are places


@pytest.mark.parametrize("name", ["pruned_resnet", "branches", "shuffled"])
def test_joined_split_and_pooled_values_stay_integers(name: str, folder: Path) -> None:
    done = export(quantized(name), images(2), folder / f"{name}.onnx")
    assert done.float_nodes == {}
    layers = [m for m in quantized(name).modules() if isinstance(m, nn.Conv2d)]
    assert done.integer_nodes["QLinearConv"] == len(layers)
    x = images(32)
    wanted = outputs(quantized(name), x)
    for found in (predictor(done.path)(x), bare(done.path, x)):
        apart = (wanted - found).abs().amax(1) / wanted.abs().max()
        assert apart.median() < 1e-5 and apart.max() < 0.1


def test_what_runs_in_floats_is_named(folder: Path) -> None:
    done = export(quantized("gated"), images(2), folder / "gated.onnx")
    assert done.float_nodes.keys() == {"Sigmoid", "Mul"} or done.float_nodes.keys() == {"Mul"}
    assert done.integer_nodes["QLinearConv"] == 2
    assert "in floats: Mul: `1` run in floats" in str(done)


@pytest.mark.parametrize(("bits", "activations"), [(4, 4), (8, 32), (32, 8)])
def test_other_widths_agree(bits: int, activations: int, folder: Path) -> None:
    model = Quantize(bits=bits, activations=activations)(NETS["branches"](), look())
    done = export(model, images(2), folder / f"w{bits}a{activations}.onnx")
    if activations == 32:
        assert set(done.float_nodes.values()) == {"its input is not quantized"}
    elif bits == 32:
        assert set(done.float_nodes.values()) >= {"its weight is not quantized"}
    else:
        assert done.integer_nodes["QLinearConv"] == 5


def test_weights_that_can_saturate_are_named(folder: Path) -> None:
    done = export(Quantize(saturation_free=False)(NETS["shuffled"](), look()), images(2), folder / "saturating.onnx")
    assert "group" in done.saturating and "deep.0" not in done.saturating
    assert "can saturate on x86 without VNNI: " in str(done)


def test_a_dead_channel_and_a_huge_bias(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(144, 3)).eval()
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0, 0.7
        model[2].weight[1] *= 1e-8
        model[2].bias[1] = 3.0
    done = export(Quantize()(model, look()), images(2), folder / "dead.onnx")
    assert done.max_error < 0.02
    assert done.integer_nodes["QLinearConv"] == 2


def test_the_same_network_makes_the_same_bytes(whole: Exported, folder: Path) -> None:
    again = export(copy.deepcopy(quantized("resnet")), images(2), folder / "again.onnx")
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_the_model_is_untouched(folder: Path) -> None:
    model = copy.deepcopy(quantized("gated")).train()
    before, text = {k: v.clone() for k, v in model.state_dict().items()}, repr(model)
    drawn = torch.get_rng_state()
    export(model, images(2), folder / "untouched.onnx")
    assert model.training and repr(model) == text and torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@maps.register("test.noise")
class Noise(Mapping):
    """Another number each time: no file can compute that."""

    name = "test.noise"

    @classmethod
    def like(cls, tensor: Tensor, **spec: Any) -> Noise:
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.full_like(x, float(np.random.default_rng().uniform(1, 2)))


def test_a_file_that_computes_something_else_is_refused_and_what_was_there_stays(folder: Path) -> None:
    path = folder / "kept.onnx"
    path.write_bytes(b"what was there")
    model = perform(nn.Sequential(nn.Conv2d(3, 2, 1)).eval(), [Map("0", "output", "test.noise")])
    with pytest.raises(ExportError, match=r"read back, outputs differ by `.*` of the largest, and `0\.0001` is allowed"):
        export(model, images(2), path)
    assert path.read_bytes() == b"what was there"
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_control_flow_that_cannot_be_exported_is_one_line(folder: Path) -> None:
    class Chooses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError, match=r"^ONNX cannot hold this network: ") as caught:
        export(Chooses(), images(2), folder / "chooses.onnx")
    assert "\n" not in str(caught.value)


def test_files_tell_their_input(plain: Exported, folder: Path) -> None:
    assert input_shape(plain.path) == (3, 8, 8)
    with pytest.raises(ModelError, match="no such file"):
        input_shape(folder / "absent.onnx")


def test_a_suffix_without_a_target(folder: Path) -> None:
    with pytest.raises(UnknownName, match=r"no export target is called `\.onx`. Did you mean `\.onnx`"):
        export(resnet(), images(2), folder / "net.onx")
