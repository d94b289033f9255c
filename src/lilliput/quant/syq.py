"""SYQ: symmetric codes with scales finer than a channel, one for each position of the kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lilliput.core.maps import Codes, Quantizer, maps
from lilliput.errors import EditError, UnknownName
from lilliput.quant.straight import straight

GROUPS = ("layer", "row", "pixel")


@maps.register("syq")
class Symmetric(Quantizer):
    r"""Weights on 2^b − 1 symmetric levels, multiplied by a learned scale for each row or pixel of the kernel.

    q = clamp(round(w / d), −m, m),   ŵ = α_p·q,   m = 2^(b−1) − 1,   d = 2·η where b is 2, else max|w| / m
    ∂ŵ/∂w = α_p / d where |w| ≤ (m + ½)·d, else 0;   ∂ŵ/∂α_p = Σ q over the weights that share it
    α_p starts at the least squares fit. η = 0.05·max|w|, the threshold below which a ternary weight is 0.
    costs b bits a weight, and 32 bits for each α: kh of them for `group="row"`, kh·kw for "pixel", 1 for "layer".
    Faraone et al. 2018, arXiv:1807.00301. Linear layers, whose kernel is one pixel, have one α.
    """

    name = "syq"
    step: Tensor

    def __init__(self, bits: int, shape: Sequence[int], tensor: Tensor) -> None:
        super().__init__()
        self.bits, self.high = bits, 2 ** (bits - 1) - 1
        self.register_buffer("step", tensor.new_ones(()))
        self.scale = nn.Parameter(tensor.new_ones(tuple(shape)))

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 2, group: str = "pixel") -> Symmetric:  # type: ignore[override] # its own spec
        """The map for a weight of this shape."""
        if bits not in range(2, 9):
            raise EditError(f"`bits` (={bits}) is not a width of SYQ; there are 2 to 8")
        if group not in GROUPS:
            raise EditError(str(UnknownName("group of SYQ", group, GROUPS)))
        kernel = tensor.shape[2:] if tensor.dim() == 4 else (1, 1)
        shape = {"layer": (1, 1), "row": (kernel[0], 1), "pixel": tuple(kernel)}[group]
        return cls(bits, (1, 1, *shape) if tensor.dim() == 4 else (1, 1), tensor)

    def absorb(self, tensor: Tensor) -> None:
        """The step from the largest weight, the scales by least squares."""
        if not torch.isfinite(tensor).all():
            raise EditError("the weight holds NaN or infinity, which no scale fits")
        largest = tensor.abs().max().clamp(min=1e-30)
        self.step.copy_(0.1 * largest if self.bits == 2 else largest / self.high)
        codes = self._codes(tensor)
        least = self._sum(codes * tensor) / self._sum(codes.square()).clamp(min=1e-30)
        self.scale.data.copy_(torch.where(least > 0, least, self.step))

    def forward(self, w: Tensor) -> Tensor:
        codes = (w / self.step).clamp(-self.high - 0.5, self.high + 0.5)
        return straight(self._codes(w.detach()), codes) * self.scale

    def encode(self, tensor: Tensor) -> Codes:
        """Whole numbers, and the scales."""
        return Codes(self._codes(tensor.detach()).to(torch.int8), -self.high, self.high, {"scale": self.scale.detach()})

    def decode(self, codes: Codes) -> Tensor:
        return codes.values.float() * codes.side["scale"]

    def extra_repr(self) -> str:
        return f"bits={self.bits}, scales={self.scale.numel()}"

    def _codes(self, w: Tensor) -> Tensor:
        return torch.round(w / self.step).clamp(-self.high, self.high)

    def _sum(self, x: Tensor) -> Tensor:
        """Sums over the weights that share a scale."""
        return x.sum_to_size(self.scale.shape)
