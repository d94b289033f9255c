"""Residual networks laid out for binary convolutions: a shortcut around every single one, norms behind them.

Liu et al. 2018, "Bi-Real Net: Enhancing the performance of 1-bit CNNs", arXiv:1808.00278.
Liu et al. 2020, "ReActNet: Towards precise binary neural network with generalized activation functions", arXiv:2003.03488.
They are built with real weights; `quant.low_bit` puts the signs in. Without signs, the clip in front of each convolution is
what makes the network more than linear, and a sign behind it sees the same signs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lilliput.zoo.blocks import initialize
from lilliput.zoo.catalog import arch

BIREAL = "Liu et al. 2018, arXiv:1808.00278"
REACT = "Liu et al. 2020, arXiv:2003.03488"


class RPReLU(nn.Module):
    """A PReLU that each channel moves: y = prelu(x − before_c) + after_c, its slope of the negative side learned too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.after = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.prelu = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(x - self.before.view(-1, 1, 1)) + self.after.view(-1, 1, 1)  # type: ignore[no-any-return]


class BinaryUnit(nn.Module):
    """One 3x3 convolution beside its shortcut: bn(conv(clip(x))) + shortcut(x), then, `react`, an RPReLU.

    Where the size changes, the shortcut is an average pool, a 1x1 convolution that stays real, and a norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, react: bool) -> None:
        super().__init__()
        self.clip = nn.Hardtanh()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else _projection(inputs, outputs, stride)
        self.act = RPReLU(outputs) if react else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(self.clip(x))) + self.shortcut(x))  # type: ignore[no-any-return]


class BinaryResNet(nn.Module):
    """A real stem, stages of binary units, a real head. `small`: a 3x3 stem for 32x32 pixels, else 7x7 and a pool."""

    def __init__(self, widths: tuple[int, ...], units: int, classes: int, channels: int, small: bool, react: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        before = (widths[0], *widths)
        stages = [_stage(before[i], width, units, 1 + (i > 0), react) for i, width in enumerate(widths)]
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(widths[-1], classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.maxpool(self.bn1(self.conv1(x))))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True)
    return nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _stage(inputs: int, width: int, units: int, stride: int, react: bool) -> nn.Sequential:
    first = BinaryUnit(inputs, width, stride, react)
    return nn.Sequential(first, *(BinaryUnit(width, width, 1, react) for _ in range(units - 1)))


def _cifar(classes: int, channels: int, width: float, react: bool) -> nn.Module:
    widths = tuple(round(w * width) for w in (16, 32, 64))
    return BinaryResNet(widths, 6, classes, channels, True, react)


@arch("bireal_resnet18", input=(3, 224, 224), paper=BIREAL)
def bireal_resnet18(classes: int = 1000, channels: int = 3) -> nn.Module:
    """Bi-Real ResNet-18: as many parameters and multiply-adds as ResNet-18, 16 shortcuts."""
    return BinaryResNet((64, 128, 256, 512), 4, classes, channels, False, False)


@arch("react_resnet18", input=(3, 224, 224), paper=REACT)
def react_resnet18(classes: int = 1000, channels: int = 3) -> nn.Module:
    """ResNet-18 in ReActNet's layout: Bi-Real's, with an activation that moves behind every shortcut."""
    return BinaryResNet((64, 128, 256, 512), 4, classes, channels, False, True)


@arch("bireal_resnet20", input=(3, 32, 32), paper=BIREAL)
def bireal_resnet20(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR in Bi-Real's layout: 18 units, 0.27 M parameters."""
    return _cifar(classes, channels, width, False)


@arch("react_resnet20", input=(3, 32, 32), paper=REACT)
def react_resnet20(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR in ReActNet's layout: 18 units, 0.28 M parameters."""
    return _cifar(classes, channels, width, True)
