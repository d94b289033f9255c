"""Layers that keep their weights packed: signs in bits, four bits in half a byte, or only what is not zero."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lilliput.core.layers import MappedConv2d, MappedLinear
from lilliput.errors import ModelError
from lilliput.kernels import int4, sparse
from lilliput.kernels.signs import pack, thresholds, unpack
from lilliput.kernels.window import Window

BREAK_EVEN = 0.7  # share of zeros from which on a sparse kernel is worth its indices (bench/kernels.py)


class BinaryConv2d(nn.Module):
    """A convolution whose weights are ±α per output channel, of the signs of its input.

    y = α · Σ sign(w) · sign(x) + b,   the sum exact, product and sum rounded once each
    costs 1 bit a weight and one α a channel. The input may also be packed already (`binary.binarize`, `BinaryConvBits`).
    `pad` is what stands outside the image: 0 as in PyTorch, or −1 or +1.       Rastegari et al. 2016, arXiv:1603.05279
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, channels: int, window: Window, pad: int = 0) -> None:
        super().__init__()
        self.channels, self.window, self.pad = channels, window, pad
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, conv: nn.Conv2d, pad: int = 0) -> BinaryConv2d:
        """A layer whose weights have one magnitude in each output channel, and whose input maps, if any, are the sign.

        Raises `ModelError` for any other.
        """
        _check_signs(conv)
        weight = _weight(conv)
        scale = weight.flatten(1).abs().amax(1)
        _check_magnitudes(weight, weight.abs() == scale.view(-1, 1, 1, 1), "±α")
        bias = None if conv.bias is None else conv.bias.detach().clone()
        return cls(pack(weight >= 0), scale, bias, conv.in_channels, Window.of(conv), pad)

    def numbers(self) -> tuple[object, ...]:
        """What the operations are told besides tensors."""
        w = self.window
        return self.channels, w.kernel, w.stride, w.padding, w.dilation, w.groups, self.pad

    def products(self) -> int:
        """How many products an output sums up."""
        return self.channels // self.window.groups * self.window.kernel[0] * self.window.kernel[1]

    def forward(self, x: Tensor) -> Tensor:
        bits = x if x.dtype == torch.uint8 else torch.ops.lilliput.binarize(x)
        output: Tensor = torch.ops.lilliput.binary_conv2d(bits, self.weight, self.scale, self.bias, *self.numbers())
        return output

    def signs(self) -> Tensor:
        """The signs ±1 of the weights, (out, in / groups, kh, kw)."""
        return unpack(self.weight, self.channels // self.window.groups)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.weight.shape[0]}, {self.window}, pad={self.pad}"


class TernaryConv2d(BinaryConv2d):
    """A convolution whose weights are −α, 0 or +α per output channel, of the signs of its input.

    y = α · Σ t(w) · sign(x) + b,   t(w) in {−1, 0, +1}, the sum exact, product and sum rounded once each
    costs 2 bits a weight and one α a channel; all else is as in `BinaryConv2d`.       Li & Liu 2016, arXiv:1605.04711
    """

    mask: Tensor

    def __init__(
        self, weight: Tensor, mask: Tensor, scale: Tensor, bias: Tensor | None, channels: int, window: Window, pad: int = 0
    ) -> None:
        super().__init__(weight, scale, bias, channels, window, pad)
        self.register_buffer("mask", mask)

    @classmethod
    def of(cls, conv: nn.Conv2d, pad: int = 0) -> TernaryConv2d:
        """A layer whose weights are 0 or have one magnitude in each output channel, and whose input maps, if any, are the sign.

        Raises `ModelError` for any other.
        """
        _check_signs(conv)
        weight = _weight(conv)
        scale = weight.flatten(1).abs().amax(1)
        _check_magnitudes(weight, (weight == 0) | (weight.abs() == scale.view(-1, 1, 1, 1)), "0 and ±α")
        bias = None if conv.bias is None else conv.bias.detach().clone()
        return cls(pack(weight >= 0), pack(weight != 0), scale, bias, conv.in_channels, Window.of(conv), pad)

    def forward(self, x: Tensor) -> Tensor:
        bits = x if x.dtype == torch.uint8 else torch.ops.lilliput.binarize(x)
        output: Tensor = torch.ops.lilliput.ternary_conv2d(bits, self.weight, self.mask, self.scale, self.bias, *self.numbers())
        return output

    def signs(self) -> Tensor:
        """What the weights are times α: −1, 0 or +1, (out, in / groups, kh, kw)."""
        return super().signs().where(unpack(self.mask, self.channels // self.window.groups) > 0, 0)


class BinaryConvBits(nn.Module):
    """A binary or ternary convolution, all that follows it up to the next sign, and that sign: packed in, packed out.

    y = 1 where (Σ sign(w) · sign(x) ≥ t) ≠ f,   t a whole number and f a bit per output channel
    """

    weight: Tensor
    mask: Tensor | None
    least: Tensor
    flip: Tensor

    def __init__(self, conv: BinaryConv2d, least: Tensor, flip: Tensor) -> None:
        super().__init__()
        self.channels, self.window, self.pad = conv.channels, conv.window, conv.pad
        self.told = conv.numbers()
        self.register_buffer("weight", conv.weight.clone())
        self.register_buffer("mask", conv.mask.clone() if isinstance(conv, TernaryConv2d) else None)
        self.register_buffer("least", least)
        self.register_buffer("flip", flip)

    @classmethod
    def of(cls, conv: BinaryConv2d, *after: Callable[[Tensor], Tensor]) -> BinaryConvBits:
        """What `conv`, then each of `after`, then the sign computes: batch norms in eval mode, clips, shifts, each acting on a
        channel by itself. Raises `ModelError` where a channel's sign changes more than once.
        """

        def rest(dots: Tensor) -> Tensor:
            x = dots * conv.scale.view(-1, 1, 1)
            x = x if conv.bias is None else x + conv.bias.view(-1, 1, 1)
            for each in after:
                x = each(x)
            return x

        return cls(conv, *thresholds(rest, conv.weight.shape[0], conv.products()))

    def forward(self, x: Tensor) -> Tensor:
        bits = x if x.dtype == torch.uint8 else torch.ops.lilliput.binarize(x)
        ops, sides = torch.ops.lilliput, (self.least, self.flip, *self.told)
        output: Tensor = (
            ops.binary_conv2d_bits(bits, self.weight, *sides)
            if self.mask is None
            else ops.ternary_conv2d_bits(bits, self.weight, self.mask, *sides)
        )
        return output


class Int4Conv2d(nn.Module):
    """A convolution of bytes by weights of four bits: what 8-bit activations and weights of at most sixteen levels compute.

    y = s · α · Σ k(w) · (q(x) − z) + b,   k in −8 … 7, q(x) = clamp(round(x / s) + z, 0, 255), the sum exact
    costs 4 bits a weight and one α a channel. The input may also be bytes q(x) already. Ternary weights are levels −1, 0, +1,
    of which 16-bit sums hold more than of larger ones.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, levels: Tensor, scale: Tensor, bias: Tensor | None, window: Window, step: float, zero: int = 0) -> None:
        super().__init__()
        self.channels, self.window, self.step, self.zero = levels.shape[1] * window.groups, window, step, zero
        self.register_buffer("weight", int4.pack(levels))
        self.register_buffer("scale", scale * step)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @classmethod
    def of(cls, conv: nn.Conv2d, scale: Tensor, step: float, zero: int = 0) -> Int4Conv2d:
        """A layer whose weights are whole multiples, from −8 to 7, of `scale` (one a channel), for inputs that are whole
        multiples of `step`. Raises `ModelError` for any other, and for maps on the input.
        """
        if len(getattr(conv, "input_maps", ())):
            raise ModelError("the input has maps. Leave them outside, and say their step and zero here")
        weight = _weight(conv)
        levels = torch.round(weight / scale.view(-1, 1, 1, 1))
        off = (levels * scale.view(-1, 1, 1, 1) - weight).abs() > 1e-6 * weight.abs()
        if bool(off.any()) or float(levels.min()) < -8 or float(levels.max()) > 7:
            raise ModelError(
                f"`{int(off.sum())}` weights are no multiples of their scale, and levels go from `{int(levels.min())}` to "
                f"`{int(levels.max())}` where −8 to 7 have room. Quantize the weights to four bits and bake the model first"
            )
        return cls(levels, scale, conv.bias, Window.of(conv), step, zero)

    def forward(self, x: Tensor) -> Tensor:
        w = self.window
        if x.dtype != torch.uint8:
            x = torch.clamp(torch.round(x / self.step) + self.zero, 0, 255).to(torch.uint8)
        output: Tensor = torch.ops.lilliput.int4_conv2d(
            x, self.weight, self.scale, self.bias, self.channels, w.kernel, w.stride, w.padding, w.dilation, w.groups, self.zero
        )
        return output

    def levels(self) -> Tensor:
        """The whole numbers of the weights, (out, in / groups, kh, kw)."""
        return int4.unpack(self.weight, self.channels // self.window.groups)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.weight.shape[0]}, {self.window}, step={self.step:g}, zero={self.zero}"


class SparseConv2d(nn.Module):
    """A convolution that stores and multiplies only the weights that are not zero.

    costs 8 bytes a non-zero, and time in proportion to their number.       Elsen et al. 2020, arXiv:1911.09723
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, window: Window) -> None:
        super().__init__()
        self.window, self.shape = window, tuple(weight.shape)
        _keep(self, weight, bias)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> SparseConv2d:
        """The same function as this layer."""
        return cls(_weight(conv), conv.bias, Window.of(conv))

    def forward(self, x: Tensor) -> Tensor:
        w = self.window
        output: Tensor = torch.ops.lilliput.sparse_conv2d(
            x, self.rows, self.columns, self.values, self.bias, w.kernel, w.stride, w.padding, w.dilation, w.groups
        )
        return output

    def dense(self) -> Tensor:
        """The weight with its zeros."""
        return sparse.expand(self.rows, self.columns, self.values, self.shape)

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.values.numel()} non-zeros, {self.window}"


class SparseLinear(nn.Module):
    """A linear layer that stores and multiplies only the weights that are not zero."""

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        _keep(self, weight, bias)

    @classmethod
    def of(cls, linear: nn.Linear) -> SparseLinear:
        """The same function as this layer."""
        return cls(_weight(linear), linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.lilliput.sparse_linear(x, self.rows, self.columns, self.values, self.bias)
        return output

    def dense(self) -> Tensor:
        """The weight with its zeros."""
        return sparse.expand(self.rows, self.columns, self.values, self.shape)


def pack_sparse(model: nn.Module, zeros: float = BREAK_EVEN) -> nn.Module:
    """A copy of a model in eval mode whose convolutions and linear layers with at least this share of zeros are packed.

    Depthwise convolutions, and layers with maps on their inputs, stay as they are.
    """
    return _replaced(model, lambda module: _sparse(module, zeros))


def pack_binary(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode whose convolutions of signs by one magnitude a channel are packed.

    Those are convolutions whose input maps are the sign; their weights may be mapped or baked. Others stay as they are.
    """
    return _replaced(model, lambda module: _signed(module, BinaryConv2d))


def pack_ternary(model: nn.Module) -> nn.Module:
    """The same for convolutions of signs by 0 and one magnitude a channel."""
    return _replaced(model, lambda module: _signed(module, TernaryConv2d))


def _replaced(model: nn.Module, choose: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    made = copy.deepcopy(model).eval()
    for name, module in list(made.named_modules()):
        layer = choose(module)
        if layer is None:
            continue
        if not name:
            return layer
        parent, _, child = name.rpartition(".")
        setattr(made.get_submodule(parent), child, layer)
    return made


def _signed(module: nn.Module, kind: type[BinaryConv2d]) -> nn.Module | None:
    if not isinstance(module, MappedConv2d) or not len(module.input_maps):
        return None
    try:
        return kind.of(module)
    except ModelError:
        return None


def _check_signs(conv: nn.Conv2d) -> None:
    probe = torch.tensor([-2.0, -1.0, -0.1, -0.0, 0.0, 0.1, 1.0, 2.0]).view(1, 1, 1, -1).repeat(1, conv.in_channels, 1, 1)
    maps = getattr(conv, "input_maps", ())
    found = probe
    with torch.no_grad():
        for each in maps:
            found = copy.deepcopy(each).eval()(found)
    if len(maps) and not torch.equal(found, (probe >= 0) * 2.0 - 1):
        raise ModelError(
            f"the input maps give `{found[0, 0, 0].tolist()}` for `{probe[0, 0, 0].tolist()}`, and a binary layer takes signs. "
            "Leave this layer as it is"
        )


def _check_magnitudes(weight: Tensor, good: Tensor, belong: str) -> None:
    odd = ~good.flatten(1).all(1)
    if bool(odd.any()):
        channel = int(odd.int().argmax())
        found = weight[channel].abs()
        raise ModelError(
            f"channel `{channel}` has weights of magnitudes `{float(found.min()):g}` to `{float(found.max()):g}`, and here "
            f"they are {belong}, one α a channel. Quantize the weights and bake the model first"
        )


def _sparse(module: nn.Module, zeros: float) -> nn.Module | None:
    if not isinstance(module, nn.Conv2d | nn.Linear) or len(getattr(module, "input_maps", ())):
        return None
    weight = _weight(module)
    if float((weight == 0).float().mean()) < zeros:
        return None
    if isinstance(module, nn.Linear):
        return SparseLinear.of(module)
    depthwise = module.groups > 1 and module.groups == module.in_channels
    return None if depthwise or module.padding_mode != "zeros" or isinstance(module.padding, str) else SparseConv2d.of(module)


def _weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
    weight = layer.mapped_weight() if isinstance(layer, MappedConv2d | MappedLinear) else layer.weight
    return weight.detach().float()


def _keep(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    for name, tensor in zip(("rows", "columns", "values"), sparse.compress(weight), strict=True):
        layer.register_buffer(name, tensor)
    layer.register_buffer("bias", None if bias is None else bias.detach().clone())
