"""Small networks that layers can be packed of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import torch
from integer_nets import images, look
from torch import Tensor, nn

from lilliput.core.edits import Map
from lilliput.core.perform import perform
from lilliput.export.onnx import predictor
from lilliput.prune import Weights


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
