"""Convolutions of signs by signs, or by −1, 0 and +1, as operations of PyTorch: packed in, floats or packed out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.kernels.plans import core, packed, planned
from lilliput.kernels.signs import pack, unpack
from lilliput.kernels.window import Window, four

WINDOW = "int channels, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int groups"
LIBRARY = torch.library.Library("lilliput", "DEF")
LIBRARY.define("binarize(Tensor x, Tensor? least=None) -> Tensor")


def binarize_plain(x: Tensor, least: Tensor | None = None) -> Tensor:
    """The definition in PyTorch."""
    return pack(x >= (0 if least is None else least.view(-1, *[1] * (x.dim() - 2))))


def binarize_native(x: Tensor, least: Tensor | None = None) -> Tensor:
    """By the native core, for floats."""
    native = core()
    if native is None or x.dtype != torch.float32 or x.dim() < 2:
        return binarize_plain(x, least)
    out = _binarized(x)
    bounds = array(least)
    packed(lambda: native.binarize(x.shape[0], x.shape[1], x[0, 0].numel(), array(x), bounds, out.numpy(), None))
    return out


def dots(bits: Tensor, weight: Tensor, mask: Tensor | None, channels: int, window: Window, pad: int) -> Tensor:
    """The dot products as floats, exactly: what PyTorch computes from ±1 (and 0 outside a mask), padded with `pad`."""
    top, left = window.padding
    x = F.pad(unpack(bits, channels), (left, left, top, top), value=float(pad))
    signs = unpack(weight, channels // window.groups)
    if mask is not None:
        signs = signs.where(unpack(mask, channels // window.groups) > 0, 0)
    return F.conv2d(x, signs, None, window.stride, 0, window.dilation, window.groups)


class Given(NamedTuple):
    """What a convolution of signs is told besides its input."""

    weight: Tensor
    mask: Tensor | None
    sides: tuple[Tensor, Tensor | None]  # scale and bias, or least and flip
    channels: int
    window: Window
    pad: int

    def second(self) -> Tensor:
        """Of the sides, the one that may be left out. Raises `ModelError` where it was."""
        if self.sides[1] is None:
            raise ModelError("a bias that was left out")
        return self.sides[1]


class Conv(NamedTuple):
    """One operation: whether weights may be 0, so that a mask follows them, and whether it writes bits rather than floats."""

    name: str
    masked: bool
    bits: bool

    def schema(self) -> str:
        """As PyTorch wants it declared."""
        sides = "Tensor least, Tensor flip" if self.bits else "Tensor scale, Tensor? bias"
        weight = "Tensor weight, Tensor mask" if self.masked else "Tensor weight"
        return f"{self.name}(Tensor bits, {weight}, {sides}, {WINDOW}, int pad) -> Tensor"

    def read(self, bits: Tensor, *given: Any) -> Given:
        """The arguments by their names, checked."""
        tensors, (channels, *window, pad) = given[: 3 + self.masked], given[3 + self.masked :]
        weight, mask = tensors[0], tensors[1] if self.masked else None
        made = Given(weight, mask, tensors[-2:], channels, read_window(*window), pad)
        _check(bits, made)
        return made

    def plain(self, bits: Tensor, *given: Any) -> Tensor:
        """The definition in PyTorch."""
        g = self.read(bits, *given)
        sums, first = dots(bits, g.weight, g.mask, g.channels, g.window, g.pad), g.sides[0].view(-1, 1, 1)
        if self.bits:
            return pack((sums >= first) != g.second().view(-1, 1, 1).bool())
        return sums * first if g.sides[1] is None else sums * first + g.second().view(-1, 1, 1)

    def native(self, bits: Tensor, *given: Any) -> Tensor:
        """By the native core."""
        made = core()
        if made is None:
            return self.plain(bits, *given)
        g, out = self.read(bits, *given), self.shape(bits, *given)
        none = (None, None)
        layer = planned((self.name, bits.shape[2:], *g[3:]), (g.weight, g.mask, *g.sides), lambda: made.Binary(
            g.window.numbers(g.channels, g.weight.shape[0], bits.shape[2:]), g.pad, array(g.weight),
            *((*none, *map(array, g.sides)) if self.bits else (*map(array, g.sides), *none)), None, array(g.mask)))  # fmt: skip
        run = layer.bits if self.bits else layer.floats
        run(bits.shape[0], array(bits), out.numpy(), torch.get_num_threads())
        return out

    def shape(self, bits: Tensor, *given: Any) -> Tensor:
        """An output of the right shape, not filled."""
        g = self.read(bits, *given)
        outputs, size = g.weight.shape[0], g.window.output(bits.shape[2:])
        if self.bits:
            return bits.new_empty((bits.shape[0], -(-outputs // 8), *size))
        return bits.new_empty((bits.shape[0], outputs, *size), dtype=torch.float32)


def read_window(kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Window:
    """From the numbers that an operation is told."""
    return Window(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups)


def array(tensor: Tensor | None) -> Any:
    """As the native core takes it."""
    return None if tensor is None else tensor.detach().contiguous().numpy()


def declare(name: str, plain: Any, native: Any, fake: Any) -> None:
    """An operation that is declared, with what computes it."""
    LIBRARY.impl(name, plain, "CompositeExplicitAutograd")
    LIBRARY.impl(name, native, "CPU")
    torch.library.register_fake(f"lilliput::{name}", fake, lib=LIBRARY)


def _binarized(x: Tensor, least: Tensor | None = None) -> Tensor:
    return x.new_empty((x.shape[0], -(-x.shape[1] // 8), *x.shape[2:]), dtype=torch.uint8)


def _check(bits: Tensor, g: Given) -> None:
    _, found, _, _ = four(bits, "a convolution of signs")
    if {bits.dtype, g.weight.dtype, torch.uint8 if g.mask is None else g.mask.dtype} != {torch.uint8}:
        raise ModelError(
            f"signs are packed in bytes, and these are `{bits.dtype}` and `{g.weight.dtype}`. Use binarize(x) first"
        )
    outputs, groups = g.weight.shape[0], g.window.groups
    if g.channels % groups or outputs % groups or found != -(-g.channels // 8) or g.pad not in (-1, 0, 1):
        raise ModelError(
            f"`{g.channels}` channels in `{found}` bytes, `{outputs}` outputs, `{groups}` groups and padding with "
            f"`{g.pad}` do not go together. Channels fill ⌈c/8⌉ bytes, groups divide both, and padding is −1, 0 or 1"
        )
    expected = (outputs, -(-(g.channels // groups) // 8), *g.window.kernel)
    packed_alike = g.mask is None or g.mask.shape == g.weight.shape
    if tuple(g.weight.shape) != expected or g.sides[0].numel() != outputs or not packed_alike:
        raise ModelError(f"packed weights of shape `{tuple(g.weight.shape)}` where `{expected}` belong")


CONVS = (
    Conv("binary_conv2d", masked=False, bits=False),
    Conv("binary_conv2d_bits", masked=False, bits=True),
    Conv("ternary_conv2d", masked=True, bits=False),
    Conv("ternary_conv2d_bits", masked=True, bits=True),
)
declare("binarize", binarize_plain, binarize_native, _binarized)
for _conv in CONVS:
    LIBRARY.define(_conv.schema())
    declare(_conv.name, _conv.plain, _conv.native, _conv.shape)
