"""Inputs of one bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lilliput.core.maps import Codes, maps, take
from lilliput.errors import EditError
from lilliput.quant.binary import Decaying
from lilliput.quant.schemes import Scheme, channels, plain, schemes
from lilliput.quant.straight import Coded, signs, sloped, within

GRADIENTS = ("clip", "polynomial", "decay")


def tent(x: Tensor) -> Tensor:
    """2 − 2|x| within [−1, 1], else 0: the slope of −1, 2x + x², 2x − x², 1, Bi-Real's approximation of the sign."""
    return x.abs().neg_().add_(1).clamp_(min=0).mul_(2)


@maps.register("sign")
class Sign(Decaying, Coded):
    r"""Inputs become −1 or 1; zeros count as positive.

    q(x) = sign(x),   ∂q/∂x by `gradient`:
    clip        1 where |x| ≤ 1, else 0                 Courbariaux et al. 2016, arXiv:1602.02830
    polynomial  2 − 2|x| where |x| ≤ 1, else 0          Liu et al. 2018, arXiv:1808.00278
    decay       k·t·(1 − tanh²(t·x)), k = max(1/t, 1)   Qin et al. 2020, arXiv:1909.10788
    costs 1 bit an element.
    """

    name = "sign"
    bits = 1.0

    def __init__(self, gradient: str) -> None:
        super().__init__()
        self.gradient = gradient

    @classmethod
    def like(cls, tensor: Tensor, gradient: str = "clip") -> Sign:  # type: ignore[override] # its own spec
        if gradient not in GRADIENTS:
            raise EditError(f"`gradient` (={gradient}) is one of {', '.join(GRADIENTS)}")
        return cls(gradient)

    def forward(self, x: Tensor) -> Tensor:
        return sloped(self.hard(x.detach()), x, self.slope)

    def hard(self, x: Tensor) -> Tensor:
        return signs(x)

    def slope(self, x: Tensor) -> Tensor:
        """∂q/∂x."""
        if self.gradient == "clip":
            return within(x, 1)
        return tent(x) if self.gradient == "polynomial" else self.decay(x)

    def encode(self, tensor: Tensor) -> Codes:
        return Codes((signs(tensor.detach()) > 0).to(torch.uint8), 0, 1)

    def decode(self, codes: Codes) -> Tensor:
        return codes.values.float() * 2 - 1


@maps.register("rsign")
class RSign(Coded):
    r"""Inputs become −1 or 1 at a threshold that each channel learns.

    q(x) = sign(x − β_c),   ∂q/∂x = −∂q/∂β_c = 2 − 2|x − β_c| where |x − β_c| ≤ 1, else 0
    costs 1 bit an element plus one β a channel. Not idempotent where a threshold lies outside [−1, 1].
    channels: how many there are; axis: their dimension.       Liu et al. 2020, arXiv:2003.03488.
    """

    name = "rsign"
    bits = 1.0

    def __init__(self, threshold: Tensor, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.threshold = nn.Parameter(threshold)

    @classmethod
    def like(cls, tensor: Tensor, channels: int, axis: int = 1) -> RSign:  # type: ignore[override] # its own spec
        return cls(tensor.new_zeros(channels), axis)

    def forward(self, x: Tensor) -> Tensor:
        return sloped(self.hard(x.detach()), x - self._spread(x.dim()), tent)

    def hard(self, x: Tensor) -> Tensor:
        return signs(x - self._spread(x.dim()).detach()).to(x.dtype)

    def encode(self, tensor: Tensor) -> Codes:
        return Codes((self.hard(tensor.detach()) > 0).to(torch.uint8), 0, 1, {"threshold": self.threshold})

    def decode(self, codes: Codes) -> Tensor:
        return codes.values.float() * 2 - 1

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        self.threshold = nn.Parameter(take(self.threshold, 0, keep), self.threshold.requires_grad)

    def _spread(self, dims: int) -> Tensor:
        return self.threshold.view([-1 if d == self.axis % dims else 1 for d in range(dims)])


schemes.add("birealnet", Scheme("birealnet", plain, (1,), 1, "sign", lambda *_: {"gradient": "polynomial"}, (1,), 1))
schemes.add("irnet", Scheme("irnet", plain, (1,), 1, "sign", lambda *_: {"gradient": "decay"}, (1,), 1))
schemes.add("reactnet", Scheme("birealnet", plain, (1,), 1, "rsign", channels, (1,), 1))
