"""Residual networks for ImageNet, their grouped form ResNeXt and their gated form SE-ResNet.

He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
Xie, Girshick, Dollár, Tu, He 2016, "Aggregated Residual Transformations for Deep Neural Networks", arXiv:1611.05431.
Hu, Shen, Albanie, Sun, Wu 2017, "Squeeze-and-Excitation Networks", arXiv:1709.01507.
Tensor names are those of torchvision (and of timm for the gates), so that their weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.blocks import SqueezeExcite, initialize
from lilliput.zoo.catalog import arch

PAPER = "He et al. 2015, arXiv:1512.03385"
PAPER_NEXT = "Xie et al. 2016, arXiv:1611.05431"
PAPER_SE = "Hu et al. 2017, arXiv:1709.01507"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(f(x) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 down to `inner` channels, 3x3 in `groups`, 1x1 up: relu(gate(f(x)) + shortcut(x)).

    A gate through 1/`squeeze` of the channels if `squeeze` is not 0. The stride sits on the 3x3, or, `early`, on the
    first 1x1.
    """

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, groups: int = 1, squeeze: int = 0, early: bool = False
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if early else (1, stride)
        self.conv1 = nn.Conv2d(inputs, inner, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, second, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcite(outputs, outputs // squeeze) if squeeze else nn.Identity()
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.se(self.bn3(self.conv3(y))) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


Block = Callable[[int, int, int], nn.Module]  # (inputs, stage width, stride); a stage of width w gives w·expansion


class ResNet(nn.Module):
    """A 7x7 stem and a pool (or, `small`, a 3x3 stem), four stages of 64 to 512 times `expansion` channels, a head."""

    def __init__(
        self, block: Block, expansion: int, depths: tuple[int, ...], classes: int, channels: int, small: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(block, 64, 64, expansion, depths[0], 1)
        self.layer2 = _stage(block, 64 * expansion, 128, expansion, depths[1], 2)
        self.layer3 = _stage(block, 128 * expansion, 256, expansion, depths[2], 2)
        self.layer4 = _stage(block, 256 * expansion, 512, expansion, depths[3], 2)
        self.fc = nn.Linear(512 * expansion, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(block: Block, inputs: int, width: int, expansion: int, depth: int, stride: int) -> nn.Sequential:
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(width * expansion, width, 1) for _ in range(depth - 1)))


def _bottleneck(groups: int = 1, group_width: int = 64, squeeze: int = 0, stride_on: str = "3x3") -> Block:
    """A `Block` of expansion 4; `group_width` is the width of one group in the first stage."""
    if stride_on not in ("1x1", "3x3"):
        raise ValueError(f"`stride_on` (={stride_on!r}) is `1x1` (as in the paper) or `3x3` (as in torchvision)")

    def build(inputs: int, width: int, stride: int) -> nn.Module:
        inner = width * group_width // 64 * groups
        return Bottleneck(inputs, inner, 4 * width, stride, groups, squeeze, stride_on == "1x1")

    return build


@arch("resnet18", input=(3, 224, 224), paper=PAPER)
def resnet18(classes: int = 1000, channels: int = 3) -> nn.Module:
    """ResNet-18: 11.7 M parameters, 1.81 G multiply-adds."""
    return ResNet(BasicBlock, 1, (2, 2, 2, 2), classes, channels)


@arch("resnet34", input=(3, 224, 224), paper=PAPER)
def resnet34(classes: int = 1000, channels: int = 3) -> nn.Module:
    """ResNet-34: 21.8 M parameters, 3.66 G multiply-adds."""
    return ResNet(BasicBlock, 1, (3, 4, 6, 3), classes, channels)


@arch("resnet50", input=(3, 224, 224), paper=PAPER)
def resnet50(classes: int = 1000, channels: int = 3, stride_on: str = "3x3") -> nn.Module:
    """ResNet-50: 25.6 M parameters, 4.09 G multiply-adds; 3.86 G with `stride_on="1x1"`, as in the paper."""
    return ResNet(_bottleneck(stride_on=stride_on), 4, (3, 4, 6, 3), classes, channels)


@arch("resnet101", input=(3, 224, 224), paper=PAPER)
def resnet101(classes: int = 1000, channels: int = 3, stride_on: str = "3x3") -> nn.Module:
    """ResNet-101: 44.5 M parameters, 7.80 G multiply-adds; 7.57 G with `stride_on="1x1"`, as in the paper."""
    return ResNet(_bottleneck(stride_on=stride_on), 4, (3, 4, 23, 3), classes, channels)


@arch("resnet152", input=(3, 224, 224), paper=PAPER)
def resnet152(classes: int = 1000, channels: int = 3, stride_on: str = "3x3") -> nn.Module:
    """ResNet-152: 60.2 M parameters, 11.5 G multiply-adds; 11.3 G with `stride_on="1x1"`, as in the paper."""
    return ResNet(_bottleneck(stride_on=stride_on), 4, (3, 8, 36, 3), classes, channels)


@arch("resnet18_32", input=(3, 32, 32), paper=PAPER)
def resnet18_32(classes: int = 10, channels: int = 3) -> nn.Module:
    """ResNet-18 for 32x32 images, with a 3x3 stem and no pool behind it: 11.2 M parameters, 555 M multiply-adds."""
    return ResNet(BasicBlock, 1, (2, 2, 2, 2), classes, channels, small=True)


@arch("resnext50_32x4d", input=(3, 224, 224), paper=PAPER_NEXT)
def resnext50_32x4d(classes: int = 1000, channels: int = 3) -> nn.Module:
    """ResNeXt-50 of 32 groups, 4 wide in the first stage: 25.0 M parameters, 4.23 G multiply-adds."""
    return ResNet(_bottleneck(groups=32, group_width=4), 4, (3, 4, 6, 3), classes, channels)


@arch("se_resnet50", input=(3, 224, 224), paper=PAPER_SE)
def se_resnet50(classes: int = 1000, channels: int = 3, reduction: int = 16, stride_on: str = "3x3") -> nn.Module:
    """SE-ResNet-50: 28.1 M parameters, 4.09 G multiply-adds; 3.86 G with `stride_on="1x1"`, as in the paper."""
    return ResNet(_bottleneck(squeeze=reduction, stride_on=stride_on), 4, (3, 4, 6, 3), classes, channels)
