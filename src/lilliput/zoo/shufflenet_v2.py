"""ShuffleNetV2: units that split the channels, work on one half and shuffle; designed by measured speed.

Ma, Zhang, Zheng, Sun 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
arXiv:1807.11164. Tensor names are those of torchvision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.zoo.blocks import ChannelShuffle, ConvNorm, initialize
from lilliput.zoo.catalog import arch

PAPER = "Ma et al. 2018, arXiv:1807.11164"
#          stages 2, 3, 4, last convolution: table 5 of the paper; 2x has 244 there and in all released code
WIDTHS = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}
UNITS = (4, 8, 4)


class SplitUnit(nn.Module):
    """At stride 1 half of the channels pass and half go through 1x1, depthwise, 1x1; at stride 2 all do both."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        left = [*_filtered(inputs, stride), *_mixed(inputs, half)] if stride == 2 else []
        right = inputs if stride == 2 else half
        self.branch1 = nn.Sequential(*left)
        self.branch2 = nn.Sequential(*_mixed(right, half), *_filtered(half, stride), *_mixed(half, half))
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.stride == 2 else x.chunk(2, 1)
        return self.shuffle(torch.cat([self.branch1(left), self.branch2(right)], 1))  # type: ignore[no-any-return]


def _filtered(channels: int, stride: int) -> list[nn.Module]:
    return list(ConvNorm(channels, channels, 3, stride, channels, None))


def _mixed(inputs: int, outputs: int) -> list[nn.Module]:
    return list(ConvNorm(inputs, outputs, 1))


class ShuffleNetV2(nn.Module):
    """A 3x3 stem (and a pool, unless `small`), three stages of split units, a 1x1, mean, linear head."""

    def __init__(self, classes: int, channels: int, width: float, small: bool = False) -> None:
        super().__init__()
        if width not in WIDTHS:
            raise ConfigError(f"`width` (={width}) is none of {', '.join(map(str, WIDTHS))}, the paper's sizes")
        *stages, last = WIDTHS[width]
        self.conv1 = ConvNorm(channels, 24, 3, 1 if small else 2)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.stage2 = _stage(24, stages[0], UNITS[0])
        self.stage3 = _stage(stages[0], stages[1], UNITS[1])
        self.stage4 = _stage(stages[1], stages[2], UNITS[2])
        self.conv5 = ConvNorm(stages[2], last, 1)
        self.fc = nn.Linear(last, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    return nn.Sequential(SplitUnit(inputs, outputs, 2), *(SplitUnit(outputs, outputs, 1) for _ in range(units - 1)))


@arch("shufflenet_v2", input=(3, 224, 224), paper=PAPER)
def shufflenet_v2(classes: int = 1000, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ShuffleNetV2 of width 0.5, 1, 1.5 or 2: 2.3 M parameters, 146 M multiply-adds at width 1."""
    return ShuffleNetV2(classes, channels, width)


@arch("shufflenet_v2_32", input=(3, 32, 32), paper=PAPER)
def shufflenet_v2_32(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ShuffleNetV2 for 32x32 images: stem of stride 1, no pool, 4x4 pixels at the end."""
    return ShuffleNetV2(classes, channels, width, small=True)
