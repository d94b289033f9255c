"""Inception-ResNet-v2: Inception modules as scaled residuals.

Szegedy, Ioffe, Vanhoucke, Alemi 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", arXiv:1602.07261, in the form its authors released with weights: the stem of Inception-v3, widths 320, 1088
and 2080, and 10, 20, 10 blocks (figure 15 draws 5, 10, 5).
Tensor names are those of timm, so that its weights load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.catalog import arch
from lilliput.zoo.inception import Branches, ConvUnit
from lilliput.zoo.inception_v4 import chain, pooled, shrinking

PAPER = "Szegedy et al. 2016, arXiv:1602.07261"


class Residual(nn.Module):
    """relu(x + scale·conv(cat(branches(x)))): the scale keeps wide residuals stable in training. `last` has no relu."""

    def __init__(self, width: int, inner: int, scale: float, *branches: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.scale, self.last, self.count = scale, last, len(branches)
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
        self.conv2d = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"branch{i}")(x) for i in range(self.count)]
        y: Tensor = x + self.scale * self.conv2d(torch.cat(parts, 1))
        return y if self.last else F.relu(y)


def _block35() -> nn.Module:
    """Figure 16, at 35x35."""
    branches = (ConvUnit(320, 32), chain(320, (32, 1), (32, 3)), chain(320, (32, 1), (48, 3), (64, 3)))
    return Residual(320, 128, 0.17, *branches)


def _block17() -> nn.Module:
    """Figure 17, at 17x17."""
    branches = (ConvUnit(1088, 192), chain(1088, (128, 1), (160, (1, 7)), (192, (7, 1))))
    return Residual(1088, 384, 0.1, *branches)


def _block8(last: bool = False) -> nn.Module:
    """Figure 19, at 8x8; the last one adds without scaling and without relu."""
    branches = (ConvUnit(2080, 192), chain(2080, (192, 1), (224, (1, 3)), (256, (3, 1))))
    return Residual(2080, 448, 1.0 if last else 0.2, *branches, last=last)


def _first() -> nn.Module:
    """From 192 to 320 channels at 35x35."""
    return Branches(
        ConvUnit(192, 96),
        chain(192, (48, 1), (64, 5)),
        chain(192, (64, 1), (96, 3), (96, 3)),
        pooled(192, 64),
    )


def _reduction_a() -> nn.Module:
    """Figure 7 with k, l, m, n = 256, 256, 384, 384: from 35x35 to 17x17."""
    return Branches(
        ConvUnit(320, 384, 3, 2, valid=True),
        shrinking(320, (256, 1), (256, 3), (384, 3)),
        nn.MaxPool2d(3, 2),
    )


def _reduction_b() -> nn.Module:
    """Figure 18: from 17x17 to 8x8."""
    return Branches(
        shrinking(1088, (256, 1), (384, 3)),
        shrinking(1088, (256, 1), (288, 3)),
        shrinking(1088, (256, 1), (288, 3), (320, 3)),
        nn.MaxPool2d(3, 2),
    )


class InceptionResNetV2(nn.Module):
    """Stem, 10 blocks at 35x35, 20 at 17x17, 10 at 8x8 with reductions between, linear head."""

    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv2d_1a = ConvUnit(channels, 32, 3, 2, valid=True)
        self.conv2d_2a = ConvUnit(32, 32, 3, valid=True)
        self.conv2d_2b = ConvUnit(32, 64, 3)
        self.conv2d_3b = ConvUnit(64, 80)
        self.conv2d_4a = ConvUnit(80, 192, 3, valid=True)
        self.mixed_5b = _first()
        self.repeat = nn.Sequential(*(_block35() for _ in range(10)))
        self.mixed_6a = _reduction_a()
        self.repeat_1 = nn.Sequential(*(_block17() for _ in range(20)))
        self.mixed_7a = _reduction_b()
        self.repeat_2 = nn.Sequential(*(_block8() for _ in range(9)))
        self.block8 = _block8(last=True)
        self.conv2d_7b = ConvUnit(2080, 1536)
        self.dropout = nn.Dropout(dropout)
        self.classif = nn.Linear(1536, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4a(self.conv2d_3b(F.max_pool2d(x, 3, 2)))
        x = self.repeat(self.mixed_5b(F.max_pool2d(x, 3, 2)))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.block8(self.repeat_2(self.mixed_7a(x)))
        x = self.conv2d_7b(x).mean((2, 3))
        return self.classif(self.dropout(x))  # type: ignore[no-any-return]


@arch("inception_resnet_v2", input=(3, 299, 299), paper=PAPER)
def inception_resnet_v2(classes: int = 1000, channels: int = 3, dropout: float = 0.2) -> nn.Module:
    """Inception-ResNet-v2: 55.8 M parameters, 13.2 G multiply-adds."""
    return InceptionResNetV2(classes, channels, dropout)
