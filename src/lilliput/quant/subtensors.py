"""Layers whose binary inputs carry a scale for every sub-tensor that an output sees."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lilliput.core.layers import Compressed, MappedConv2d, MappedLinear, swaps, through
from lilliput.errors import EditError


class SubTensors(Compressed):
    """Base of both: the dense layer without its bias stands inside as `layer`, which is where maps go.

    `window` is what a convolution sees (kernel, stride, padding, dilation), kept here because a packed layer may stand
    inside later; a linear layer has none.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.layer = layer
        self.bias = bias
        self.window: Any = None
        if isinstance(layer, nn.Conv2d):
            self.window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)

    @classmethod
    def like(cls, dense: nn.Module) -> SubTensors:  # type: ignore[override] # its own spec
        """The layer for a convolution without groups, or a linear one."""
        return cls(_without_bias(dense), _empty(dense.bias))  # type: ignore[arg-type]

    def absorb(self, dense: Any) -> None:
        self.layer.weight.data.copy_(dense.weight)
        if self.bias is not None:
            self.bias.data.copy_(dense.bias)

    def dense(self) -> nn.Module:
        raise EditError("what scales its inputs is no ordinary layer")

    def _biased(self, y: Tensor) -> Tensor:
        if self.bias is None:
            return y
        return y + (self.bias if self.window is None else self.bias.view(-1, 1, 1))


@swaps.register("input_scale")
class InputScale(SubTensors):
    r"""A layer times K: one scale for every sub-tensor of the input, for binary inputs.

    y = (layer(x)) ⊙ K,   K = A * k,   A = mean|x| over channels,   k: the average over the kernel's positions
    so that with signs for inputs, sign(x)·K is the least-squares binary form of what each output sees.
    costs one multiply-add for each kernel position and pixel, and one for each output.
    Rastegari et al. 2016, arXiv:1603.05279, section 3.2.
    """

    name = "input_scale"

    def forward(self, x: Tensor) -> Tensor:
        return self._biased(self.layer(x) * self._scale(x))

    def _scale(self, x: Tensor) -> Tensor:
        if self.window is None:
            return x.abs().mean(-1, keepdim=True)
        area = x.abs().mean(1, keepdim=True)  # n 1 h w
        (height, width), *rest = self.window
        box = area.new_full((1, 1, height, width), 1 / (height * width))
        return F.conv2d(area, box, None, *rest)


@swaps.register("residual_signs")
class ResidualSigns(SubTensors):
    r"""A convolution as a matrix product, so that maps on its inputs see what each output sees: dimension 1 of (n, d, l).

    y[:, :, l] = maps(weight)·maps(x_l),   x_l: the d = in·kh·kw inputs of output pixel l; what padding adds stays 0
    costs the multiply-adds of the convolution, and kh·kw times the memory of its input.
    Made for `horq`, whose residuals differ from one sub-tensor to the next.       Li et al. 2017, arXiv:1708.08687.
    """

    name = "residual_signs"

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return self._biased(self.layer(x))
        conv, (height, width) = self.layer, self._size(x)
        options: Any = (conv.kernel_size, conv.dilation, conv.padding, conv.stride)
        columns = F.unfold(x, *options)  # n d l
        inside = F.unfold(torch.ones_like(x[:1]), *options)
        maps = conv.input_maps if isinstance(conv, MappedConv2d) else nn.ModuleList()
        weight = conv.mapped_weight() if isinstance(conv, MappedConv2d) else conv.weight
        y = weight.flatten(1) @ (through(maps, columns) * inside)  # n out l
        return self._biased(y.unflatten(2, (height, width)))

    def _size(self, x: Tensor) -> list[int]:
        conv: Any = self.layer
        spans = zip(x.shape[2:], conv.kernel_size, conv.dilation, conv.padding, conv.stride, strict=True)
        return [(size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, dilation, pad, stride in spans]


def _without_bias(dense: nn.Module) -> nn.Conv2d | nn.Linear:
    """An ordinary layer of the same shape on the same device."""
    if isinstance(dense, MappedConv2d | MappedLinear) and (len(dense.weight_maps) or len(dense.input_maps)):
        raise EditError("the layer has maps already, which would be lost; put this in first")
    if isinstance(dense, nn.Linear):
        return skip_init(nn.Linear, dense.in_features, dense.out_features, bias=False, device=dense.weight.device)  # type: ignore[no-any-return]
    if not isinstance(dense, nn.Conv2d) or dense.groups != 1 or isinstance(dense.padding, str) or dense.padding_mode != "zeros":
        raise EditError("scales of sub-tensors serve linear layers and convolutions without groups that pad with zeros")
    shape = (dense.in_channels, dense.out_channels, dense.kernel_size, dense.stride, dense.padding, dense.dilation)
    return skip_init(nn.Conv2d, *shape, bias=False, device=dense.weight.device)  # type: ignore[no-any-return]


def _empty(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(torch.zeros_like(bias))
