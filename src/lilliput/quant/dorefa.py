"""DoReFa: weights, activations and gradients on few bits while a network trains.

    quantize_k(r) = round(r·(2^k − 1)) / (2^k − 1)      for r in [0, 1]

Zhou et al. 2016, arXiv:1606.06160.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lilliput.core.maps import Codes, Mapping, Quantizer, maps
from lilliput.errors import EditError
from lilliput.quant.integer import Affine
from lilliput.quant.straight import straight


@maps.register("dorefa")
class Squashed(Quantizer):
    """Weights of a layer on 2^k levels from −1 to 1, all kernels by one rule.

    ŵ = 2·quantize_k( tanh(w) / (2·max|tanh(w)|) + ½ ) − 1,     k = 1: ŵ = sign(w)·E|w|
    ∂ŵ/∂w through tanh and the maximum, straight through the rounding; for k = 1 straight through.
    costs k bits a weight and, for k = 1, one number a layer.
    """

    name = "dorefa"

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.last = bits, 2**bits - 1

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 4) -> Squashed:  # type: ignore[override] # its own spec
        """The map; its one number is computed anew each time."""
        if bits not in range(1, 9):
            raise EditError(f"`bits` (={bits}) is not a width of DoReFa's weights; there are 1 to 8")
        return cls(bits)

    def forward(self, w: Tensor) -> Tensor:
        if self.bits == 1:
            return straight(torch.where(w >= 0, 1.0, -1.0) * w.detach().abs().mean(), w)
        r = self._unit(w)
        return straight(torch.round(r.detach() * self.last), r * self.last) * 2 / self.last - 1

    def encode(self, tensor: Tensor) -> Codes:
        """Levels from 0; for one bit beside the mean magnitude."""
        w = tensor.detach()
        if self.bits == 1:
            return Codes((w >= 0).to(torch.uint8), 0, 1, {"scale": w.abs().mean()})
        return Codes(torch.round(self._unit(w) * self.last).to(torch.uint8), 0, self.last)

    def decode(self, codes: Codes) -> Tensor:
        if self.bits == 1:
            return torch.where(codes.values > 0, 1.0, -1.0) * codes.side["scale"]
        return codes.values.float() * 2 / self.last - 1

    def extra_repr(self) -> str:
        return f"bits={self.bits}"

    def _unit(self, w: Tensor) -> Tensor:
        """Weights in [0, 1]."""
        squashed = torch.tanh(w)
        return squashed / (2 * squashed.abs().max().clamp(min=1e-30)) + 0.5


@maps.register("dorefa_clip")
class Clipped(Affine):
    """Activations in [0, 1] on 2^k levels, however they were calibrated: x̂ = quantize_k(clamp(x, 0, 1)).

    With a scale of 1 / (2^k − 1) and no zero point it is an `Affine`, and exported as one.
    """

    name = "dorefa_clip"

    @classmethod
    def like(  # type: ignore[override] # its range is fixed
        cls, tensor: Tensor, bits: int = 8, signed: bool = False, scale: float = 1.0, zero: int = 0
    ) -> Affine:
        """The map; what calibration found of range and zero point is not used."""
        return super().like(tensor, bits, False, None, 1 / (2**bits - 1), 0)


@maps.register("dorefa_gradient")
class Gradient(Mapping):
    """Nothing on the way forward. On the way back the gradient of each image is put on 2^k levels, with noise.

    ĝ = 2m·( quantize_k( g/(2m) + ½ + n ) − ½ ),   m = max|g| of the image,   n = u/(2^k − 1), u uniform in [−½, ½]
    The noise is smaller than the error of rounding, and makes it right on average.
    """

    name = "dorefa_gradient"

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 6) -> Gradient:  # type: ignore[override] # its own spec
        """The map."""
        if bits not in range(2, 9):
            raise EditError(f"`bits` (={bits}) is not a width of gradients; there are 2 to 8")
        return cls(bits)

    def forward(self, x: Tensor) -> Tensor:
        able = x.requires_grad and torch.is_grad_enabled() and self.training
        return _Coarse.apply(x, 2**self.bits - 1) if able else x  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _Coarse(torch.autograd.Function):
    """The identity, whose gradient is rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, last: int) -> Tensor:
        ctx.last = last
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override] # of one output
        exact = grad.float()  # in fewer bits ½ + g/(2m) has no room for the levels
        most = exact.flatten(1).abs().amax(1).clamp(min=1e-30).view(-1, *[1] * (grad.dim() - 1))
        noisy = (exact / (2 * most) + 0.5) * ctx.last + (torch.rand_like(exact) - 0.5)
        return (2 * most * (noisy.round().clamp(0, ctx.last) / ctx.last - 0.5)).to(grad.dtype), None
