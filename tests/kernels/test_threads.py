"""Threads of the native core: who computes changes nothing, in PyTorch, in ONNX Runtime and after a fork."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lilliput import kernels
from lilliput.kernels import BinaryConv2d, Int4Conv2d, SparseConv2d, TernaryConv2d

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")
SIZE = (1, 96, 28, 28)  # enough to do that threads are woken for it


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    conv, made = nn.Conv2d(96, 96, 3, padding=1), {}
    levels = torch.randint(-1, 2, conv.weight.shape).float()
    with torch.no_grad():
        conv.weight.copy_(torch.where(conv.weight >= 0, 0.5, -0.5))
        made["binary"] = BinaryConv2d.of(conv)
        conv.weight.copy_(levels * 0.5)
        made["ternary"] = TernaryConv2d.of(conv)
        made["int4"] = Int4Conv2d.of(conv, torch.full((96,), 0.5), 0.05, 128)
        conv.weight.copy_(torch.randn_like(conv.weight).where(torch.rand_like(conv.weight) > 0.9, 0))
        made["sparse"] = SparseConv2d.of(conv)
    return {name: layer.eval() for name, layer in made.items()}


def with_threads(monkeypatch: pytest.MonkeyPatch, layer: nn.Module, x: Tensor, threads: int) -> Tensor:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found: Tensor = layer(x)
    return found


@pytest.mark.parametrize("name", ["binary", "ternary", "int4", "sparse"])
def test_the_number_of_threads_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layers()[name], torch.randn(SIZE)
    one = with_threads(monkeypatch, layer, x, 1)
    assert all(torch.equal(with_threads(monkeypatch, layer, x, threads), one) for threads in (2, 3, 7, 1000))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layers()["sparse"], torch.randn(SIZE)
    expected = with_threads(monkeypatch, layer, x, 3)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(with_threads(monkeypatch, layer, x, 3), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(with_threads(monkeypatch, layer, x, 3), expected)


def session(layer: nn.Module, x: Tensor) -> Any:
    import onnxruntime

    file = torch.onnx.export(layer, (x,), dynamo=True, verbose=False, custom_translation_table=kernels.translations())
    options = kernels.register(onnxruntime.SessionOptions())
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(file.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_nodes_use_as_many_threads_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layers()["sparse"], torch.randn(SIZE)
    expected = layer(x)
    for told in ("", "1", "3"):
        monkeypatch.setenv("LILLIPUT_THREADS", told)
        made = session(layer, x)
        assert torch.equal(torch.from_numpy(made.run(None, {made.get_inputs()[0].name: x.numpy()})[0]), expected)
    for wrong in ("0", "two", "-1", "3 or so"):
        monkeypatch.setenv("LILLIPUT_THREADS", wrong)
        with pytest.raises(Exception, match="LILLIPUT_THREADS is"):
            session(layer, x)
