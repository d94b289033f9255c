"""Integer quantizers whose step is learned with the weights: they start where calibration leaves off, and training moves them.

They are `Affine` in all that is stored and exported, so a trained network deploys like a calibrated one (`quant.Fold`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.core.maps import maps, take
from lilliput.quant.integer import Affine
from lilliput.quant.straight import straight


class Learned(Affine):
    """An `Affine` whose scale is a parameter. It stays positive: what is read is max(|s|, tiny)."""

    scale: Tensor
    shifts: ClassVar[bool] = False

    def __init__(self, bits: int, signed: bool, axis: int | None, scale: Tensor, zero: Tensor) -> None:
        super().__init__(bits, signed, axis, scale, zero)
        del self.scale
        self.scale = nn.Parameter(scale)
        if self.shifts:
            del self.zero
            self.zero = nn.Parameter(zero)

    @classmethod
    def like(  # type: ignore[override] # no rounding by chance
        cls,
        tensor: Tensor,
        bits: int = 8,
        signed: bool = True,
        axis: int | None = None,
        scale: float | Sequence[float] | None = None,
        zero: int | Sequence[int] = 0,
        range: str = "mse",
    ) -> Learned:
        """The quantizer for a tensor of this shape, with the step it starts from."""
        return super().like(tensor, bits, signed, axis, scale, zero, range)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.scale.dtype)  # half precision rounds elsewhere, and operations on two types are ten times slower
        scale, zero = self._spread(x)
        if not torch.is_grad_enabled():
            return (torch.round(x / scale).add(zero).clamp(self.low, self.high) - zero) * scale
        return self._learn(x, scale, zero)

    def _learn(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        raise NotImplementedError

    def _spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale, zero = super()._spread(x)
        scale = scale.abs().clamp(min=torch.finfo(scale.dtype).tiny)
        return scale, (straight(zero.detach().round().clamp(self.low, self.high), zero) if self.shifts else zero)

    def settled(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as a plain `Affine` has them."""
        scale = self.scale.detach().abs().clamp(min=torch.finfo(self.scale.dtype).tiny)
        zero = self.zero.detach().round().clamp(self.low, self.high) if self.shifts else self.zero.detach()
        return scale.clone(), zero.clone()

    def encode(self, tensor: Tensor) -> Any:
        scale, zero = self.settled()
        plain = Affine(int(self.bits), self.signed, self.axis, scale, zero)
        return plain.encode(tensor)

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        if dim == self.axis:
            self.scale = nn.Parameter(take(self.scale, 0, keep), self.scale.requires_grad)
            zero = take(self.zero, 0, keep)
            self.zero = nn.Parameter(zero, self.zero.requires_grad) if self.shifts else zero


@maps.register("lsq")
class Step(Learned):
    """LSQ: the step is learned by the gradient of the rounding error itself.

    x̂ as `Affine`;  ∂x̂/∂s = q − z − x/s inside low..high, low − z or high − z outside;  ∂x̂/∂x as `Affine`
    The gradient of s is multiplied by 1/√(n·high), n the elements that share it (of one image): it learns as fast as weights.
    Esser et al. 2020, arXiv:1902.08153.
    """

    name = "lsq"

    def _learn(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        elements = x.numel() / self.scale.numel() if self.signed else x[0].numel()
        slow = (elements * max(self.high, 1)) ** -0.5
        return _LearnedStep.apply(x, scale, zero, self.low, self.high, slow)  # type: ignore[no-any-return]


@maps.register("lsq+")
class StepAndShift(Step):
    """LSQ+: as LSQ, with a zero point that is learned too: ∂x̂/∂z = −s outside low..high, else 0.

    Bhalgat et al. 2020, arXiv:2004.09576. The zero point is rounded, so that integer kernels can have it.
    """

    name = "lsq+"
    shifts = True


@maps.register("pact")
class Clip(Learned):
    """PACT: the level at which activations are clipped is learned by what it clips.

    x̂ = round(clamp(x, 0, α)·(2^b − 1)/α)·α/(2^b − 1),   α = s·(2^b − 1)          (z moves both ends where it is not 0)
    ∂x̂/∂α = 1 where x ≥ α, else 0;   ∂x̂/∂x = 1 inside, else 0
    Choi et al. 2018, arXiv:1805.06085. Weight decay on α, which the paper uses, is left out.
    """

    name = "pact"

    def _learn(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        high, low = (self.high - zero) * scale, (self.low - zero) * scale
        cut = torch.minimum(torch.maximum(x, low), high)
        with torch.no_grad():
            made = (torch.round(x / scale).add(zero).clamp(self.low, self.high) - zero) * scale
        return straight(made, cut)


class _LearnedStep(torch.autograd.Function):
    """x̂ of `Affine` with the gradients of LSQ, by hand: with r = round(x/s) + z and g inside low..high and 0 outside called h,

    ∂x = h,   ∂s = Σ g·(clamp(r) − z) − Σ h·x/s,   ∂z = −s·(Σ g − Σ h),   the last two times `slow`
    which takes no masks; autograd passes over x three times as often, and keeps five tensors of its size instead of one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, slow: float) -> Tensor:
        ratio = x / scale
        ctx.save_for_backward(ratio, scale, zero)
        ctx.bounds, ctx.slow = (low, high), slow
        return ratio.round().add_(zero).clamp_(low, high).sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override] # one a tensor
        ratio, scale, zero = ctx.saved_tensors
        low, high = ctx.bounds
        rounded = ratio.round().add_(zero)
        inside = torch.ops.aten.hardtanh_backward(grad, rounded, low - 0.5, high + 0.5)
        codes = rounded.clamp_(low, high).sub_(zero)
        step = codes.mul_(grad).sum_to_size(scale.shape) - ratio.mul(inside).sum_to_size(scale.shape)
        shift = None
        if ctx.needs_input_grad[2]:
            shift = (inside - grad).sum_to_size(zero.shape) * scale * ctx.slow
        return inside, step * ctx.slow, shift, None, None, None
