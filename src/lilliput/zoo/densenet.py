"""DenseNet: every layer reads the outputs of all layers before it in its block.

Huang, Liu, van der Maaten, Weinberger 2016, "Densely Connected Convolutional Networks", arXiv:1608.06993, form BC:
1x1 bottlenecks of 4·growth channels, and transitions that halve the channels.
Tensor names are those of torchvision, so that its weights load as they are.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.catalog import arch

PAPER = "Huang et al. 2016, arXiv:1608.06993"


class DenseLayer(nn.Module):
    """x -> cat(x, f(x)), f = norm, relu, 1x1 to 4·growth channels, norm, relu, 3x3 to `growth` channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat((x, self.conv2(F.relu(self.norm2(y)))), 1)


class Transition(nn.Module):
    """Norm, relu, 1x1 and a 2x2 mean between two blocks."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


def _block(inputs: int, growth: int, layers: int) -> nn.Sequential:
    named = ((f"denselayer{i + 1}", DenseLayer(inputs + i * growth, growth)) for i in range(layers))
    return nn.Sequential(OrderedDict(named))


def _stem(channels: int, outputs: int, small: bool) -> nn.Sequential:
    """7x7 of stride 2, norm, relu and a pool; where `small`, a 3x3 alone."""
    if small:
        return nn.Sequential(OrderedDict(conv0=nn.Conv2d(channels, outputs, 3, 1, 1, bias=False)))
    layers = OrderedDict[str, nn.Module](conv0=nn.Conv2d(channels, outputs, 7, 2, 3, bias=False))
    layers.update(norm0=nn.BatchNorm2d(outputs), relu0=nn.ReLU(), pool0=nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(layers)


class DenseNet(nn.Module):
    """A stem of 2·growth channels, dense blocks with transitions between them, norm, relu, mean, linear head."""

    def __init__(self, growth: int, depths: tuple[int, ...], classes: int, channels: int, small: bool) -> None:
        super().__init__()
        width = 2 * growth
        self.features = _stem(channels, width, small)
        for i, layers in enumerate(depths, 1):
            self.features.add_module(f"denseblock{i}", _block(width, growth, layers))
            width += layers * growth
            if i < len(depths):
                self.features.add_module(f"transition{i}", Transition(width, width // 2))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x)).mean((2, 3))
        return self.classifier(x)  # type: ignore[no-any-return]


@arch("densenet121", input=(3, 224, 224), paper=PAPER)
def densenet121(classes: int = 1000, channels: int = 3) -> nn.Module:
    """DenseNet-121 of growth 32: 7.98 M parameters, 2.83 G multiply-adds."""
    return DenseNet(32, (6, 12, 24, 16), classes, channels, small=False)


@arch("densenet100_32", input=(3, 32, 32), paper=PAPER)
def densenet100_32(classes: int = 10, channels: int = 3, growth: int = 12) -> nn.Module:
    """DenseNet-BC for 32x32 images, 100 layers of growth 12: 0.77 M parameters, 288 M multiply-adds."""
    return DenseNet(growth, (16, 16, 16), classes, channels, small=True)
