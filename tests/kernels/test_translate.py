"""A network of packed layers becomes a file of nodes of domain `lilliput`, which ONNX Runtime computes bit for bit."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from lilliput import kernels
from lilliput.kernels import BinaryConv2d, BinaryConvBits, SparseConv2d, SparseLinear


def binary(inputs: int, outputs: int, bias: bool) -> BinaryConv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    with torch.no_grad():
        conv.weight.copy_(torch.sign(conv.weight) * (torch.rand(outputs, 1, 1, 1) + 0.5))
    return BinaryConv2d.of(conv)


@pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")
def test_a_network_of_packed_layers_runs_in_onnxruntime(tmp_path: Path) -> None:
    from onnxruntime import InferenceSession, SessionOptions

    torch.manual_seed(0)
    first, inner = SparseConv2d.of(nn.Conv2d(3, 16, 3, padding=1)), binary(16, 24, bias=True)
    chained = BinaryConvBits.of(inner, nn.BatchNorm2d(24).eval())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), SparseLinear.of(nn.Linear(8, 5)))
    net = nn.Sequential(first, chained, binary(24, 8, bias=False), nn.ReLU(), head).eval()
    x, path = torch.randn(2, 3, 9, 9), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            net, (x,), dynamo=True, verbose=False, opset_version=18, custom_translation_table=kernels.translations(),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert program is not None
    program.save(path)
    opened = InferenceSession(path, kernels.register(SessionOptions()), providers=["CPUExecutionProvider"])
    for batch in (x, torch.randn(5, 3, 9, 9)):
        found = opened.run(None, {opened.get_inputs()[0].name: batch.numpy()})[0]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), net(batch))
