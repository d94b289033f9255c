"""Inception-v4: the pure Inception network made uniform, without residual connections.

Szegedy, Ioffe, Vanhoucke, Alemi 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", arXiv:1602.07261. Tensor names are those of timm, so that its weights load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.catalog import arch
from lilliput.zoo.inception import Branches, ConvUnit

PAPER = "Szegedy et al. 2016, arXiv:1602.07261"

Unit = tuple[int, int | tuple[int, int]]


def chain(inputs: int, *units: Unit) -> nn.Sequential:
    """Units one behind the other, each written as (outputs, kernel)."""
    layers = []
    for outputs, kernel in units:
        layers.append(ConvUnit(inputs, outputs, kernel))
        inputs = outputs
    return nn.Sequential(*layers)


def shrinking(inputs: int, *units: Unit) -> nn.Sequential:
    """A chain whose last unit has stride 2 and no padding."""
    *front, (outputs, kernel) = units
    before = front[-1][0] if front else inputs
    return chain(inputs, *front).append(ConvUnit(before, outputs, kernel, 2, valid=True))


def pooled(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 mean that leaves the border out of its count, and a 1x1 unit."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvUnit(inputs, outputs))


class StemPool(nn.Module):
    """A 3x3 unit of stride 2 beside a 3x3 pool of stride 2 (twice in figure 3, in opposite orders)."""

    def __init__(self, inputs: int, outputs: int, pool_first: bool) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs, outputs, 3, 2, valid=True)
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv(x), F.max_pool2d(x, 3, 2)]
        return torch.cat(parts[::-1] if self.pool_first else parts, 1)


class ModuleC(nn.Module):
    """At 8x8: branches that fork into 1x3 and 3x1 (figure 6). 6·256 outputs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch0 = ConvUnit(inputs, 256)
        self.branch1_0 = ConvUnit(inputs, 384)
        self.branch1_1a = ConvUnit(384, 256, (1, 3))
        self.branch1_1b = ConvUnit(384, 256, (3, 1))
        self.branch2_0 = ConvUnit(inputs, 384)
        self.branch2_1 = ConvUnit(384, 448, (3, 1))
        self.branch2_2 = ConvUnit(448, 512, (1, 3))
        self.branch2_3a = ConvUnit(512, 256, (1, 3))
        self.branch2_3b = ConvUnit(512, 256, (3, 1))
        self.branch3 = pooled(inputs, 256)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1_0(x)
        two = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        forks = (self.branch1_1a(one), self.branch1_1b(one), self.branch2_3a(two), self.branch2_3b(two))
        return torch.cat((self.branch0(x), *forks, self.branch3(x)), 1)


def _stem(channels: int) -> list[nn.Module]:
    """Figure 3: from 299x299 to 384 channels at 35x35."""
    return [
        ConvUnit(channels, 32, 3, 2, valid=True),
        ConvUnit(32, 32, 3, valid=True),
        ConvUnit(32, 64, 3),
        StemPool(64, 96, pool_first=True),
        Branches(
            chain(160, (64, 1)).append(ConvUnit(64, 96, 3, valid=True)),
            chain(160, (64, 1), (64, (1, 7)), (64, (7, 1))).append(ConvUnit(64, 96, 3, valid=True)),
        ),
        StemPool(192, 192, pool_first=False),
    ]


def _module_a() -> nn.Module:
    """Figure 4, at 35x35. 4·96 outputs."""
    return Branches(
        ConvUnit(384, 96),
        chain(384, (64, 1), (96, 3)),
        chain(384, (64, 1), (96, 3), (96, 3)),
        pooled(384, 96),
    )


def _module_b() -> nn.Module:
    """Figure 5, at 17x17. 384 + 256 + 256 + 128 outputs."""
    return Branches(
        ConvUnit(1024, 384),
        chain(1024, (192, 1), (224, (1, 7)), (256, (7, 1))),
        chain(1024, (192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
        pooled(1024, 128),
    )


def _reduction_a() -> nn.Module:
    """Figure 7 with k, l, m, n = 192, 224, 256, 384: from 35x35 to 17x17."""
    return Branches(
        ConvUnit(384, 384, 3, 2, valid=True),
        shrinking(384, (192, 1), (224, 3), (256, 3)),
        nn.MaxPool2d(3, 2),
    )


def _reduction_b() -> nn.Module:
    """Figure 8: from 17x17 to 8x8."""
    return Branches(
        shrinking(1024, (192, 1), (192, 3)),
        shrinking(1024, (256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3)),
        nn.MaxPool2d(3, 2),
    )


class InceptionV4(nn.Module):
    """Stem, 4 modules A, reduction, 7 modules B, reduction, 3 modules C, linear head (figure 9)."""

    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_stem(channels),
            *(_module_a() for _ in range(4)),
            _reduction_a(),
            *(_module_b() for _ in range(7)),
            _reduction_b(),
            *(ModuleC(1536) for _ in range(3)),
        )
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(1536, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))
        return self.last_linear(self.dropout(x))  # type: ignore[no-any-return]


@arch("inception_v4", input=(3, 299, 299), paper=PAPER)
def inception_v4(classes: int = 1000, channels: int = 3, dropout: float = 0.2) -> nn.Module:
    """Inception-v4: 42.7 M parameters, 12.3 G multiply-adds."""
    return InceptionV4(classes, channels, dropout)
