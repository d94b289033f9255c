"""Weights of three values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lilliput.core.maps import Codes, maps
from lilliput.errors import EditError
from lilliput.quant.schemes import ENDS, Scheme, plain, schemes
from lilliput.quant.straight import Coded, check_axis, mean_magnitude, others


@maps.register("twn")
class Twn(Coded):
    r"""Weights become −α, 0 or α.

    q(w) = α·sign(w)·[|w| > Δ],   Δ = 0.7·mean|w|,   α = mean{|w| : |w| > Δ}
    ∂q/∂w = 1 where |w| ≤ 1, else 0          (straight-through)
    costs 2 bits a weight plus one α a layer, or a filter (`axis` 0).
    Δ is near the least-squares optimum of normal and of uniform weights; α is the optimum for this Δ.
    Li and Liu 2016, arXiv:1605.04711.
    """

    name = "twn"
    bits = 2.0

    def __init__(self, axis: int | None) -> None:
        super().__init__()
        self.axis = axis

    @classmethod
    def like(cls, tensor: Tensor, axis: int | None = None) -> Twn:  # type: ignore[override] # its own spec
        check_axis(axis)
        return cls(axis)

    def encode(self, tensor: Tensor) -> Codes:
        w = tensor.detach()
        threshold = 0.7 * mean_magnitude(w, self.axis)
        large = w.abs() > threshold
        total = (w.abs().double() * large).sum(others(w, self.axis), keepdim=True)
        scale = (total / large.sum(others(w, self.axis), keepdim=True).clamp(min=1)).to(w.dtype)
        return Codes((w.sign() * large).to(torch.int8), -1, 1, {"scale": scale})

    def decode(self, codes: Codes) -> Tensor:
        scale = codes.side["scale"]
        return codes.values.to(scale.dtype) * scale

    def soft(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)


@maps.register("ttq")
class Ttq(Coded):
    r"""Weights become −n, 0 or p, and both scales are learned.

    q(w) = p where w > Δ, −n where w < −Δ, else 0,   Δ = t·max|w|
    ∂q/∂w = p, n or 1 in the three ranges,   ∂L/∂p = Σ_{w>Δ} g / √N,   ∂L/∂n = −Σ_{w<−Δ} g / √N
    The paper has the sums alone, and Adam; over the root of the layer's N weights the scales learn as fast as weights do.
    costs 2 bits a weight plus p and n. A weight that is −n, 0 or p already stays what it is.
    threshold: t, the share of the largest weight below which weights are zero. p and n begin as the means of what they
    stand for.       Zhu et al. 2016, arXiv:1612.01064.
    """

    name = "ttq"
    bits = 2.0

    def __init__(self, threshold: float, scales: Tensor) -> None:
        super().__init__()
        self.threshold = threshold
        self.scales = nn.Parameter(scales)

    @classmethod
    def like(cls, tensor: Tensor, threshold: float = 0.05) -> Ttq:  # type: ignore[override] # its own spec
        if not 0 <= threshold < 1:
            raise EditError(f"`threshold` (={threshold}) is a share of the largest weight, from 0 and below 1")
        return cls(threshold, tensor.new_ones(2))

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        above, below = self._ranges(tensor)
        for place, (part, sign) in enumerate(((above, 1.0), (below, -1.0))):
            if part.any():
                self.scales.data[place] = sign * tensor[part].mean()

    def encode(self, tensor: Tensor) -> Codes:
        w, (p, n) = tensor.detach(), self.scales.detach()
        above, below = self._ranges(w)
        codes = above.to(torch.int8) - below.to(torch.int8)
        codes = torch.where(w == p, 1, torch.where(w == -n, -1, codes)).to(torch.int8)
        return Codes(codes.masked_fill(w == 0, 0), -1, 1, {"scales": self.scales})

    def decode(self, codes: Codes) -> Tensor:
        p, n = self.scales.detach()
        return torch.where(codes.values > 0, p, torch.where(codes.values < 0, -n, torch.zeros_like(p)))

    def soft(self, x: Tensor) -> Tensor:
        calm = self.scales / x.numel() ** 0.5
        p, n = calm + (self.scales - calm).detach()
        above, below = self._ranges(x.detach())
        slope = torch.where(above, p.detach(), torch.where(below, n.detach(), torch.ones_like(n.detach())))
        return p * above - n * below + slope * x

    def _ranges(self, w: Tensor) -> tuple[Tensor, Tensor]:
        limit = self.threshold * w.abs().max()
        return w > limit, w < -limit


schemes.add("twn", Scheme("twn", plain, (2,), 2, skip=ENDS))
schemes.add("ttq", Scheme("ttq", plain, (2,), 2, skip=ENDS))
