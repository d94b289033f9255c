"""Convolutions of signs as operations of PyTorch: packed in, floats or packed out. The native core where it was built."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.kernels.plans import core, packed, planned
from lilliput.kernels.signs import pack, unpack
from lilliput.kernels.window import Window, four

_WINDOW = "int channels, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int groups, int pad"
LIBRARY = torch.library.Library("lilliput", "DEF")
LIBRARY.define("binarize(Tensor x, Tensor? least=None) -> Tensor")
LIBRARY.define(f"binary_conv2d(Tensor bits, Tensor weight, Tensor scale, Tensor? bias, {_WINDOW}) -> Tensor")
LIBRARY.define(f"binary_conv2d_bits(Tensor bits, Tensor weight, Tensor least, Tensor flip, {_WINDOW}) -> Tensor")


def binarize_plain(x: Tensor, least: Tensor | None = None) -> Tensor:
    """The definition in PyTorch."""
    return pack(x >= (0 if least is None else least.view(-1, *[1] * (x.dim() - 2))))


def binarize_native(x: Tensor, least: Tensor | None = None) -> Tensor:
    """By the native core, for floats."""
    native = core()
    if native is None or x.dtype != torch.float32 or x.dim() < 2:
        return binarize_plain(x, least)
    out = _binarized(x)
    bounds = None if least is None else _array(least)
    packed(lambda: native.binarize(x.shape[0], x.shape[1], x[0, 0].numel(), _array(x), bounds, out.numpy(), None))
    return out


def dots(bits: Tensor, weight: Tensor, channels: int, window: Window, pad: int) -> Tensor:
    """The dot products as floats, exactly: what PyTorch computes from ±1, padded with `pad`."""
    top, left = window.padding
    x = F.pad(unpack(bits, channels), (left, left, top, top), value=float(pad))
    signs = unpack(weight, channels // window.groups)
    return F.conv2d(x, signs, None, window.stride, 0, window.dilation, window.groups)


def conv_plain(bits: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """The definition in PyTorch."""
    channels, window, pad = _read(*numbers)
    _check(bits, weight, scale, channels, window, pad)
    scaled = dots(bits, weight, channels, window, pad) * scale.view(-1, 1, 1)
    return scaled if bias is None else scaled + bias.view(-1, 1, 1)


def conv_bits_plain(bits: Tensor, weight: Tensor, least: Tensor, flip: Tensor, *numbers: Any) -> Tensor:
    """The definition in PyTorch."""
    channels, window, pad = _read(*numbers)
    _check(bits, weight, least, channels, window, pad)
    return pack((dots(bits, weight, channels, window, pad) >= least.view(-1, 1, 1)) != flip.view(-1, 1, 1).bool())


def conv_native(bits: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """By the native core."""
    native = core()
    if native is None:
        return conv_plain(bits, weight, scale, bias, *numbers)
    channels, window, pad = _read(*numbers)
    out = conv_shape(bits, weight, scale, bias, *numbers)
    layer = planned(("floats", bits.shape[2:], channels, window, pad), (weight, scale, bias), lambda: native.Binary(
        window.numbers(channels, weight.shape[0], bits.shape[2:]), pad, _array(weight), _array(scale),
        None if bias is None else _array(bias), None, None, None))  # fmt: skip
    layer.floats(bits.shape[0], _array(bits), out.numpy())
    return out


def conv_bits_native(bits: Tensor, weight: Tensor, least: Tensor, flip: Tensor, *numbers: Any) -> Tensor:
    """By the native core."""
    native = core()
    if native is None:
        return conv_bits_plain(bits, weight, least, flip, *numbers)
    channels, window, pad = _read(*numbers)
    out = conv_bits_shape(bits, weight, least, flip, *numbers)
    layer = planned(("bits", bits.shape[2:], channels, window, pad), (weight, least, flip), lambda: native.Binary(
        window.numbers(channels, weight.shape[0], bits.shape[2:]), pad, _array(weight), None, None, _array(least),
        _array(flip), None))  # fmt: skip
    layer.bits(bits.shape[0], _array(bits), out.numpy())
    return out


def conv_shape(bits: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """An output of the right shape, not filled."""
    channels, window, pad = _read(*numbers)
    _check(bits, weight, scale, channels, window, pad)
    return bits.new_empty((bits.shape[0], weight.shape[0], *window.output(bits.shape[2:])), dtype=torch.float32)


def conv_bits_shape(bits: Tensor, weight: Tensor, least: Tensor, flip: Tensor, *numbers: Any) -> Tensor:
    """An output of the right shape, not filled."""
    channels, window, pad = _read(*numbers)
    _check(bits, weight, least, channels, window, pad)
    return bits.new_empty((bits.shape[0], -(-weight.shape[0] // 8), *window.output(bits.shape[2:])))


def _binarized(x: Tensor, least: Tensor | None = None) -> Tensor:
    return x.new_empty((x.shape[0], -(-x.shape[1] // 8), *x.shape[2:]), dtype=torch.uint8)


def _read(
    channels: int, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, pad: int
) -> tuple[int, Window, int]:
    return channels, Window(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups), pad


def _check(bits: Tensor, weight: Tensor, side: Tensor, channels: int, window: Window, pad: int) -> None:
    _, found, _, _ = four(bits, "a binary convolution")
    if bits.dtype != torch.uint8 or weight.dtype != torch.uint8:
        raise ModelError(f"signs are packed in bytes, and these are `{bits.dtype}` and `{weight.dtype}`. Use binarize(x) first")
    outputs = weight.shape[0]
    if channels % window.groups or outputs % window.groups or found != -(-channels // 8) or pad not in (-1, 0, 1):
        raise ModelError(
            f"`{channels}` channels in `{found}` bytes, `{outputs}` outputs, `{window.groups}` groups and padding with "
            f"`{pad}` do not go together. Channels fill ⌈c/8⌉ bytes, groups divide both, and padding is −1, 0 or 1"
        )
    expected = (outputs, -(-(channels // window.groups) // 8), *window.kernel)
    if tuple(weight.shape) != expected or side.numel() != outputs:
        raise ModelError(f"packed weights of shape `{tuple(weight.shape)}` where `{expected}` belong")


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


for _name, _plain, _native, _fake in (
    ("binarize", binarize_plain, binarize_native, _binarized),
    ("binary_conv2d", conv_plain, conv_native, conv_shape),
    ("binary_conv2d_bits", conv_bits_plain, conv_bits_native, conv_bits_shape),
):
    LIBRARY.impl(_name, _plain, "CompositeExplicitAutograd")
    LIBRARY.impl(_name, _native, "CPU")
    torch.library.register_fake(f"lilliput::{_name}", _fake, lib=LIBRARY)
