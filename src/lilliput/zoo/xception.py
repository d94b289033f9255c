"""Xception: residual blocks of depthwise separable convolutions.

Chollet 2016, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357.
Tensor names are those of timm's `legacy_xception`, so that its weights load as they are.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.catalog import arch

PAPER = "Chollet 2016, arXiv:1610.02357"


class Separable(nn.Module):
    """A 3x3 kernel for each channel, then a 1x1 convolution across them, nothing between."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """rep(x) + skip(x): relu, separable convolution, norm through `widths`, and a 3x3 pool where `stride` is 2.

    The first block of the network stands behind a relu already and has none in front (`relu=False`).
    """

    def __init__(self, widths: tuple[int, ...], stride: int, relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.ReLU(), Separable(inputs, outputs), nn.BatchNorm2d(outputs)]
        pool = [] if stride == 1 else [nn.MaxPool2d(3, stride, 1)]
        self.rep = nn.Sequential(*layers[0 if relu else 1 :], *pool)
        same = stride == 1 and widths[0] == widths[-1]
        self.skip = nn.Identity() if same else nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)
        self.skipbn = nn.Identity() if same else nn.BatchNorm2d(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.rep(x) + self.skipbn(self.skip(x))  # type: ignore[no-any-return]


class Xception(nn.Module):
    """Entry flow (two convolutions, three blocks), middle flow (eight equal blocks), exit flow, head (figure 5)."""

    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        for i, block in enumerate(_flows(), 1):
            self.add_module(f"block{i}", block)
        self.conv3 = Separable(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = Separable(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        for i in range(1, 13):
            x = self.get_submodule(f"block{i}")(x)
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(x)))
        return self.fc(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]


def _flows() -> list[nn.Module]:
    """The twelve residual blocks."""
    entry = [Block((64, 128, 128), 2, relu=False), Block((128, 256, 256), 2), Block((256, 728, 728), 2)]
    middle = [Block((728, 728, 728, 728), 1) for _ in range(8)]
    return [*entry, *middle, Block((728, 728, 1024), 2)]


@arch("xception", input=(3, 299, 299), paper=PAPER)
def xception(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """Xception: 22.9 M parameters, 8.36 G multiply-adds."""
    return Xception(classes, channels, dropout)
