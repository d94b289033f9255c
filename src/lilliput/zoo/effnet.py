"""EffNet: depthwise filters split into 1x3 and 3x1, with the pooling split between them.

Freeman, Roese-Koerner, Kummert 2018, "EffNet: An Efficient Structure for Convolutional Neural Networks",
arXiv:1801.06434.
"""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.zoo.blocks import initialize
from lilliput.zoo.catalog import arch

PAPER = "Freeman et al. 2018, arXiv:1801.06434"


class EffBlock(nn.Sequential):
    """1x1, depthwise 1x3, pool of columns, depthwise 3x1, 2x1 convolution that strides rows; norm and leaky ReLU each.

    Halving one direction at a time keeps twice the data between the halves, and the 2x1 sees every row it strides over.
    """

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__(
            *_activated(nn.Conv2d(inputs, middle, 1, bias=False)),
            *_activated(nn.Conv2d(middle, middle, (1, 3), padding=(0, 1), groups=middle, bias=False)),
            nn.MaxPool2d((1, 2)),
            *_activated(nn.Conv2d(middle, middle, (3, 1), padding=(1, 0), groups=middle, bias=False)),
            *_activated(nn.Conv2d(middle, outputs, (2, 1), (2, 1), bias=False)),
        )


def _activated(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.LeakyReLU()]


class EffNet(nn.Module):
    """Three blocks to 64, 128 and 256 channels times `width`, each halving both directions, and a linear layer."""

    def __init__(self, classes: int, channels: int, width: float, size: int) -> None:
        super().__init__()
        widths = [max(1, round(c * width)) for c in (32, 64, 128, 256)]
        self.features = nn.Sequential(
            EffBlock(channels, widths[0], widths[1]),
            EffBlock(widths[1], widths[1], widths[2]),
            EffBlock(widths[2], widths[2], widths[3]),
        )
        self.classifier = nn.Linear(widths[3] * (size // 8) ** 2, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


@arch("effnet", input=(3, 32, 32), paper=PAPER)
def effnet(classes: int = 10, channels: int = 3, width: float = 1.0, size: int = 32) -> nn.Module:
    """EffNet of the paper's CIFAR-10 table: 0.15 M parameters, 5.6 M multiply-adds; `size` is the side of the image."""
    return EffNet(classes, channels, width, size)
