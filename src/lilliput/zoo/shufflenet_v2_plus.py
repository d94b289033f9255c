"""ShuffleNetV2+: the authors' stronger ShuffleNetV2, of four kinds of unit with hard-swish and gates.

Ma, Zhang, Zheng, Sun 2018, arXiv:1807.11164, and its authors' later release, megvii-model/ShuffleNet-Series.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.zoo.blocks import ChannelShuffle, ConvNorm, initialize
from lilliput.zoo.catalog import arch

PAPER = "Ma et al. 2018, arXiv:1807.11164"
WIDTHS = {"small": (36, 104, 208, 416), "medium": (48, 128, 256, 512), "large": (68, 168, 336, 672)}
KERNELS = ((3, 3, 0, 5), (5, 5, 3, 3), (7, 3, 7, 5, 5, 3, 7, 3), (7, 5, 0, 7))  # of each stage's units; 0: three 3x3


class NormedGate(nn.Module):
    """Squeeze and excite with a batch norm between and a hard sigmoid behind, ratio 1/4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvNorm(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.excite(self.squeeze(x.mean((2, 3), keepdim=True))))


class PlusUnit(nn.Module):
    """Half of the channels pass (at stride 2: all, filtered), the others go through a branch of one kernel size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, style: tuple[type[nn.Module], bool]) -> None:
        super().__init__()
        activation, gated = style
        passed = inputs if stride == 2 else inputs // 2
        sizes = (passed, outputs // 2, outputs - passed)
        self.stride = stride
        self.branch = nn.Sequential(
            *(_plain(*sizes, kernel, stride, activation) if kernel else _xception(*sizes, stride, activation)),
            *([NormedGate(outputs - passed)] if gated else []),
        )
        self.passing = nn.Sequential(*(_separable(inputs, inputs, kernel or 3, 2, activation) if stride == 2 else []))
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.stride == 2 else x.chunk(2, 1)
        return self.shuffle(torch.cat([self.passing(left), self.branch(right)], 1))  # type: ignore[no-any-return]


def _separable(inputs: int, outputs: int, kernel: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    filtered = ConvNorm(inputs, inputs, kernel, stride, inputs, None)
    return [filtered, ConvNorm(inputs, outputs, 1, activation=activation)]


def _plain(inputs: int, middle: int, outputs: int, kernel: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    first = ConvNorm(inputs, middle, 1, activation=activation)
    return [first, *_separable(middle, outputs, kernel, stride, activation)]


def _xception(inputs: int, middle: int, outputs: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    return [
        *_separable(inputs, middle, 3, stride, activation),
        *_separable(middle, middle, 3, 1, activation),
        *_separable(middle, outputs, 3, 1, activation),
    ]


class ShuffleNetV2Plus(nn.Module):
    """A 3x3 stem of 16, four stages, a 1x1 to 1280, mean, gate, a hidden layer of 1280, linear head; no biases."""

    def __init__(self, widths: tuple[int, ...], classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout, inputs = dropout, 16
        self.stem = ConvNorm(channels, inputs, 3, 2, activation=nn.Hardswish)
        self.stages = nn.Sequential()
        for number, (outputs, kernels) in enumerate(zip(widths, KERNELS, strict=True)):
            style = (nn.Hardswish if number else nn.ReLU, number > 1)
            for i, kernel in enumerate(kernels):
                self.stages.append(PlusUnit(inputs, outputs, kernel, 1 if i else 2, style))
                inputs = outputs
        self.last = ConvNorm(inputs, 1280, 1, activation=nn.Hardswish)
        self.gate = NormedGate(1280)
        self.hidden = nn.Linear(1280, 1280, bias=False)
        self.classifier = nn.Linear(1280, classes, bias=False)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.stages(self.stem(x))).mean((2, 3), keepdim=True)
        x = F.hardswish(self.hidden(self.gate(x).flatten(1)))
        return self.classifier(F.dropout(x, self.dropout, self.training))  # type: ignore[no-any-return]


@arch("shufflenet_v2_plus", input=(3, 224, 224), paper=PAPER)
def shufflenet_v2_plus(classes: int = 1000, channels: int = 3, size: str = "medium", dropout: float = 0.2) -> nn.Module:
    """ShuffleNetV2+ `small`, `medium` or `large`: 156, 222 or 360 M multiply-adds."""
    if size not in WIDTHS:
        raise ConfigError(f"`size` (={size!r}) is none of {', '.join(WIDTHS)}")
    return ShuffleNetV2Plus(WIDTHS[size], classes, channels, dropout)
