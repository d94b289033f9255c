"""Files with nodes of domain `lilliput`: everything opens them, and says which kernel runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from integer_nets import images, resnet
from packed_nets import binary, sparse
from torch import nn

from lilliput import kernels
from lilliput.clock import kernels as which
from lilliput.clock import latency, structure
from lilliput.errors import ConfigError, ModelError
from lilliput.export import export
from lilliput.export.onnx import predictor
from lilliput.kernels import pack_sparse, runtime
from lilliput.measure.latency import session, time_files, used_domains

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")


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
