"""Residual networks for 32x32 images, with parameter-free shortcuts.

He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2.
Tensor names are those of akamaster/pytorch_resnet_cifar10, so that its weights load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.catalog import arch

PAPER = "He et al. 2015, arXiv:1512.03385"


class PadShortcut(nn.Module):
    """Option A of the paper: every second pixel, and new channels that are zero.

    `places[i]` says which input channel output channel i carries; -1 stands for zero. Costs no parameter and no MAC.
    It is resizable (`resize`), so that channels can be removed before and behind it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        before = (outputs - inputs) // 2
        self.stride, self.inputs = stride, inputs
        self.places = tuple(i - before if 0 <= i - before < inputs else -1 for i in range(outputs))

    def resize(self, axis: str, keep: tuple[int, ...]) -> None:
        """Keep these input or output channels; an output whose input is gone becomes zero."""
        if axis == "out":
            self.places = tuple(self.places[i] for i in keep)
            return
        place = {old: new for new, old in enumerate(keep)}
        self.places = tuple(place.get(p, -1) for p in self.places)
        self.inputs = len(keep)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        carried = [i for i, p in enumerate(self.places) if p >= 0]
        first, last = (carried[0], carried[-1] + 1) if carried else (0, 0)
        if self.places[first:last] == tuple(range(self.inputs)):  # one run, so plain padding does
            return F.pad(x, (0, 0, 0, 0, first, len(self.places) - last))
        index = torch.tensor([p if p >= 0 else self.inputs for p in self.places], device=x.device)
        return F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, index)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(f(x) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else PadShortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of `blocks` basic blocks at 32, 16 and 8 pixels, a linear head: 6·blocks + 2 layers."""

    def __init__(self, blocks: int, classes: int, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._stage(widths[0], widths[0], blocks, 1)
        self.layer2 = self._stage(widths[0], widths[1], blocks, 2)
        self.layer3 = self._stage(widths[1], widths[2], blocks, 2)
        self.linear = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def _widths(width: float) -> tuple[int, int, int]:
    return (round(16 * width), round(32 * width), round(64 * width))


@arch("resnet8", input=(3, 32, 32), paper=PAPER)
def resnet8(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-8 for small images: one block a stage; the smallest member of the family, for tests and first steps."""
    return CifarResNet(1, classes, channels, _widths(width))


@arch("resnet20", input=(3, 32, 32), paper=PAPER)
def resnet20(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR: 0.27 M parameters, 41 M multiply-adds."""
    return CifarResNet(3, classes, channels, _widths(width))


@arch("resnet32", input=(3, 32, 32), paper=PAPER)
def resnet32(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-32 for CIFAR: 0.46 M parameters."""
    return CifarResNet(5, classes, channels, _widths(width))


@arch("resnet44", input=(3, 32, 32), paper=PAPER)
def resnet44(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-44 for CIFAR: 0.66 M parameters."""
    return CifarResNet(7, classes, channels, _widths(width))


@arch("resnet56", input=(3, 32, 32), paper=PAPER)
def resnet56(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-56 for CIFAR: 0.85 M parameters, 126 M multiply-adds."""
    return CifarResNet(9, classes, channels, _widths(width))


@arch("resnet110", input=(3, 32, 32), paper=PAPER)
def resnet110(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """ResNet-110 for CIFAR: 1.7 M parameters, 253 M multiply-adds."""
    return CifarResNet(18, classes, channels, _widths(width))
