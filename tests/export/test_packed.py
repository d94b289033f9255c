"""Binary and sparse networks in an `.onnx`: nodes of domain `lilliput` where they pay, computed by a stock ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from integer_nets import images, look, resnet
from packed_nets import binary, kinds, norm, same, sparse
from torch import Tensor, nn

from lilliput import kernels
from lilliput.clock import kernels as which
from lilliput.errors import ExportError
from lilliput.export import export
from lilliput.export.packed import pack
from lilliput.kernels import pack_binary, pack_sparse
from lilliput.kernels.runtime import DOMAIN
from lilliput.measure.latency import used_domains
from lilliput.quant import LowBit, Quantize

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")


def test_a_sparse_network_is_packed_where_it_pays(faster: None, tmp_path: Path) -> None:
    done = export(sparse(), images(2), tmp_path / "net.onnx")
    assert done.packed_nodes == {"SparseConv": 2, "SparseLinear": 1} and done.dense_nodes == {}
    assert kinds(done.path)["BatchNormalization"] == kinds(done.path)["Conv"] == 0  # norms are part of the non-zeros
    assert used_domains(done.path) == (DOMAIN,)
    assert "packed (needs lilliput's library): 2 SparseConv, 1 SparseLinear" in str(done)
    assert done.to_json()["packed_nodes"] == done.packed_nodes
    for count in (1, 3):
        assert same(sparse(), done.path, images(count))


def test_and_stays_dense_where_it_does_not_and_says_why(slower: None, tmp_path: Path) -> None:
    done = export(sparse(), images(2), tmp_path / "net.onnx")
    assert done.packed_nodes == {} and used_domains(done.path) == ()
    assert len(done.dense_nodes) == 3 and "`2` ms packed and `1` ms dense: stays dense" in str(done)


def test_plain_files_are_of_onnx_alone(faster: None, tmp_path: Path) -> None:
    for model in (sparse(), binary()):
        done = export(model, images(2), tmp_path / "net.onnx", plain=True)
        assert used_domains(done.path) == () and done.packed_nodes == {}
        assert same(model, done.path, images(2))


def test_a_packed_network_is_exported_as_it_is(slower: None, tmp_path: Path) -> None:
    packed = pack_sparse(sparse(), zeros=0.5)
    for plain in (False, True):
        assert export(packed, images(2), tmp_path / "net.onnx", plain=plain).packed_nodes["SparseConv"] == 2


def test_scales_of_sub_tensors_stand_around_a_packed_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3), norm(12), nn.Conv2d(12, 9, 3, stride=2, padding=1), norm(9), nn.Flatten(), nn.LazyLinear(4)
    )
    net.eval()(images(1))
    model = LowBit("xnor")(net, look())
    done = export(model, images(2), tmp_path / "net.onnx")
    assert done.packed_nodes == {"Binarize": 1, "BinaryConv": 1} and same(model, done.path, images(3))


def test_dense_and_integer_networks_are_left_alone(faster: None, tmp_path: Path) -> None:
    assert pack(resnet(), images(2))[1] == {}
    integers = export(Quantize()(sparse(), look()), images(2), tmp_path / "integers.onnx")
    assert integers.packed_nodes == {} and integers.integer_nodes["QLinearConv"] == 2
    assert {k.kernel for k in which(integers.path, images(1))[0]} == {"int8"}


def test_convolutions_of_signs_in_a_row_never_leave_bits(tmp_path: Path) -> None:
    model = binary()
    for each in (model, pack_binary(model)):
        done = export(each, images(2), tmp_path / "net.onnx")
        assert done.packed_nodes == {"Binarize": 1, "BinaryConvBits": 1, "BinaryConv": 1}
        assert not {"Clip", "BatchNormalization"} & kinds(done.path).keys()
        assert same(model, done.path, images(5))


def test_ternary_weights_do_the_same(tmp_path: Path) -> None:
    model = binary(weights="twn")
    done = export(model, images(2), tmp_path / "net.onnx")
    assert done.packed_nodes == {"Binarize": 1, "TernaryConvBits": 1, "TernaryConv": 1}
    assert same(model, done.path, images(5))
    found, _ = which(done.path, images(1))
    assert {k.kernel for k in found[2:4]} == {
        next(name for family, name, here in kernels.rows() if family == "ternary" and here)
    }


def test_weights_of_four_bits_take_a_norm_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv, scale = nn.Conv2d(3, 9, 3), torch.full((9,), 0.05)
    with torch.no_grad():
        conv.weight.copy_((conv.weight / 0.05).round().clamp(-8, 7) * 0.05)
    model = nn.Sequential(kernels.Int4Conv2d.of(conv, scale, 0.02, 128), norm(9), nn.ReLU()).eval()
    done = export(model, images(2), tmp_path / "net.onnx")
    assert done.packed_nodes == {"Int4Conv": 1} and "BatchNormalization" not in kinds(done.path)
    assert same(model, done.path, images(3))
    rows = {name for family, name, here in kernels.rows() if family == "int4" and here}
    assert which(done.path, images(1))[0][0].kernel in rows


@pytest.mark.parametrize("between", [nn.ReLU(), nn.Hardtanh(0.1, 1.0), nn.MaxPool2d(2)])
def test_what_a_threshold_cannot_say_stays_between_them(between: nn.Module, tmp_path: Path) -> None:
    model = binary(between)
    done = export(model, images(2), tmp_path / "net.onnx")
    assert done.packed_nodes == {"Binarize": 2, "BinaryConv": 2}
    assert same(model, done.path, images(5))


def test_a_sum_read_twice_stays_a_sum(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = binary()

        def forward(self, x: Tensor) -> Any:
            inner = self.net[2](self.net[1](self.net[0](x)))
            return self.net[5](inner).flatten(1).sum(1) + inner.mean((1, 2, 3))

    model = Twice().eval()
    done = export(model, images(2), tmp_path / "net.onnx")
    assert done.packed_nodes == {"Binarize": 2, "BinaryConv": 2}
    assert same(pack_binary(model), done.path, images(3))  # in floats, sums of 0 have a sign by chance


def test_packing_that_computes_something_else_is_an_error(
    faster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = kernels.SparseConv2d.of

    def wrong(conv: nn.Conv2d) -> Any:
        made = dense(conv)
        made.values.mul_(1.1)
        return made

    monkeypatch.setattr(kernels.SparseConv2d, "of", wrong)
    with pytest.raises(ExportError, match="packed, outputs differ"):
        export(sparse(), images(2), tmp_path / "net.onnx")
