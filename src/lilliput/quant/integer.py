"""Integer quantizers: evenly spaced levels, as runtimes compute with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lilliput.core.maps import Codes, Quantizer, maps, take
from lilliput.errors import EditError
from lilliput.quant.scales import fit
from lilliput.quant.straight import straight

WIDTHS = (*range(2, 9), 16)


@maps.register("affine")
class Affine(Quantizer):
    r"""Evenly spaced levels, which the integers low..high stand for.

    q = clamp(round(x / s) + z, low, high),   x̂ = (q − z)·s         (halves round to even)
    ∂x̂/∂x = 1 where q is inside low..high, else 0                  (straight-through)
    costs b bits an element, and 32 bits for s (and for z, unless it is 0) a channel.

    signed: low..high is −(2^(b−1) − 1) .. 2^(b−1) − 1, so that the levels are symmetric; else 0 .. 2^b − 1.
    axis: the dimension that has scales of its own; none for one scale.
    scale, zero: s and z; without a scale they are computed from the tensor: by its largest magnitude (`range="max"`), with
    the least squared error ("mse"), or as powers of two ("power"). `pairs` keeps to scales at which x86 kernels cannot
    saturate (quant/scales).
    rounding: "nearest", or "stochastic": up with a probability equal to the fraction, in training mode; nearest in eval mode.
    Jacob et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342.
    """

    name = "affine"
    scale: Tensor
    zero: Tensor

    def __init__(self, bits: int, signed: bool, axis: int | None, scale: Tensor, zero: Tensor) -> None:
        super().__init__()
        self.bits, self.signed, self.axis = bits, signed, axis
        self.high: int = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.low: int = -self.high if signed else 0
        self.how: str | None = None
        self.pairs = self.stochastic = False
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    @classmethod
    def like(  # type: ignore[override] # its own spec
        cls,
        tensor: Tensor,
        bits: int = 8,
        signed: bool = True,
        axis: int | None = None,
        scale: float | Sequence[float] | None = None,
        zero: int | Sequence[int] = 0,
        range: str = "max",
        pairs: bool = False,
        rounding: str = "nearest",
    ) -> Affine:
        """The quantizer for a tensor of this shape."""
        _check(tensor, bits, axis, scale, range, signed)
        if pairs and axis not in (None, 0):
            raise EditError(f"`pairs` go with scales for each output channel or for all, not for `axis` (={axis})")
        channels = [] if axis is None else [tensor.shape[axis]]
        made = cls(bits, signed, axis, _buffer(tensor, scale or 1.0, channels), _buffer(tensor, zero, channels))
        made.how, made.pairs = (range if scale is None else None), pairs
        if rounding not in ("nearest", "stochastic"):
            raise EditError(f"`rounding` (={rounding}) is `nearest` or `stochastic`")
        made.stochastic = rounding == "stochastic"
        return made

    def absorb(self, tensor: Tensor) -> None:
        """Choose the scale, unless the spec did."""
        if self.how is not None:
            if not torch.isfinite(tensor).all():
                raise EditError("the weight holds NaN or infinity, which no scale fits")
            self.scale.copy_(fit(tensor, self.axis, (self.low, self.high), self.how, self.pairs))

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = self._spread(x)
        return (self._round(x / scale).add(zero).clamp(self.low, self.high) - zero) * scale

    def _round(self, x: Tensor) -> Tensor:
        """Whole numbers: in training by chance, where that is asked for. round(x + u − ½) = ⌊x + u⌋ for u in [0, 1)."""
        return _round(x + torch.rand_like(x) - 0.5 if self.stochastic and self.training else x)

    def encode(self, tensor: Tensor) -> Codes:
        """Integers in the smallest type that holds low..high. NaN has no code."""
        scale, zero = self._spread(tensor)
        levels = (torch.round(tensor.detach() / scale) + zero).clamp(self.low, self.high)
        side = {"scale": self.scale} | ({"zero": self.zero.to(torch.int32)} if bool((self.zero != 0).any()) else {})
        return Codes(levels.to(self.dtype), self.low, self.high, side)

    def decode(self, codes: Codes) -> Tensor:
        scale, zero = self._spread(codes.values)
        return (codes.values.to(scale.dtype) - zero) * scale

    def settled(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as they are computed with."""
        return self.scale.detach().clone(), self.zero.detach().clone()

    @property
    def dtype(self) -> torch.dtype:
        """The integer type of codes."""
        if self.bits <= 8:
            return torch.int8 if self.signed else torch.uint8
        return torch.int16 if self.signed else torch.int32

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        if dim == self.axis:
            self.scale, self.zero = take(self.scale, 0, keep), take(self.zero, 0, keep)

    def extra_repr(self) -> str:
        where = "" if self.axis is None else f", axis={self.axis}"
        return f"bits={self.bits}, signed={self.signed}{where}"

    def _spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point in a shape that broadcasts over x."""
        if self.axis is None:
            return self.scale, self.zero
        shape = [-1 if d == self.axis else 1 for d in range(x.dim())]
        return self.scale.view(shape), self.zero.view(shape)


def _round(x: Tensor) -> Tensor:
    return straight(torch.round(x.detach()), x)


def _buffer(tensor: Tensor, values: Any, channels: list[int]) -> Tensor:
    """Numbers of the spec as a float32 buffer, one a channel."""
    given = torch.tensor(values, dtype=torch.float32, device=tensor.device)
    if given.dim() and list(given.shape) != channels:
        raise EditError(f"`{given.numel()}` scales or zero points for `{channels[0] if channels else 1}` channels")
    return given.expand(channels).clone()


def _check(tensor: Tensor, bits: int, axis: int | None, scale: Any, how: str, signed: bool) -> None:
    if bits not in WIDTHS:
        raise EditError(f"`bits` (={bits}) is a width no integer quantizer has; there are 2 to 8 and 16")
    if axis is not None and not 0 <= axis < tensor.dim():
        raise EditError(f"`axis` (={axis}) is not a dimension of a tensor of shape {tuple(tensor.shape)}")
    if how not in ("max", "mse", "power"):
        raise EditError(f"`range` (={how}) is `max`, `mse` or `power`")
    if scale is None and not signed:
        raise EditError("an unsigned quantizer needs its `scale`; only signed ones are computed from the tensor")
    given = [] if scale is None else [scale] if isinstance(scale, int | float) else list(scale)
    if any(not 0 < s < float("inf") for s in given):
        raise EditError("a scale is a positive number")
