"""A clock without time: layers take as long as their widths rounded up to multiples of eight say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lilliput.measure import profile
from lilliput.measure.shape_times import LayerShape

FIXED = 0.002
"""What every layer takes beside its work."""


class Eights:
    """A deterministic `LayerClock`. The whole network takes `slack` times its layers, and `constant` more."""

    def __init__(self, example: torch.Tensor, slack: float = 1.0, constant: float = 0.0) -> None:
        self.example, self.slack, self.constant = example, slack, constant
        self.measured: list[float] = []
        self.asked = 0

    def __call__(self, model: nn.Module) -> float:
        modules = dict(model.named_modules())
        rows = [r for r in profile(model, self.example).layers if r.input_shape]
        shapes = [LayerShape.of(modules[r.name], r.input_shape) for r in rows]
        return self.slack * sum(self.layers([s for s in shapes if s is not None])) + self.constant

    def ratio(self, model: nn.Module, baseline: nn.Module) -> float:
        self.measured.append(self(model) / self(baseline))
        return self.measured[-1]

    def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
        self.asked += len(shapes)
        return [FIXED + s.resized(_up(s.inputs), _up(s.outputs), _groups(s)).macs / 1e6 for s in shapes]


def _up(width: int) -> int:
    return -(-width // 8) * 8


def _groups(shape: LayerShape) -> int:
    return _up(shape.groups) if shape.groups == shape.inputs > 1 else shape.groups
