"""Convolutions of bytes by weights of four bits as an operation of PyTorch: whole numbers, exact, then floats."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.kernels.binary import LIBRARY, WINDOW, array, declare, read_window
from lilliput.kernels.plans import core, planned
from lilliput.kernels.window import Window, four

LIBRARY.define(f"int4_conv2d(Tensor x, Tensor weight, Tensor scale, Tensor? bias, {WINDOW}, int zero) -> Tensor")


def pack(levels: Tensor) -> Tensor:
    """Whole numbers from −8 to 7 (o, c, …) as bytes (o, ⌈c/2⌉, …): channel 2j in the low half of byte j, 2j + 1 in the high.

    >>> pack(torch.tensor([[1, -1, 7]])).tolist()
    [[241, 7]]
    """
    o, c, *rest = levels.shape
    filled = torch.zeros((o, -(-c // 2), 2, *rest), dtype=torch.uint8, device=levels.device)
    filled.flatten(1, 2)[:, :c] = levels.to(torch.int16).bitwise_and(15).to(torch.uint8)
    return filled[:, :, 0] | filled[:, :, 1] << 4


def unpack(weight: Tensor, channels: int) -> Tensor:
    """The whole numbers (o, channels, …) as floats.

    >>> unpack(torch.tensor([[241, 7]], dtype=torch.uint8), 3).tolist()
    [[1.0, -1.0, 7.0]]
    """
    halves = torch.stack([weight & 15, weight >> 4], 2).flatten(1, 2)[:, :channels].float()
    return halves.where(halves < 8, halves - 16)


class Given(NamedTuple):
    """What the operation is told besides its input."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    channels: int
    window: Window
    zero: int


def conv_plain(x: Tensor, *given: Any) -> Tensor:
    """The definition in PyTorch: sums in double precision, which holds them exactly."""
    g = _read(x, *given)
    w = g.window
    levels = unpack(g.weight, g.channels // w.groups).double()
    sums = F.conv2d(x.double() - g.zero, levels, None, w.stride, w.padding, w.dilation, w.groups).float()
    scaled = sums * g.scale.view(-1, 1, 1)
    return scaled if g.bias is None else scaled + g.bias.view(-1, 1, 1)


def conv_native(x: Tensor, *given: Any) -> Tensor:
    """By the native core."""
    native = core()
    if native is None:
        return conv_plain(x, *given)
    g, out = _read(x, *given), conv_shape(x, *given)
    layer = planned((x.shape[2:], *g[3:]), (g.weight, g.scale, g.bias), lambda: native.Int4(
        g.window.numbers(g.channels, g.weight.shape[0], x.shape[2:]), g.zero, array(g.weight), array(g.scale), array(g.bias),
        None))  # fmt: skip
    layer.floats(x.shape[0], array(x), out.numpy(), torch.get_num_threads())
    return out


def conv_shape(x: Tensor, *given: Any) -> Tensor:
    """An output of the right shape, not filled."""
    g = _read(x, *given)
    return x.new_empty((x.shape[0], g.weight.shape[0], *g.window.output(x.shape[2:])), dtype=torch.float32)


def _read(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, channels: int, *rest: Any) -> Given:
    *window, zero = rest
    g = Given(weight, scale, bias, channels, read_window(*window), zero)
    _, found, _, _ = four(x, "a convolution of bytes")
    if x.dtype != torch.uint8 or weight.dtype != torch.uint8:
        raise ModelError(f"activations and packed weights are bytes, and these are `{x.dtype}` and `{weight.dtype}`")
    outputs, groups = weight.shape[0], g.window.groups
    if found != channels or channels % groups or outputs % groups or not 0 <= zero <= 255:
        raise ModelError(
            f"`{found}` channels where `{channels}` belong, `{outputs}` outputs, `{groups}` groups and a zero of `{zero}` "
            "do not go together. Groups divide both, and the zero is a byte"
        )
    expected = (outputs, -(-(channels // groups) // 2), *g.window.kernel)
    if tuple(weight.shape) != expected or scale.numel() != outputs:
        raise ModelError(f"packed weights of shape `{tuple(weight.shape)}` where `{expected}` belong")
    return g


declare("int4_conv2d", conv_plain, conv_native, conv_shape)
