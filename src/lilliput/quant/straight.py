"""Values in front, another function's gradient behind: how quantizers learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lilliput.core.maps import Quantizer
from lilliput.errors import EditError


class _Straight(torch.autograd.Function):
    """The first tensor, with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, soft: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override] # one a tensor
        return None, grad


def straight(value: Tensor, soft: Tensor) -> Tensor:
    """`value` to the last bit; the gradient is that of `soft`.

    Written as soft + (value − soft) it would be rounded twice, and what a file decodes would not be what was computed.

    >>> x = torch.tensor([-0.3, 0.2], requires_grad=True)
    >>> straight(x.detach().sign(), 2 * x)
    tensor([-1.,  1.], grad_fn=<_StraightBackward>)
    """
    return _Straight.apply(value, soft) if soft.requires_grad else value  # type: ignore[no-any-return]


class _Sloped(torch.autograd.Function):
    """The second tensor, with the incoming gradient times a slope for the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override] # one a tensor
        (x,) = ctx.saved_tensors
        return grad * ctx.slope(x), None, None


def sloped(value: Tensor, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    """`value` to the last bit; the gradient of x is the incoming one times `slope(x)`.

    For activations: `straight` would compute a function forwards whose value nobody reads, and its gradient op by op.

    >>> x = torch.tensor([-0.3, 0.2], requires_grad=True)
    >>> sloped(signs(x.detach()), x, lambda x: 2 - 2 * x.abs()).sum().backward()
    >>> x.grad
    tensor([1.4000, 1.6000])
    """
    return _Sloped.apply(x, value, slope) if x.requires_grad and torch.is_grad_enabled() else value  # type: ignore[no-any-return]


def signs(x: Tensor) -> Tensor:
    """−1 or 1, in the type of x; zeros count as positive. `torch.where` is far slower in bfloat16."""
    return x.sign().add_(0.5).sign_()


def within(x: Tensor, bound: float) -> Tensor:
    """1 where |x| ≤ bound, else 0, in the type of x: the slope of clipping."""
    return (x.abs() <= bound).to(x.dtype)


class Coded(Quantizer):
    """Base of the quantizers whose value is what their codes decode to, by construction.

    Subclasses write `encode`, `decode` and `soft`, whose gradient stands in for the one that steps do not have; those of
    activations write `forward` with `sloped` instead.
    """

    def forward(self, x: Tensor) -> Tensor:
        value = self.hard(x.detach())
        return straight(value, self.soft(x)) if torch.is_grad_enabled() else value

    def hard(self, x: Tensor) -> Tensor:
        """The quantized tensor."""
        return self.decode(self.encode(x))

    def soft(self, x: Tensor) -> Tensor:
        """A tensor with the gradient that is used; the identity by default."""
        return x

    def absorb(self, tensor: Tensor) -> None:
        """Refuse what no levels fit; subclasses compute theirs."""
        if not torch.isfinite(tensor).all():
            raise EditError("the weight holds NaN or infinity, which no levels fit")

    def extra_repr(self) -> str:
        return f"bits={self.bits:g}"


def mean_magnitude(w: Tensor, axis: int | None) -> Tensor:
    """mean|w|, in a shape that broadcasts: over all of w, or over all but dimension `axis`.

    Summed in float64, in which the mean of equal float32 numbers is that number: so quantizing again changes nothing.
    """
    return mean(w.abs(), axis)


def mean(w: Tensor, axis: int | None) -> Tensor:
    """The mean, as in `mean_magnitude`."""
    return w.double().mean(others(w, axis), keepdim=True).to(w.dtype)


def others(w: Tensor, axis: int | None) -> list[int]:
    """All dimensions but one."""
    return [d for d in range(w.dim()) if d != axis]


def thinned(x: Tensor, most: int = 1 << 16) -> Tensor:
    """About `most` numbers of a tensor, evenly. The stride is odd, or whole columns of images would never be seen."""
    return x.flatten()[:: max(1, x.numel() // most) | 1]


def check_axis(axis: int | None) -> None:
    """Raise `EditError` for anything but one scale a filter (0) or a layer (None)."""
    if axis not in (0, None):
        raise EditError(f"`axis` (={axis}) is 0, one scale a filter, or none, one for the layer")


def check_bits(bits: int, widths: tuple[int, ...], who: str) -> None:
    """Raise `EditError` for a width that a quantizer does not have."""
    if bits not in widths:
        raise EditError(f"`{who}` has no `bits` (={bits}); there are {', '.join(map(str, widths))}")
