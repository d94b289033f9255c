"""Packed layers compute what the layers they replace computed, and are operations that PyTorch can trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput import kernels
from lilliput.core.edits import Map
from lilliput.core.perform import bake, perform
from lilliput.errors import ConfigError, ModelError, UnknownName
from lilliput.kernels import BinaryConv2d, BinaryConvBits, SparseConv2d, SparseLinear, pack_binary, pack_sparse, plans

native = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")


def sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def binary_conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, **options)
    with torch.no_grad():
        conv.weight.copy_(sign(conv.weight) * (torch.rand(outputs, 1, 1, 1) + 0.5))
    return conv


def norm(channels: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean):
            tensor.copy_(torch.randn(channels) * 3)
        made.weight[::5] = 0
    return made


def sparse_net() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 10)
    )
    for layer in (net[0], net[2], net[4]):
        with torch.no_grad():
            layer.weight[torch.rand_like(layer.weight) < 0.9] = 0
    return net.eval()


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"stride": 2}, {"groups": 3}, {"dilation": 2}])
def test_a_binary_layer_equals_the_convolution_of_signs(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv, x = binary_conv(12, 9, **options), torch.randn(2, 12, 11, 7)
    with torch.no_grad():
        exact = F.conv2d(sign(x), sign(conv.weight), None, conv.stride, conv.padding, conv.dilation, conv.groups)
        scaled = exact * conv.weight[:, 0, 0, 0].abs().view(-1, 1, 1)
        layer = BinaryConv2d.of(conv)
        assert torch.equal(layer(x), scaled if conv.bias is None else scaled + conv.bias.view(-1, 1, 1))
        assert torch.equal(layer.signs(), sign(conv.weight))


def test_layers_in_a_row_never_leave_bits() -> None:
    torch.manual_seed(1)
    first, after, second = BinaryConv2d.of(binary_conv(20, 24)), norm(24), BinaryConv2d.of(binary_conv(24, 7))
    x = torch.randn(2, 20, 9, 9)
    with torch.no_grad():
        floats = second(torch.clamp(after(first(x)), -1, 1))
        assert torch.equal(second(BinaryConvBits.of(first, after, lambda y: torch.clamp(y, -1, 1))(x)), floats)


def test_what_no_threshold_says_is_refused() -> None:
    with pytest.raises(ModelError, match="changes `2` times"):
        BinaryConvBits.of(BinaryConv2d.of(binary_conv(4, 8)), lambda y: y.abs() - 3)


def test_weights_of_several_magnitudes_are_refused() -> None:
    with pytest.raises(ModelError, match="magnitudes"):
        BinaryConv2d.of(nn.Conv2d(4, 8, 3))


def test_padding_that_kernels_do_not_know_is_refused() -> None:
    conv = nn.Conv2d(4, 8, 3, padding="same")
    with pytest.raises(ModelError, match="padding"):
        SparseConv2d.of(conv)


def test_sparse_layers_take_the_place_of_dense_ones_where_it_pays() -> None:
    torch.manual_seed(2)
    net, x = sparse_net(), torch.randn(2, 3, 6, 6)
    before = copy.deepcopy(net.state_dict())
    packed = pack_sparse(net)
    assert [type(m) for m in packed] == [SparseConv2d, nn.ReLU, nn.Conv2d, nn.Flatten, SparseLinear]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x))
    assert torch.equal(packed[0].dense(), net[0].weight) and torch.equal(packed[4].dense(), net[4].weight)
    assert [type(m) for m in pack_sparse(net, zeros=1.1)] == [type(m) for m in net]


def test_binary_layers_take_the_place_of_those_whose_inputs_and_weights_are_signs() -> None:
    torch.manual_seed(6)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 4, 1)
    ).eval()
    edits = [Map("2", "weight", "bwn"), Map("2", "input", "sign"), Map("4", "weight", "bwn")]
    mapped, x = perform(net, edits), torch.randn(2, 3, 7, 7)
    for model in (mapped, bake(mapped)):
        packed = pack_binary(model)
        assert [isinstance(layer, BinaryConv2d) for layer in packed] == [False, False, True, False, False]
        with torch.no_grad():
            torch.testing.assert_close(packed(x), mapped(x))


def test_without_the_native_core_pytorch_computes_the_same_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    conv, net, x = BinaryConv2d.of(binary_conv(12, 9)), pack_sparse(sparse_net()), torch.randn(2, 12, 6, 6)
    with torch.no_grad():
        expected = conv(x), net(x[:, :3])
        monkeypatch.setattr(kernels, "_native", None)
        monkeypatch.setattr(plans, "_said", [])
        with pytest.warns(UserWarning, match="native core was not built") as said:
            found = conv(x), net(x[:, :3])
    assert len(said) == (1 if kernels.backend() == "python" else 0) and torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    assert kernels.rows() == []


def test_a_weight_that_changes_in_place_is_packed_again() -> None:
    torch.manual_seed(4)
    conv, x = BinaryConv2d.of(binary_conv(12, 9, bias=False)), torch.randn(1, 12, 5, 5)
    before = conv(x)
    conv.scale.mul_(2)
    assert torch.equal(conv(x), 2 * before)
    other = BinaryConv2d.of(binary_conv(12, 9, bias=False))
    conv.load_state_dict(other.state_dict())
    assert torch.equal(conv(x), other(x))


@native
def test_the_environment_forces_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = BinaryConv2d.of(binary_conv(12, 9)), torch.randn(1, 12, 5, 5)
    expected = conv(x)
    for name in dict.fromkeys(name for _, name, here in kernels.rows() if here):
        monkeypatch.setenv("LILLIPUT_KERNEL", name)
        assert torch.equal(copy.deepcopy(conv)(x), expected)
    monkeypatch.setenv("LILLIPUT_KERNEL", "avx3")
    with pytest.raises(UnknownName, match="avx3"):
        copy.deepcopy(conv)(x)


@native
def test_a_kernel_of_another_processor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [name for family, name, here in kernels.rows() if not here and family == "binary"]
    if not missing:
        pytest.skip("this processor runs every kernel")
    monkeypatch.setenv("LILLIPUT_KERNEL", missing[0])
    with pytest.raises(ConfigError, match="cannot run"):
        BinaryConv2d.of(binary_conv(12, 9))(torch.randn(1, 12, 5, 5))


def test_operations_are_what_pytorch_asks_of_operations() -> None:
    torch.manual_seed(5)
    conv = BinaryConv2d.of(binary_conv(12, 9))
    bits = BinaryConvBits.of(conv, norm(9))
    sparse, linear = SparseConv2d.of(sparse_net()[0]), SparseLinear.of(sparse_net()[4])
    x = torch.randn(2, 12, 6, 5)
    packed = torch.ops.lilliput.binarize(x)
    w = sparse.window
    ops = torch.ops.lilliput
    cases: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.binarize, (x, None)),
        (ops.binarize, (x, torch.zeros(12))),
        (ops.binary_conv2d, (packed, conv.weight, conv.scale, conv.bias, *conv.numbers())),
        (ops.binary_conv2d_bits, (packed, bits.weight, bits.least, bits.flip, *bits.told)),
        (ops.sparse_conv2d, (x[:, :3], sparse.rows, sparse.columns, sparse.values, sparse.bias, w.kernel, w.stride, w.padding,
                             w.dilation, w.groups)),
        (ops.sparse_linear, (torch.randn(3, 128), linear.rows, linear.columns, linear.values, linear.bias)),
    ]  # fmt: skip
    for op, arguments in cases:
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))
