"""Binary and sparse networks in an `.onnx`: nodes of domain `lilliput` where they pay, computed by a stock ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from integer_nets import images, look, resnet
from torch import Tensor, nn

from lilliput import kernels
from lilliput.clock import kernels as which
from lilliput.clock import latency, structure
from lilliput.core.edits import Map
from lilliput.core.perform import perform
from lilliput.errors import ConfigError, ExportError, ModelError
from lilliput.export import export
from lilliput.export.onnx import predictor
from lilliput.export.packed import pack
from lilliput.kernels import break_even, pack_binary, pack_sparse, runtime
from lilliput.kernels.runtime import DOMAIN
from lilliput.measure.latency import session, time_files, used_domains
from lilliput.prune import Weights
from lilliput.quant import Quantize

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed layers are faster than dense ones."""
    monkeypatch.setattr(break_even, "_known", {})
    monkeypatch.setattr(break_even, "_measure", lambda layer, size: (2.0, 1.0))


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not."""
    monkeypatch.setattr(break_even, "_known", {})
    monkeypatch.setattr(break_even, "_measure", lambda layer, size: (1.0, 2.0))


def sparse() -> nn.Module:
    """Masked weights, norms, a stride and a linear layer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), norm(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return Weights(rate=0.8, allocate="uniform")(net.eval(), look())


def norm(channels: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean):
            tensor.copy_(torch.randn(channels))
    return made


def binary(between: nn.Module | None = None, weights: str = "bwn") -> nn.Module:
    """Convolutions of signs in a row, with a norm and something else between them."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), norm(12), nn.Conv2d(12, 9, 3, padding=1, bias=False), norm(9),
        between or nn.Hardtanh(), nn.Conv2d(9, 7, 3, stride=2), norm(7), nn.Flatten(), nn.LazyLinear(4),
    ).eval()  # fmt: skip
    net(images(1))
    return perform(net, [e for n in ("2", "5") for e in (Map(n, "weight", weights), Map(n, "input", "sign"))])


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def same(model: nn.Module, path: Path, x: Tensor) -> bool:
    with torch.no_grad():
        wanted = model.eval()(x)
    return torch.allclose(predictor(path)(x), wanted, atol=1e-5 * float(wanted.abs().max()))


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


def test_everything_that_opens_files_opens_these(faster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lilliput.cli import main
    from lilliput.data import open_task
    from lilliput.evaluate import evaluate

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    with torch.no_grad():
        model[0].weight[torch.rand(8, 1, 3, 3) < 0.8] = 0
    task = open_task("digits")
    dense, packed = (str(tmp_path / name) for name in ("dense.onnx", "packed.onnx"))
    export(model, task.example(), dense, plain=True)
    assert export(model, task.example(), packed).packed_nodes
    assert evaluate(packed, task).value == evaluate(dense, task).value == evaluate(model, task).value
    assert latency(packed, task.example()).median_ms > 0
    assert set(time_files({"a": dense, "b": packed}, task.example(), runs=2)) == {"a", "b"}
    with pytest.raises(SystemExit) as done:
        main(["compare", dense, packed, "--data", "digits", "--json"])
    assert done.value.code == 0 and '"agreement": 1.0' in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["latency", packed, "--kernels", "--json"])
    assert done.value.code == 0 and '"SparseConv"' in capsys.readouterr().out


def test_without_the_library_files_say_what_is_missing(faster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(sparse(), images(2), tmp_path / "net.onnx").path
    packed = pack_sparse(sparse(), zeros=0.5)
    plain = export(sparse(), images(2), tmp_path / "plain.onnx", plain=True).path
    monkeypatch.setattr(runtime, "__file__", "nowhere/runtime.py")
    for opened in (session, predictor, lambda p: latency(p, images(1))):
        with pytest.raises(ModelError, match=r"net.onnx: holds operations of domain `lilliput`.*was not built.*Install"):
            opened(path)  # type: ignore[operator]
    session(plain)
    assert export(sparse(), images(2), tmp_path / "here.onnx").packed_nodes == {}
    with pytest.raises(ModelError, match="was not built"):
        export(packed, images(2), tmp_path / "there.onnx")


def test_what_is_no_onnx_file_uses_no_domain(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\xff not a model")
    assert used_domains(tmp_path / "net.onnx") == ()
    with pytest.raises(ModelError, match="cannot load it"):
        session(tmp_path / "net.onnx")


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


def test_a_clock_tells_networks_apart_by_how_many_weights_are_zero() -> None:
    def zeroed(share: float) -> str:
        model = resnet()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                with torch.no_grad():
                    layer.weight.flatten()[: round(share * layer.weight.numel())] = 0
        return structure(model)

    assert len({zeroed(share) for share in (0.1, 0.6, 0.9)}) == 3
    assert zeroed(0.2) == zeroed(0.1) == structure(resnet())


def test_the_kernel_of_every_layer_is_told(faster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = {family: name for family, name, here in reversed(kernels.rows()) if here}
    path = export(sparse(), images(1), tmp_path / "sparse.onnx").path
    found, rest = which(path, images(1))
    assert [k.name for k in found] == [n for n, m in sparse().named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert {(k.runner, k.kernel) for k in found} == {("lilliput", best["sparse"])}
    assert rest > 0 and all(k.median_ms >= 0 for k in found)
    path = export(binary(), images(1), tmp_path / "binary.onnx").path
    signed, _ = which(path, images(1))
    assert [(k.name, k.kind) for k in signed[:4]] == [
        ("0", "Conv"), ("2 (signs)", "Binarize"), ("2", "BinaryConvBits"), ("5", "BinaryConv"),
    ]  # fmt: skip
    assert {k.kernel for k in signed[1:4]} == {best["binary"]}
    monkeypatch.setenv("LILLIPUT_KERNEL", "portable")
    forced, _ = which(path, images(1))
    assert {k.kernel for k in forced if k.runner == "lilliput"} == {"portable"}
    with pytest.raises(ConfigError, match="not of `torch`"):
        which(binary(), images(1), "torch")


def test_the_runtimes_own_kernels_are_told_too() -> None:
    found, _ = which(resnet(), images(1))
    assert [k.name for k in found] == [n for n, m in resnet().named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert {k.runner for k in found} == {"onnxruntime"} and {k.kernel for k in found} <= {"float", "float, blocked"}
