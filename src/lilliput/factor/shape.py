"""What a layer looks like from outside, and the links of the chain that stands in for it: one source for structure and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lilliput.core.layers import Mapped

Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """A convolution or linear layer without its numbers. A linear layer is a 1x1 convolution that is `linear`."""

    inputs: int
    outputs: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    padding_mode: str = "zeros"
    linear: bool = False

    @property
    def area(self) -> int:
        """Positions of the kernel."""
        return self.kernel[0] * self.kernel[1]

    def whole(self) -> Link:
        """The layer itself as one link."""
        return Link("whole", self.inputs, self.outputs, self.kernel, self.stride, self.padding, self.dilation)

    def tall(self, name: str, inputs: int, outputs: int, groups: int = 1) -> Link:
        """The vertical half of the kernel: kh x 1."""
        padding = self.padding if isinstance(self.padding, str) else (self.padding[0], 0)
        return Link(name, inputs, outputs, (self.kernel[0], 1), (self.stride[0], 1), padding, (self.dilation[0], 1), groups)

    def wide(self, name: str, inputs: int, outputs: int, groups: int = 1) -> Link:
        """The horizontal half of the kernel: 1 x kw."""
        padding = self.padding if isinstance(self.padding, str) else (0, self.padding[1])
        return Link(name, inputs, outputs, (1, self.kernel[1]), (1, self.stride[1]), padding, (1, self.dilation[1]), groups)

    def full(self, name: str, inputs: int, outputs: int, groups: int = 1) -> Link:
        """A convolution with the whole kernel between other numbers of channels."""
        return replace(self.whole(), name=name, inputs=inputs, outputs=outputs, groups=groups)


@dataclass(frozen=True)
class Link:
    """One ordinary convolution of a chain."""

    name: str
    inputs: int
    outputs: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def params(self) -> int:
        """Weights, without the bias."""
        return self.outputs * (self.inputs // self.groups) * self.kernel[0] * self.kernel[1]

    def after(self, size: Pair) -> Pair:
        """Height and width behind this link.

        >>> Link("a", 3, 8, (3, 1), (2, 1), (1, 0)).after((9, 5))
        (5, 5)
        """
        if self.padding == "same":
            return size
        pads: Pair = (0, 0) if isinstance(self.padding, str) else self.padding
        rows, columns = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(size, pads, self.dilation, self.kernel, self.stride, strict=True)
        )
        return rows, columns


def macs(links: Sequence[Link], sizes: Sequence[Pair]) -> int:
    """Multiply-adds of a chain, run once on each of these input sizes."""
    total = 0
    for size in sizes:
        for link in links:
            size = link.after(size)
            total += link.params * math.prod(size)
    return total


def why_not(layer: nn.Module) -> str | None:
    """Why no form of this package can stand in for a layer; None if one may."""
    if isinstance(layer, Mapped):
        return "its weight passes through maps; bake the model first"
    if type(layer) not in (nn.Conv2d, nn.Linear):
        return f"a `{type(layer).__name__}` is neither an ordinary 2d convolution nor a linear layer"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        kind = "depthwise" if layer.groups == layer.in_channels else f"grouped (`{layer.groups}` groups)"
        return f"it is {kind}, so little is shared between its filters"
    if "output_maps" in layer._modules:
        return "its output passes through maps; bake the model first"
    return None


def shape(layer: Any) -> Shape:
    """The shape of an ordinary layer that `why_not` lets pass."""
    if isinstance(layer, nn.Linear):
        return Shape(layer.in_features, layer.out_features, linear=True)
    padding = layer.padding if isinstance(layer.padding, str) else pair(layer.padding)
    return Shape(
        layer.in_channels, layer.out_channels, pair(layer.kernel_size), pair(layer.stride), padding, pair(layer.dilation),
        layer.padding_mode,
    )  # fmt: skip


def pair(value: Sequence[int]) -> Pair:
    """Two integers."""
    first, second = value
    return int(first), int(second)
