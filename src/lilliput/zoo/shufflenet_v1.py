"""ShuffleNetV1: grouped 1x1 convolutions, and a channel shuffle that lets the groups hear of each other.

Zhang, Zhou, Lin, Sun 2017, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
arXiv:1707.01083.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.zoo.blocks import ConvNorm, ShuffleUnit, initialize
from lilliput.zoo.catalog import arch

PAPER = "Zhang et al. 2017, arXiv:1707.01083"
WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # channels of the first stage by groups: table 1 of the paper


@dataclass(frozen=True)
class Layout:
    """What distinguishes one ShuffleNet from another; `shallow` halves the units of each stage."""

    groups: int
    width: float
    shuffle: bool
    excite: bool
    shallow: bool

    @property
    def first(self) -> int:
        """Channels of the first stage, a multiple of the groups."""
        if self.groups not in WIDTHS:
            raise ConfigError(f"`groups` (={self.groups}) is none of {', '.join(map(str, WIDTHS))}, the paper's")
        return max(1, round(WIDTHS[self.groups] * self.width / self.groups)) * self.groups

    @property
    def stem(self) -> int:
        """24·width channels; 24 at 1.5 as in the authors' code; more where the first branch must divide into groups."""
        stem = 24 if self.width == 1.5 else max(1, int(24 * self.width))
        return next(n for n in range(stem, self.first) if (self.first - n) % self.groups == 0)

    @property
    def units(self) -> tuple[int, int, int]:
        """Units of each stage."""
        return (2, 4, 2) if self.shallow else (4, 8, 4)

    def unit(self, inputs: int, outputs: int, stride: int) -> ShuffleUnit:
        """One unit."""
        return ShuffleUnit(inputs, outputs, self.groups, stride, self.shuffle, self.excite)


class ShuffleNetV1(nn.Module):
    """A 3x3 stem (and a pool, unless `small`), three stages of shuffle units that double the channels, mean, head."""

    def __init__(self, layout: Layout, classes: int, channels: int, small: bool = False) -> None:
        super().__init__()
        inputs, outputs = layout.stem, layout.first
        self.stem = ConvNorm(channels, inputs, 3, 1 if small else 2)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.stages = nn.Sequential()
        for units in layout.units:
            stage = nn.Sequential(layout.unit(inputs, outputs, 2))
            stage.extend(layout.unit(outputs, outputs, 1) for _ in range(units - 1))
            self.stages.append(stage)
            inputs, outputs = outputs, 2 * outputs
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.pool(self.stem(x)))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


@arch("shufflenet_v1", input=(3, 224, 224), paper=PAPER)
def shufflenet_v1(
    classes: int = 1000,
    channels: int = 3,
    groups: int = 3,
    width: float = 1.0,
    shuffle: bool = True,
    excite: bool = False,
    shallow: bool = False,
) -> nn.Module:
    """ShuffleNetV1 of 1, 2, 3, 4 or 8 groups: 1.9 M parameters, 137 M multiply-adds at width 1 and 3 groups."""
    return ShuffleNetV1(Layout(groups, width, shuffle, excite, shallow), classes, channels)


@arch("shufflenet_v1_32", input=(3, 32, 32), paper=PAPER)
def shufflenet_v1_32(
    classes: int = 10,
    channels: int = 3,
    groups: int = 3,
    width: float = 1.0,
    shuffle: bool = True,
    excite: bool = False,
    shallow: bool = False,
) -> nn.Module:
    """ShuffleNetV1 for 32x32 images: stem of stride 1, no pool, 4x4 pixels at the end."""
    return ShuffleNetV1(Layout(groups, width, shuffle, excite, shallow), classes, channels, small=True)
