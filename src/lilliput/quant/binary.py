"""Weights of one bit."""

from __future__ import annotations

import torch
from torch import Tensor

from lilliput.core.maps import Codes, maps
from lilliput.errors import EditError
from lilliput.quant.schemes import Scheme, plain, schemes
from lilliput.quant.straight import Coded, check_axis, mean, mean_magnitude, others, signs, sloped, within


class Binary(Coded):
    """Base of the quantizers onto −α and α: zeros count as positive."""

    bits = 1.0

    def __init__(self, axis: int | None = 0) -> None:
        super().__init__()
        self.axis = axis

    def positive(self, w: Tensor) -> Tensor:
        """Which weights become α."""
        return w >= 0

    def scale(self, w: Tensor) -> Tensor:
        """α, in a shape that broadcasts over w."""
        return mean_magnitude(w, self.axis)

    def encode(self, tensor: Tensor) -> Codes:
        w = tensor.detach()
        return Codes(self.positive(w).to(torch.uint8), 0, 1, {"scale": self.scale(w)})

    def decode(self, codes: Codes) -> Tensor:
        scale = codes.side["scale"]
        return torch.where(codes.values > 0, scale, -scale)


@maps.register("binaryconnect")
class BinaryConnect(Binary):
    r"""Weights become −1 or 1.

    q(w) = sign(w);   stochastic, while training: 1 with probability clip((w + 1)/2, 0, 1), else −1
    ∂q/∂w = 1; the latent weights are clipped to [−1, 1] after each step (`quant.clip`)
    costs 1 bit a weight.
    draws: "deterministic", or "stochastic", which draws from PyTorch's random state in training mode only.
    Courbariaux et al. 2015, arXiv:1511.00363.
    """

    name = "binaryconnect"

    def __init__(self, draws: str) -> None:
        super().__init__(None)
        self.draws = draws

    @classmethod
    def like(cls, tensor: Tensor, draws: str = "deterministic") -> BinaryConnect:  # type: ignore[override] # its own spec
        if draws not in ("deterministic", "stochastic"):
            raise EditError(f"`draws` (={draws}) is deterministic or stochastic")
        return cls(draws)

    def hard(self, x: Tensor) -> Tensor:
        if self.draws == "stochastic" and self.training:
            return torch.where(torch.rand_like(x) < (x + 1) / 2, 1.0, -1.0).to(x.dtype)
        return super().hard(x)

    def encode(self, tensor: Tensor) -> Codes:
        """The deterministic signs."""
        return Codes(self.positive(tensor.detach()).to(torch.uint8), 0, 1)

    def decode(self, codes: Codes) -> Tensor:
        return codes.values.float() * 2 - 1


@maps.register("bwn")
class Bwn(Binary):
    r"""Weights become −α or α, per filter.

    q(w) = α·sign(w),   α = mean|w|, which with the signs minimizes ‖w − q(w)‖²
    ∂L/∂w_i = α·[|w_i| ≤ 1]·g_i + sign(w_i)/n·Σ_j g_j·sign(w_j):   straight-through, and through α
    costs 1 bit a weight plus one α a filter (`axis` 0), or a layer (none).
    Rastegari et al. 2016, arXiv:1603.05279.
    """

    name = "bwn"

    @classmethod
    def like(cls, tensor: Tensor, axis: int | None = 0) -> Bwn:  # type: ignore[override] # its own spec
        check_axis(axis)
        return cls(axis)

    def soft(self, x: Tensor) -> Tensor:
        return x.abs().mean(others(x, self.axis), keepdim=True) * sloped(signs(x.detach()), x, lambda x: within(x, 1))


@maps.register("birealnet")
class MagnitudeAware(Binary):
    r"""Weights become −α or α, per filter, with a gradient that knows the magnitude; also ReActNet's weights.

    q(w) = α·sign(w),   α = mean|w|
    ∂q/∂w = α where |w| ≤ 1, else 0: α counts as a constant
    costs 1 bit a weight plus one α a filter (`axis` 0), or a layer (none).
    Liu et al. 2018, arXiv:1808.00278; Liu et al. 2020, arXiv:2003.03488.
    """

    name = "birealnet"

    @classmethod
    def like(cls, tensor: Tensor, axis: int | None = 0) -> MagnitudeAware:  # type: ignore[override] # its own spec
        check_axis(axis)
        return cls(axis)

    def soft(self, x: Tensor) -> Tensor:
        return self.scale(x.detach()) * x.clamp(-1, 1)


class Decaying:
    """A sign whose gradient is that of k·tanh(t·x), k = max(1/t, 1); `quant.error_decay` raises t while training."""

    t = 0.1

    def tanh(self, x: Tensor) -> Tensor:
        """k·tanh(t·x)."""
        return max(1 / self.t, 1.0) * torch.tanh(self.t * x)

    def decay(self, x: Tensor) -> Tensor:
        """Its slope, k·t·(1 − tanh²(t·x))."""
        return torch.tanh(self.t * x).square().neg_().add_(1).mul_(max(1.0, self.t))


@maps.register("irnet")
class Irnet(Decaying, Binary):
    r"""Balanced and standardized weights become −2^s or 2^s, per filter.

    v = (w − mean(w)) / std(w),   q(w) = 2^s·sign(v),   s = round(log2 mean|v|)
    ∂q/∂v = 2^s·k·t·(1 − tanh²(t·v)),   k = max(1/t, 1); through mean and std as they are
    costs 1 bit a weight plus one scale a filter.
    A filter whose weights are all −2^s or 2^s is its own quantization.       Qin et al. 2020, arXiv:1909.10788.
    """

    name = "irnet"

    @classmethod
    def like(cls, tensor: Tensor) -> Irnet:  # type: ignore[override] # its own spec
        return cls(0)

    def positive(self, w: Tensor) -> Tensor:
        return w.double() >= w.double().mean(others(w, 0), keepdim=True)

    def scale(self, w: Tensor) -> Tensor:
        magnitudes = w.abs()
        low, high = magnitudes.amin(others(w, 0), keepdim=True), magnitudes.amax(others(w, 0), keepdim=True)
        kept = (low == high) & (torch.frexp(high).mantissa == 0.5)
        power = torch.log2(mean_magnitude(_standard(w), 0).clamp(min=2.0**-20)).round()
        return torch.where(kept, high, _power_of_two(power))

    def soft(self, x: Tensor) -> Tensor:
        return self.scale(x.detach()) * self.tanh(_standard(x))


def _standard(w: Tensor) -> Tensor:
    """Each filter with mean 0 and standard deviation 1."""
    centred = w - mean(w, 0)
    return centred / centred.square().mean(others(w, 0), keepdim=True).sqrt().clamp(min=1e-12)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent for whole exponents from −20 to 20, exactly; `exp2` may be off by a bit."""
    powers = exponent.new_tensor([2.0**k for k in range(-20, 21)])
    return powers[exponent.clamp(-20, 20).long() + 20]


schemes.add("binaryconnect", Scheme("binaryconnect", plain, (1,), 1))
schemes.add("bwn", Scheme("bwn", plain, (1,), 1))
