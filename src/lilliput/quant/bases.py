"""Several signs instead of one: stacked binary bases of weights and of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from lilliput.core.maps import Codes, maps
from lilliput.quant.clusters import line
from lilliput.quant.schemes import Scheme, plain, schemes
from lilliput.quant.straight import Coded, check_bits, signs, sloped, thinned, within
from lilliput.quant.table import Table

BASES = tuple(range(1, 6))


@maps.register("abcnet")
class AbcNet(Table):
    r"""Weights become a sum of scaled signs.

    q(w) = Σ_i α_i·B_i,   B_i = sign(w − mean(w) + u_i·std(w)),   u_i = −1 + 2(i − 1)/(M − 1) (0 for M = 1)
    α: least squares of w on the bases, anew at each step of training
    ∂q/∂w = Σ_i α_i          (straight-through each basis; α counts as a constant)
    costs M bits a weight (`bits`) plus M scales a layer: kernels of one bit run it. A file holds which of the M + 1 values a
    weight has, which is less. A weight that is one of these values already stays what it is.
    Lin et al. 2017, "Towards accurate binary convolutional neural network", arXiv:1711.11294.
    """

    name = "abcnet"
    stray = True
    alpha: Tensor
    shift: Tensor

    def __init__(self, alpha: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.bits = len(alpha)
        self.register_buffer("alpha", alpha)
        self.register_buffer("shift", shift)

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 3) -> AbcNet:  # type: ignore[override] # its own spec
        check_bits(bits, BASES, "abcnet")
        return cls(tensor.new_ones(bits), torch.linspace(-1, 1, bits, device=tensor.device))

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        w, count = tensor.detach().double(), len(self.alpha)
        u = torch.linspace(-1, 1, count, dtype=w.dtype, device=w.device) if count > 1 else w.new_zeros(1)
        self.shift = (w.mean() + u * w.std(correction=0)).to(tensor.dtype)  # ascending
        bases = signs(tensor.flatten()[:, None] - self.shift).double()  # n M
        # Bases may coincide (a layer of one value), so the pseudo-inverse.
        self.alpha = (torch.linalg.pinv(bases.T @ bases) @ (bases.T @ w.flatten())).to(tensor.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.absorb(x.detach())
        return super().forward(x)

    def soft(self, x: Tensor) -> Tensor:
        return self.alpha.sum() * x

    def levels(self) -> Tensor:
        steps = torch.arange(len(self.alpha) + 1, device=self.alpha.device)[:, None]
        return torch.where(torch.arange(len(self.alpha), device=self.alpha.device) < steps, self.alpha, -self.alpha).sum(1)

    def bounds(self) -> Tensor:
        return self.shift

    def side(self) -> dict[str, Tensor]:
        return {"alpha": self.alpha}


@maps.register("abcnet_input")
class AbcInput(Coded):
    r"""Inputs become a sum of scaled signs, whose shifts and scales are learned.

    q(x) = Σ_n β_n·H_n,   H_n = 1 where x + v_n ≥ 1/2, else −1
    ∂q/∂x = Σ_n β_n·[0 ≤ x + v_n ≤ 1],   ∂q/∂v_n = β_n·[0 ≤ x + v_n ≤ 1],   ∂q/∂β_n = H_n
    costs N bits an element (`bits`) plus β and v. Not idempotent.
    At first the thresholds lie between the K-means of what calibration images bring, and β is their least squares.
    Lin et al. 2017, arXiv:1711.11294.
    """

    name = "abcnet_input"

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.bits = self.width = len(scale)
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 3) -> AbcInput:  # type: ignore[override] # its own spec
        check_bits(bits, BASES, "abcnet_input")
        return cls(tensor.new_ones(bits) / bits, 0.5 - torch.arange(1, bits + 1, device=tensor.device) / (bits + 1))

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        x = thinned(tensor.detach())
        levels = line(x, len(self.scale) + 1)
        self.shift.data = 0.5 - (levels[1:] + levels[:-1]) / 2
        bases = self._signs(x).double()
        self.scale.data = (torch.linalg.pinv(bases.T @ bases) @ (bases.T @ x.double())).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        # Columns of one number, because PyTorch computes in the type of x where a parameter has no dimension.
        moved = [x + shift - 0.5 for shift in self.shift[:, None]]
        return _summed(
            [scale * sloped(signs(m.detach()), m, _half) for scale, m in zip(self.scale[:, None], moved, strict=True)]
        )

    def encode(self, tensor: Tensor) -> Codes:
        """One bit a basis, the first the lowest."""
        bits = self._signs(tensor.detach()) > 0
        weights = 2 ** torch.arange(self.width, device=tensor.device)
        return Codes((bits * weights).sum(-1).to(torch.uint8), 0, 2**self.width - 1, {"scale": self.scale})

    def decode(self, codes: Codes) -> Tensor:
        every = [[1.0 if code >> basis & 1 else -1.0 for basis in range(self.width)] for code in range(2**self.width)]
        scale = self.scale.detach()
        return _summed(list((scale * scale.new_tensor(every)).T))[codes.values.long()]

    def _signs(self, x: Tensor) -> Tensor:
        """... N"""
        return signs(x.unsqueeze(-1) + self.shift.detach() - 0.5)


@maps.register("horq")
class Horq(Coded):
    r"""Inputs become a sum of scaled signs, each of what the ones before it left over.

    q(x) = Σ_i β_i·H_i,   H_i = sign(r_i),   β_i = mean|r_i| over dimension 1,   r_1 = x,   r_{i+1} = r_i − β_i·H_i
    ∂q/∂x = Σ_i β_i·[|r_i| ≤ 1]          (straight-through; β and H count as constants)
    costs K bits an element (`bits`, the order) plus K scales for each sub-tensor. Not idempotent.
    In the layer `residual_signs` dimension 1 holds what one output sees.       Li et al. 2017, arXiv:1708.08687.
    """

    name = "horq"

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = self.width = bits

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 2) -> Horq:  # type: ignore[override] # its own spec
        check_bits(bits, BASES[:4], "horq")
        return cls(bits)

    def forward(self, x: Tensor) -> Tensor:
        return sloped(self.hard(x.detach()), x, self.slope)

    def hard(self, x: Tensor) -> Tensor:
        return _summed([scale * sign for scale, sign, _ in self._orders(x)])

    def slope(self, x: Tensor) -> Tensor:
        """∂q/∂x."""
        return _summed([scale * within(rest, 1) for scale, _, rest in self._orders(x)])

    def encode(self, tensor: Tensor) -> Codes:
        """One bit an order, the first the lowest; the scales, one an order, in the order of orders."""
        orders = list(self._orders(tensor.detach()))
        codes = _summed([(sign > 0).to(torch.uint8) << order for order, (_, sign, _) in enumerate(orders)])
        return Codes(codes, 0, 2**self.width - 1, {"scale": torch.stack([scale for scale, _, _ in orders])})

    def decode(self, codes: Codes) -> Tensor:
        parts = [torch.where((codes.values >> i) & 1 > 0, s, -s) for i, s in enumerate(codes.side["scale"])]
        return _summed(parts)

    def _orders(self, rest: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The scales and signs of each order, and what they are of."""
        for _ in range(self.width):
            scale, sign = rest.abs().mean(1, keepdim=True), signs(rest)
            yield scale, sign, rest
            rest = rest - scale * sign


def _half(x: Tensor) -> Tensor:
    return within(x, 0.5)


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """The sum from the first to the last, so that codes decode to what was computed."""
    return reduce(torch.add, parts)


def _bases(_: nn.Module, bits: int) -> dict[str, int]:
    return {"bits": bits}


schemes.add("abcnet", Scheme("abcnet", _bases, BASES, 3, "abcnet_input", _bases, BASES, 3))
schemes.add("xnor", Scheme("bwn", plain, (1,), 1, "sign", plain, (1,), 1, swap="input_scale"))
schemes.add("horq", Scheme("bwn", plain, (1,), 1, "horq", _bases, BASES[1:4], 2, swap="residual_signs"))
