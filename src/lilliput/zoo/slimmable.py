"""Slimmable networks: one set of weights that runs at several widths, with batch normalization of its own for each.

Yu, Yang, Xu, Yang, Huang 2018, "Slimmable Neural Networks", arXiv:1812.08928. A training step adds up the gradients
of all widths: for each of `model.widths`, `switch` to it, forward, backward; then the optimizer steps once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.zoo.catalog import arch, create
from lilliput.zoo.resnet_cifar import PadShortcut

PAPER = "Yu et al. 2018, arXiv:1812.08928"


class Switched(nn.Module):
    """One module a width, of which the active one runs: batch norms, and shortcuts that know their channels."""

    def __init__(self, choices: Sequence[nn.Module]) -> None:
        super().__init__()
        self.choices, self.active = nn.ModuleList(choices), len(choices) - 1

    def forward(self, x: Tensor) -> Tensor:
        return self.choices[self.active](x)  # type: ignore[no-any-return]


class SlimConv2d(nn.Module):
    """A convolution that uses the first channels of its weight, as many as the active width has.

    Of a grouped convolution: the first groups (depthwise), and the first channels of each group.
    """

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        widest = layers[-1]
        self.weight, self.bias, self.active = widest.weight, widest.bias, len(layers) - 1
        self.sizes = [(c.groups, c.out_channels, c.in_channels) for c in layers]
        self.stride, self.padding, self.dilation = widest.stride, widest.padding, widest.dilation

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the active width."""
        groups, outputs, inputs = self.sizes[self.active]
        all_groups = self.sizes[-1][0]
        weight = self.weight.unflatten(0, (all_groups, -1))  # group, outputs of it, inputs of it, kernel
        weight = weight[:groups, : outputs // groups, : inputs // groups].flatten(0, 1)
        if self.bias is None:
            return weight, None
        return weight, self.bias.unflatten(0, (all_groups, -1))[:groups, : outputs // groups].flatten()

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.tensors()
        padding: tuple[int, ...] = self.padding  # type: ignore[assignment]
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.sizes[self.active][0])


class SlimLinear(nn.Module):
    """A linear layer that uses the first rows and columns of its weight."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight, self.bias, self.active = layers[-1].weight, layers[-1].bias, len(layers) - 1
        self.sizes = [(each.out_features, each.in_features) for each in layers]

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the active width."""
        outputs, inputs = self.sizes[self.active]
        return self.weight[:outputs, :inputs], None if self.bias is None else self.bias[:outputs]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.tensors())


Slim = SlimConv2d | SlimLinear | Switched


class Slimmable(nn.Module):
    """A network that `build(width)` makes, at several widths in one.

    `switch` chooses the width at which it runs, the widest at first; `slim` gives the ordinary network of a width.
    Its channels cannot be removed; those of what `slim` returns can.
    """

    def __init__(self, build: Callable[[float], nn.Module], widths: Sequence[float]) -> None:
        super().__init__()
        self.build, self.widths = build, tuple(sorted(widths))
        self.width = self.widths[-1]
        self.net = _merged([build(width) for width in self.widths])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def switch(self, width: float) -> None:
        """Run at `width` from now on."""
        index = self._index(width)
        self.width = width
        for module in self.modules():
            if isinstance(module, Slim):
                module.active = index

    @torch.no_grad()
    def slim(self, width: float) -> nn.Module:
        """A new ordinary network that computes what this one does at `width`."""
        index, before = self._index(width), self.width
        plain = self.build(width).to(next(self.parameters()).device).train(self.training)
        self.switch(width)
        for name, source in self.net.named_modules():
            if isinstance(source, Slim):
                _copy(source, index, plain.get_submodule(name))
        self.switch(before)
        return plain

    def _index(self, width: float) -> int:
        if width not in self.widths:
            raise ConfigError(f"`width` (={width}) is none of the widths {', '.join(map(str, self.widths))}")
        return self.widths.index(width)


def _merged(layers: Sequence[nn.Module]) -> nn.Module:
    """One module for the same place of all networks, narrowest first."""
    widest = layers[-1]
    if isinstance(widest, nn.Conv2d):
        return SlimConv2d(layers)  # type: ignore[arg-type]
    if isinstance(widest, nn.Linear):
        return SlimLinear(layers)  # type: ignore[arg-type]
    if isinstance(widest, nn.BatchNorm2d | PadShortcut):
        return Switched(layers)
    if list(widest.parameters(recurse=False)):
        raise ConfigError(f"a `{type(widest).__name__}` cannot be shared between widths")
    children = [dict(layer.named_children()) for layer in layers]
    for name in children[-1]:
        setattr(widest, name, _merged([each[name] for each in children]))
    return widest


def _copy(source: Slim, index: int, target: nn.Module) -> None:
    if isinstance(source, Switched):
        target.load_state_dict(source.choices[index].state_dict())
        return
    weight, bias = source.tensors()
    target.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})


def _slimmable(name: str, widths: str, classes: int, channels: int) -> Slimmable:
    try:
        parsed = [float(width) for width in widths.split("/")]
    except ValueError:
        raise ConfigError(f"`widths` (={widths!r}) are numbers with slashes between them, such as `0.5/1.0`") from None
    return Slimmable(partial(_plain, name, classes, channels), parsed)


def _plain(name: str, classes: int, channels: int, width: float) -> nn.Module:
    return create(name, classes=classes, channels=channels, width=width)


@arch("slimmable_mobilenet_v1", input=(3, 224, 224), paper=PAPER)
def slimmable_mobilenet_v1(classes: int = 1000, channels: int = 3, widths: str = "0.25/0.5/0.75/1.0") -> nn.Module:
    """MobileNetV1 at four widths in one: 41, 149, 325 and 569 M multiply-adds."""
    return _slimmable("mobilenet_v1", widths, classes, channels)


@arch("slimmable_mobilenet_v2", input=(3, 224, 224), paper=PAPER)
def slimmable_mobilenet_v2(classes: int = 1000, channels: int = 3, widths: str = "0.35/0.5/0.75/1.0") -> nn.Module:
    """MobileNetV2 at four widths in one: 59, 97, 209 and 301 M multiply-adds."""
    return _slimmable("mobilenet_v2", widths, classes, channels)


@arch("slimmable_shufflenet_v1", input=(3, 224, 224), paper=PAPER)
def slimmable_shufflenet_v1(classes: int = 1000, channels: int = 3, widths: str = "0.5/1.0/2.0") -> nn.Module:
    """ShuffleNetV1 of 3 groups at three widths in one: 38, 137 and 524 M multiply-adds."""
    return _slimmable("shufflenet_v1", widths, classes, channels)


@arch("slimmable_resnet20", input=(3, 32, 32), paper=PAPER)
def slimmable_resnet20(classes: int = 10, channels: int = 3, widths: str = "0.25/0.5/0.75/1.0") -> nn.Module:
    """ResNet-20 for CIFAR at four widths in one."""
    return _slimmable("resnet20", widths, classes, channels)


@arch("slimmable_mobilenet_v1_32", input=(3, 32, 32), paper=PAPER)
def slimmable_mobilenet_v1_32(classes: int = 10, channels: int = 3, widths: str = "0.25/0.5/0.75/1.0") -> nn.Module:
    """MobileNetV1 for 32x32 images at four widths in one."""
    return _slimmable("mobilenet_v1_32", widths, classes, channels)
