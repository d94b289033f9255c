"""Knowledge review: every layer of the student learns from the teacher's layers up to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.config import config
from lilliput.distill.contract import Feature, Turn, check_weights
from lilliput.distill.feature import same_images, same_shape
from lilliput.distill.taps import Scene, Shape, Taps
from lilliput.errors import ConfigError


@config("distill.reviewkd")
class Review(Feature):
    """Fused from the last tap back to the first, the student's features match the teacher's at several scales.

    L = Σ over taps of hcl(f, t);  f the fusion of the student's tap with that of all taps behind it
    hcl(f, t) = Σ over scales l of w_l·mean((pool_l(f) - pool_l(t))²) / Σ w_l;  all, 4, 2, 1 pixels with w = 1, 1/2, 1/4, 1/8
    fusion: 1x1 convolution to `middle` channels; a map of attention for it and for the fusion behind, from both; their
    weighted sum; a 3x3 convolution to the teacher's channels. In squared units of the features.
    The paper raises the weight over the first epochs (`distill.scheduled`).
    Chen, Liu, Zhao, Jia 2021, "Distilling Knowledge via Knowledge Review", arXiv:2104.09044.
    """

    taps: Taps = ()
    middle: int = 64
    weight: float = 1.0
    hard: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)
        if self.middle < 1:
            raise ConfigError(f"`middle` (={self.middle}) is from 1")

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch, from the fused features of the student."""
        total = student[0].new_zeros(())
        for ours, theirs in zip(student, teacher, strict=True):
            total = total + hierarchical(*same_images(ours, theirs))
        return total

    def adapters(self, student: Sequence[Shape], teacher: Sequence[Shape], scene: Scene) -> nn.Module:
        """A fusion for every tap."""
        for shape in (*student, *teacher):
            if len(shape) != 4:
                raise ConfigError(f"images (n, c, h, w) are reviewed, and a tap has the shape {shape}")
        last = len(student) - 1
        return nn.ModuleList(
            Fusion(ours[1], self.middle, theirs[1], fuse=number < last)
            for number, (ours, theirs) in enumerate(zip(student, teacher, strict=True))
        )

    def term(self, student: Sequence[Tensor], teacher: Sequence[Tensor], adapters: Any, turn: Turn) -> Tensor:
        """The term of one batch in a training."""
        fused: list[Tensor] = []
        behind: Tensor | None = None
        for fusion, tap in zip(reversed(adapters), reversed(student), strict=True):
            out, behind = fusion(tap, behind)
            fused.append(out)
        return self(fused[::-1], teacher)


class Fusion(nn.Module):
    """One tap of the student with the fusion behind it, weighted by attention."""

    def __init__(self, inputs: int, middle: int, outputs: int, *, fuse: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attend = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuse else None
        self.leave = nn.Sequential(nn.Conv2d(middle, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, behind: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features to compare, (n, outputs, h, w), and what the tap in front fuses with, (n, middle, h, w)."""
        x = self.enter(x)
        if self.attend is not None and behind is not None:
            behind = F.interpolate(behind, x.shape[2:], mode="nearest")
            ours, theirs = self.attend(torch.cat([x, behind], 1)).split(1, 1)  # (n, 1, h, w) each
            x = x * ours + behind * theirs
        return self.leave(x), x


def hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of squared differences of two features (n, c, h, w) at several scales."""
    same_shape(student, teacher)
    total, weights, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size >= student.shape[2]:
            continue
        weight /= 2
        total = total + weight * F.mse_loss(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size))
        weights += weight
    return total / weights
