"""SqueezeNext: two squeezing 1x1 convolutions, then 1x3 and 3x1, beside a shortcut in every block.

Gholami, Kwon, Wu, Tai, Yue, Jin, Zhao, Keutzer 2018, "SqueezeNext: Hardware-Aware Neural Network Design",
arXiv:1803.10615.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.blocks import ConvNorm, initialize
from lilliput.zoo.catalog import arch

PAPER = "Gholami et al. 2018, arXiv:1803.10615"
WIDTHS = (32, 64, 128, 256)
BLOCKS = (6, 6, 8, 1)


class SqueezeNextBlock(nn.Module):
    """Halve and halve again the channels by 1x1, then 1x3 and 3x1 at half, then 1x1 back: relu(f(x) + shortcut(x)).

    A block that strides starts from all of its input's channels, one that narrows from a quarter.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = inputs // (1 if stride == 2 else 4 if inputs > outputs else 2)
        self.body = nn.Sequential(
            ConvNorm(inputs, half, 1, stride),
            ConvNorm(half, half // 2, 1),
            ConvNorm(half // 2, half, (1, 3)),
            ConvNorm(half, half, (3, 1)),
            ConvNorm(half, outputs, 1),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class SqueezeNext(nn.Module):
    """A 7x7 stem and a pool, four sections of blocks, a 1x1 to 128·width channels, mean, linear head."""

    def __init__(self, classes: int, channels: int, width: float) -> None:
        super().__init__()
        inputs = int(64 * width)
        self.stem = ConvNorm(channels, inputs, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.sections = nn.Sequential()
        for number, (base, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            for i in range(blocks):
                self.sections.append(SqueezeNextBlock(inputs, int(base * width), 2 if number and i == 0 else 1))
                inputs = int(base * width)
        self.last = ConvNorm(inputs, inputs // 2, 1)
        self.classifier = nn.Linear(inputs // 2, classes, bias=False)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.sections(self.pool(self.stem(x))))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


@arch("squeezenext23", input=(3, 224, 224), paper=PAPER)
def squeezenext23(classes: int = 1000, channels: int = 3, width: float = 1.0) -> nn.Module:
    """SqueezeNext of 23 modules: 0.72 M parameters, 282 M multiply-adds at width 1."""
    return SqueezeNext(classes, channels, width)
