"""Inception modules: convolutions of several sizes side by side over one input.

Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv:1409.4842, figure 2; batch norm behind every convolution
(Ioffe & Szegedy 2015, arXiv:1502.03167). Tensor names are those of torchvision's GoogLeNet.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Row = tuple[int, int, int, int, int, int]
"""Channels of the 1x1, the 3x3's reduction, the 3x3, the 5x5's reduction, the 5x5, and the pool's projection."""


class ConvUnit(nn.Module):
    """relu(norm(conv(x))). The padding keeps the size at stride 1, or is none where `valid`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, stride: int = 1, valid: bool = False
    ) -> None:
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else (size[0] // 2, size[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """Parallel branches over one input, concatenated by channels; they are called `branch<first>` and so on."""

    def __init__(self, *branches: nn.Module, first: int = 0) -> None:
        super().__init__()
        for i, branch in enumerate(branches, first):
            self.add_module(f"branch{i}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


class Inception(Branches):
    """1x1; 1x1 and 3x3; 1x1 and 5x5; 3x3 max pool and 1x1: the 1x1 reductions keep the wide kernels cheap (figure 2b).

    `five=False` puts 3x3 in place of 5x5, which torchvision's weights want.
    """

    def __init__(self, inputs: int, row: Row, five: bool = True) -> None:
        ones, reduce3, threes, reduce5, fives, pool = row
        super().__init__(
            ConvUnit(inputs, ones),
            nn.Sequential(ConvUnit(inputs, reduce3), ConvUnit(reduce3, threes, 3)),
            nn.Sequential(ConvUnit(inputs, reduce5), ConvUnit(reduce5, fives, 5 if five else 3)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvUnit(inputs, pool)),
            first=1,
        )


class NaiveInception(Branches):
    """1x1, 3x3, 5x5 and the 3x3 max pool of all inputs side by side (figure 2a): outputs grow by `inputs` each time."""

    def __init__(self, inputs: int, row: Row) -> None:
        ones, _, threes, _, fives, _ = row
        super().__init__(
            ConvUnit(inputs, ones),
            ConvUnit(inputs, threes, 3),
            ConvUnit(inputs, fives, 5),
            nn.MaxPool2d(3, 1, 1),
            first=1,
        )
