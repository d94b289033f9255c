"""Ternary layers and layers of four bits compute what the convolutions they replace computed."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conv_shapes import usable
from torch import Tensor, nn

from lilliput import kernels
from lilliput.core.edits import Map
from lilliput.core.perform import perform
from lilliput.errors import ModelError
from lilliput.kernels import BinaryConvBits, Int4Conv2d, TernaryConv2d, dispatch, pack_binary, pack_ternary

OPTIONS: list[dict[str, Any]] = [{}, {"bias": False}, {"stride": 2}, {"groups": 3}, {"dilation": 2}]


def sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def ternary_conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, **options)
    with torch.no_grad():
        conv.weight.copy_(torch.randint(-1, 2, conv.weight.shape) * (torch.rand(outputs, 1, 1, 1) + 0.5))
    return conv


def four_bits(inputs: int, outputs: int, **options: Any) -> tuple[nn.Conv2d, Tensor]:
    conv, scale = nn.Conv2d(inputs, outputs, 3, padding=1, **options), torch.rand(outputs) + 0.5
    with torch.no_grad():
        conv.weight.copy_(torch.randint(-8, 8, conv.weight.shape) * scale.view(-1, 1, 1, 1))
    return conv, scale


@pytest.mark.parametrize("options", OPTIONS)
def test_a_ternary_layer_equals_the_convolution_of_signs(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv, x = ternary_conv(12, 9, **options), torch.randn(2, 12, 11, 7)
    with torch.no_grad():
        levels, scale = torch.sign(conv.weight), conv.weight.flatten(1).abs().amax(1)
        exact = F.conv2d(sign(x), levels, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        scaled = exact * scale.view(-1, 1, 1)
        layer = TernaryConv2d.of(conv)
        assert torch.equal(layer(x), scaled if conv.bias is None else scaled + conv.bias.view(-1, 1, 1))
        assert torch.equal(layer.signs(), levels)


def test_ternary_layers_in_a_row_never_leave_bits() -> None:
    torch.manual_seed(1)
    first, second = TernaryConv2d.of(ternary_conv(20, 24)), TernaryConv2d.of(ternary_conv(24, 7))
    after, x = nn.BatchNorm2d(24).eval(), torch.randn(2, 20, 9, 9)
    with torch.no_grad():
        assert torch.equal(second(BinaryConvBits.of(first, after)(x)), second(after(first(x))))


def test_weights_of_several_magnitudes_are_no_ternary_layer() -> None:
    with pytest.raises(ModelError, match="magnitudes"):
        TernaryConv2d.of(nn.Conv2d(4, 8, 3))


def test_ternary_layers_take_the_place_of_those_whose_inputs_are_signs_and_weights_ternary() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 9, 3, padding=1)).eval()
    mapped, x = perform(net, [Map("2", "weight", "twn"), Map("2", "input", "sign")]), torch.randn(2, 3, 7, 7)
    packed = pack_ternary(mapped)
    assert isinstance(packed[2], TernaryConv2d) and not isinstance(pack_binary(mapped)[2], TernaryConv2d)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), mapped(x))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_layer_of_four_bits_equals_the_convolution_of_what_its_numbers_stand_for(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    (conv, scale), step, zero = four_bits(12, 9, **options), 0.05, 77
    layer, x = Int4Conv2d.of(conv, scale, step, zero), torch.randn(2, 12, 11, 7) * 3
    levels = torch.round(conv.weight.detach() / scale.view(-1, 1, 1, 1))
    assert torch.equal(layer.levels(), levels)
    with torch.no_grad():
        q = torch.clamp(torch.round(x / step) + zero, 0, 255)
        sums = F.conv2d((q - zero).double(), levels.double(), None, conv.stride, conv.padding, conv.dilation, conv.groups)
        scaled = sums.float() * (scale * step).view(-1, 1, 1)
        assert torch.equal(layer(x), scaled if conv.bias is None else scaled + conv.bias.view(-1, 1, 1))
        assert torch.equal(layer(q.to(torch.uint8)), layer(x))
        torch.testing.assert_close(layer(x), conv((q - zero) * step), rtol=1e-4, atol=1e-4)


def test_weights_beyond_four_bits_are_refused() -> None:
    conv, scale = four_bits(4, 8)
    with pytest.raises(ModelError, match="have room"):
        Int4Conv2d.of(conv, scale / 2, 1.0)
    with pytest.raises(ModelError, match="no multiples"):
        Int4Conv2d.of(conv, scale * 1.1, 1.0)


def kernel_of(graph: Any, x: Tensor) -> str:
    """The kernel of the last node of ours."""
    from onnx import helper, numpy_helper

    node = [each for each in graph.node if each.domain == "lilliput"][-1]
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    told = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return dispatch.row(node.op_type, told, [arrays[name] for name in node.input[1:]], tuple(x.shape))


def layers() -> list[tuple[nn.Module, Tensor]]:
    torch.manual_seed(4)
    conv, scale = four_bits(5, 6)
    ternary = TernaryConv2d.of(ternary_conv(5, 6))
    x = torch.randn(1, 5, 6, 6)
    return [(ternary, x), (BinaryConvBits.of(ternary), x), (Int4Conv2d.of(conv, scale, 0.1, 128), x)]


@pytest.mark.parametrize("which", range(3))
def test_layers_are_traced_and_keep_their_state(which: int) -> None:
    layer, x = layers()[which]
    program = torch.export.export(layer, (x,))
    assert torch.equal(program.module()(x), layer(x))
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    other = layers()[which][0]
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other(x), layer(x))


@pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")
@pytest.mark.parametrize("which", range(3))
def test_nodes_compute_what_the_layers_compute(which: int) -> None:
    import onnxruntime

    layer, x = layers()[which]
    file = torch.onnx.export(layer.eval(), (x,), dynamo=True, verbose=False, custom_translation_table=kernels.translations())
    options = kernels.register(onnxruntime.SessionOptions())
    session = onnxruntime.InferenceSession(file.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert {node.op_type for node in file.model_proto.graph.node} & {"TernaryConv", "TernaryConvBits", "Int4Conv"}
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert torch.equal(torch.from_numpy(found), layer(x))
    assert kernel_of(file.model_proto.graph, x) in usable("int4" if which == 2 else "ternary")


@pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")
@pytest.mark.parametrize("which", range(3))
def test_without_the_native_core_pytorch_says_the_same(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layers()[which]
    found = layer(x)
    monkeypatch.setattr(kernels, "_native", None)
    monkeypatch.setattr(kernels.plans, "_said", [True])
    assert torch.equal(layer(x), found)
