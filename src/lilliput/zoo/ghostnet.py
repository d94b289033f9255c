"""GhostNet: half of the channels are convolved, the other half are cheap depthwise filters of them.

Han, Wang, Tian, Guo, Xu, Xu 2019, "GhostNet: More Features from Cheap Operations", arXiv:1911.11907.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.blocks import ConvNorm, GhostModule, SqueezeExcite, divisible, initialize, unstride
from lilliput.zoo.catalog import arch

PAPER = "Han et al. 2019, arXiv:1911.11907"


@dataclass(frozen=True)
class Row:
    """One line of the paper's table 7."""

    kernel: int
    wide: int
    outputs: int
    excite: bool
    stride: int


ROWS = (
    Row(3, 16, 16, False, 1),
    Row(3, 48, 24, False, 2),
    Row(3, 72, 24, False, 1),
    Row(5, 72, 40, True, 2),
    Row(5, 120, 40, True, 1),
    Row(3, 240, 80, False, 2),
    Row(3, 200, 80, False, 1),
    Row(3, 184, 80, False, 1),
    Row(3, 184, 80, False, 1),
    Row(3, 480, 112, True, 1),
    Row(3, 672, 112, True, 1),
    Row(5, 672, 160, True, 2),
    Row(5, 960, 160, False, 1),
    Row(5, 960, 160, True, 1),
    Row(5, 960, 160, False, 1),
    Row(5, 960, 160, True, 1),
)


class GhostBottleneck(nn.Module):
    """A ghost module widens, a depthwise filter strides, a gate, a linear ghost module narrows; beside a shortcut."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        k, wide, outputs, stride = row.kernel, row.wide, row.outputs, row.stride
        self.ghost1 = GhostModule(inputs, wide)
        self.filter = nn.Identity() if stride == 1 else ConvNorm(wide, wide, k, stride, wide, None)
        self.se = SqueezeExcite(wide, divisible(wide / 4, 4), nn.Hardsigmoid) if row.excite else nn.Identity()
        self.ghost2 = GhostModule(wide, outputs, relu=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _strided(inputs, outputs, k, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost2(self.se(self.filter(self.ghost1(x))))
        return y + self.shortcut(x)  # type: ignore[no-any-return]


def _strided(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    filtered = ConvNorm(inputs, inputs, kernel, stride, inputs, None)
    return nn.Sequential(*filtered, *ConvNorm(inputs, outputs, 1, activation=None))


class GhostNet(nn.Module):
    """A 3x3 stem, the bottlenecks, a 1x1 to the last expanded width, mean, a 1x1 to 1280, a linear head."""

    def __init__(self, classes: int, channels: int, width: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        inputs = divisible(16 * width, 4)
        self.stem = ConvNorm(channels, inputs, 3, 2)
        self.blocks = nn.Sequential()
        for r in ROWS:
            row = replace(r, wide=divisible(r.wide * width, 4), outputs=divisible(r.outputs * width, 4))
            self.blocks.append(GhostBottleneck(inputs, row))
            inputs = row.outputs
        self.last = ConvNorm(inputs, row.wide, 1)
        self.hidden = nn.Conv2d(row.wide, 1280, 1)
        self.classifier = nn.Linear(1280, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x))).mean((2, 3), keepdim=True)
        x = F.relu(self.hidden(x)).flatten(1)
        return self.classifier(F.dropout(x, self.dropout, self.training))  # type: ignore[no-any-return]


@arch("ghostnet", input=(3, 224, 224), paper=PAPER)
def ghostnet(classes: int = 1000, channels: int = 3, width: float = 1.0, dropout: float = 0.2) -> nn.Module:
    """GhostNet: 5.2 M parameters, 141 M multiply-adds at width 1; the paper also has 0.5 and 1.3."""
    return GhostNet(classes, channels, width, dropout)


@arch("ghostnet_32", input=(3, 32, 32), paper=PAPER)
def ghostnet_32(classes: int = 10, channels: int = 3, width: float = 1.0, dropout: float = 0.0) -> nn.Module:
    """GhostNet for 32x32 images: the first two strides are 1, 4x4 pixels at the end."""
    model = GhostNet(classes, channels, width, dropout)
    unstride(model, 3)  # the stem; the filter and the shortcut of the second block
    return model
