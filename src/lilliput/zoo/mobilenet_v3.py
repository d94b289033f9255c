"""MobileNetV3: searched inverted residuals with gates and hard-swish; the head is one 1x1 behind the mean.

Howard et al. 2019, "Searching for MobileNetV3", arXiv:1905.02244. Tensor names are those of torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from lilliput.zoo.blocks import ConvNorm, SqueezeExcite, divisible, initialize, unstride
from lilliput.zoo.catalog import arch

PAPER = "Howard et al. 2019, arXiv:1905.02244"


@dataclass(frozen=True)
class Row:
    """One line of the paper's tables 1 and 2."""

    kernel: int
    wide: int
    outputs: int
    excite: bool
    swish: bool
    stride: int


LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)


class GatedInvertedResidual(nn.Module):
    """Expand, filter each channel, gate the wide channels, project; a shortcut where the shape stays."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        activation = nn.Hardswish if row.swish else nn.ReLU
        self.adds = row.stride == 1 and inputs == row.outputs
        self.block = nn.Sequential(
            *([ConvNorm(inputs, row.wide, 1, activation=activation)] if row.wide != inputs else []),
            ConvNorm(row.wide, row.wide, row.kernel, row.stride, row.wide, activation),
            *([SqueezeExcite(row.wide, divisible(row.wide // 4), nn.Hardsigmoid)] if row.excite else []),
            ConvNorm(row.wide, row.outputs, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.adds else y  # type: ignore[no-any-return]


class MobileNetV3(nn.Module):
    """A 3x3 stem, the rows, a 1x1 to six times the last width, mean, a hidden layer of `hidden`, a linear head."""

    def __init__(
        self, rows: tuple[Row, ...], hidden: int, classes: int, channels: int, dropout: float, minimal: bool = False
    ) -> None:
        super().__init__()
        activation = nn.ReLU if minimal else nn.Hardswish
        inputs = rows[0].wide  # the first row does not expand
        layers: list[nn.Module] = [ConvNorm(channels, inputs, 3, 2, activation=activation)]
        for row in rows:
            layers.append(GatedInvertedResidual(inputs, row))
            inputs = row.outputs
        layers.append(ConvNorm(inputs, 6 * inputs, 1, activation=activation))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(6 * inputs, hidden), activation(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )
        initialize(self)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 1e-3, 0.01

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def _rows(rows: tuple[Row, ...], width: float, minimal: bool) -> tuple[Row, ...]:
    """Scaled rows, each expanding its own input as often as at width 1; `minimal` keeps only 3x3 kernels and ReLU."""
    scaled, before, inputs = [], rows[0].wide, divisible(rows[0].wide * width)
    for row in rows:
        wide, outputs = divisible(inputs * row.wide / before), divisible(row.outputs * width)
        scaled.append(replace(row, wide=wide, outputs=outputs))
        before, inputs = row.outputs, outputs
    return tuple(replace(r, kernel=3, excite=False, swish=False) if minimal else r for r in scaled)


@arch("mobilenet_v3_large", input=(3, 224, 224), paper=PAPER)
def mobilenet_v3_large(
    classes: int = 1000,
    channels: int = 3,
    width: float = 1.0,
    minimal: bool = False,
    hidden: int = 1280,
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV3-Large: 5.5 M parameters, 217 M multiply-adds; `minimal`: no gates, no hard-swish, no 5x5 kernels."""
    return MobileNetV3(_rows(LARGE, width, minimal), hidden, classes, channels, dropout, minimal)


@arch("mobilenet_v3_small", input=(3, 224, 224), paper=PAPER)
def mobilenet_v3_small(
    classes: int = 1000,
    channels: int = 3,
    width: float = 1.0,
    minimal: bool = False,
    hidden: int = 1024,
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV3-Small: 2.5 M parameters, 56 M multiply-adds; `minimal`: no gates, no hard-swish, no 5x5 kernels."""
    return MobileNetV3(_rows(SMALL, width, minimal), hidden, classes, channels, dropout, minimal)


@arch("mobilenet_v3_large_32", input=(3, 32, 32), paper=PAPER)
def mobilenet_v3_large_32(
    classes: int = 10,
    channels: int = 3,
    width: float = 1.0,
    minimal: bool = False,
    hidden: int = 1280,
    dropout: float = 0.0,
) -> nn.Module:
    """MobileNetV3-Large for 32x32 images: the first two strides are 1, 4x4 pixels at the end."""
    model = mobilenet_v3_large(classes, channels, width, minimal, hidden, dropout)
    unstride(model, 2)
    return model


@arch("mobilenet_v3_small_32", input=(3, 32, 32), paper=PAPER)
def mobilenet_v3_small_32(
    classes: int = 10,
    channels: int = 3,
    width: float = 1.0,
    minimal: bool = False,
    hidden: int = 1024,
    dropout: float = 0.0,
) -> nn.Module:
    """MobileNetV3-Small for 32x32 images: the first two strides are 1, 4x4 pixels at the end."""
    model = mobilenet_v3_small(classes, channels, width, minimal, hidden, dropout)
    unstride(model, 2)
    return model
