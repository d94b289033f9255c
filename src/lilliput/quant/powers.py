"""Levels that are powers of two, or sums of a few: products become shifts."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from lilliput.core.maps import maps
from lilliput.errors import EditError
from lilliput.quant.schemes import Scheme, schemes, wide
from lilliput.quant.straight import check_bits, straight, thinned
from lilliput.quant.table import Table, both, mirrored

INQ_WIDTHS = tuple(range(2, 8))
LOG_WIDTHS = tuple(range(2, 9))
APOT_WIDTHS = {True: (2, 3, 4, 5, 7), False: (1, 2, 3, 4, 6)}
"""Of signed tensors, one bit of which is the sign, and of unsigned ones."""


@maps.register("inq")
class Inq(Table):
    r"""Weights become 0 or ±2^k, a part of them after the other.

    q(w) = sign(w)·2^k where 3/4·2^k ≤ |w| < 3/2·2^k, k = n1, n1 − 1, …, n2; the smallest level begins at half its value
    n1 = ⌊log2(4/3·max|w|)⌋,   n2 = n1 + 1 − 2^(b−2)
    Quantized weights have no gradient; those that `quant.incremental` has left open pass as they are and learn.
    costs b bits a weight, one of which is spent on zero, plus n1.
    Zhou et al. 2017, "Incremental network quantization", arXiv:1702.03044.
    """

    name = "inq"
    top: Tensor

    def __init__(self, bits: int, top: Tensor) -> None:
        super().__init__()
        self.width = bits
        self.magnitudes = [2.0**-k for k in reversed(range(2 ** (bits - 2)))]
        self.register_buffer("top", top)
        self.done: Tensor | None = None  # which weights are quantized; none stands for all, and files hold nothing else

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 5) -> Inq:  # type: ignore[override] # its own spec
        check_bits(bits, INQ_WIDTHS, "inq")
        return cls(bits, tensor.new_ones(()))

    @property
    def bits(self) -> float:  # type: ignore[override] # what it costs now
        """The width, once every weight is quantized; until then, floats."""
        return float(self.width) if self.done is None else 32.0

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        self.top.fill_(power_below(float(tensor.abs().max()) * 4 / 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.done is None:
            return straight(self.hard(x.detach()), 0 * x)
        return torch.where(self.done, self.hard(x.detach()), x)

    def levels(self) -> Tensor:
        return mirrored(self._magnitudes())

    def bounds(self) -> Tensor:
        bounds = 0.75 * self._magnitudes()
        bounds[0] *= 2 / 3  # below the smallest level there is 0: half of it
        return both(bounds)

    def side(self) -> dict[str, Tensor]:
        return {"top": self.top}

    def _magnitudes(self) -> Tensor:
        return self.top * self.top.new_tensor(self.magnitudes)


@maps.register("lognet")
class Lognet(Table):
    r"""Elements become 0 or powers of a base, nearest in the logarithm.

    q(x) = sign(x)·r^round(log_r |x|), the exponents at most F and at least F + 1 − K; what rounds below becomes 0
    F = round(log_r max|x|),   K = 2^(b−1) − 1 with a sign, 2^b − 1 without,   r = 2 or √2
    ∂q/∂x = 1          (straight-through)
    costs b bits an element plus F.
    base: 2, or 1.414 for √2. signed: weights; inputs behind a ReLU are unsigned, and negative ones become 0.
    Miyashita et al. 2016, arXiv:1603.01025.
    """

    name = "lognet"
    top: Tensor

    def __init__(self, bits: int, signed: bool, base: float, top: Tensor) -> None:
        super().__init__()
        self.bits, self.signed, self.base = bits, signed, base
        count = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.magnitudes = [base**-k for k in reversed(range(count))]
        self.register_buffer("top", top)

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 4, signed: bool = True, base: float = 2) -> Lognet:  # type: ignore[override]
        check_bits(bits, LOG_WIDTHS, "lognet")
        if base not in (2, 1.414):
            raise EditError(f"`base` (={base}) is 2, or 1.414 for the root of 2")
        return cls(bits, signed, 2.0 if base == 2 else math.sqrt(2), tensor.new_ones(()))

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        largest = float(tensor.abs().max())
        self.top.fill_(self.base ** round(math.log(largest, self.base)) if largest > 1e-30 else 1.0)

    def levels(self) -> Tensor:
        magnitudes = self._magnitudes()
        return mirrored(magnitudes) if self.signed else torch.cat([magnitudes.new_zeros(1), magnitudes])

    def bounds(self) -> Tensor:
        bounds = self._magnitudes() / math.sqrt(self.base)
        return both(bounds) if self.signed else bounds

    def side(self) -> dict[str, Tensor]:
        return {"top": self.top}

    def _magnitudes(self) -> Tensor:
        return self.top * self.top.new_tensor(self.magnitudes)


@maps.register("apot")
class Apot(Table):
    r"""Elements become sums of a few powers of two, up to a learned end.

    q(u) = α·Π(clip(u/α, −1, 1)), Π the nearest of the levels γ·Σ_i p_i, p_i from {0} ∪ {2^−(i + j·n)}, at most 1
    u = (w − mean(w)) / std(w) for weights (`normalize`; a norm behind the layer takes the scale), else u = x
    ∂q/∂u = 1 where |u| ≤ α, else 0;   ∂q/∂α = Π(u/α) − u/α there, else sign(u);   mean and std count as constants
    costs b bits an element plus α. The magnitude has b − 1 bits, b without a sign, in terms of two bits each; of three
    bits, one term has one. An element that is a level already stays what it is.
    α begins where the squared error is least, of 40 shares of the largest magnitude.       Li et al. 2020, arXiv:1909.13144.
    """

    name = "apot"
    stray = True

    def __init__(self, bits: int, signed: bool, normalize: bool, end: Tensor) -> None:
        super().__init__()
        self.bits, self.signed, self.normalize = bits, signed, normalize
        self.unit = sums(bits - 1 if signed else bits)
        self.end = nn.Parameter(end)

    @classmethod
    def like(  # type: ignore[override] # its own spec
        cls, tensor: Tensor, bits: int = 4, signed: bool = True, normalize: bool | None = None
    ) -> Apot:
        check_bits(bits, APOT_WIDTHS[signed], "apot" if signed else "unsigned apot")
        return cls(bits, signed, signed if normalize is None else normalize, tensor.new_ones(()))

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        u = thinned(self.seen(tensor))
        largest = float(u.abs().max())
        ends = [largest * k / 40 for k in range(1, 41)] if largest > 0 else [1.0]
        self.end.data.fill_(min(ends, key=lambda end: self._error(u, end)))

    def seen(self, x: Tensor) -> Tensor:
        if not self.normalize:
            return x
        fixed = x.detach()
        return (x - fixed.mean()) / fixed.std(correction=0).clamp(min=1e-12)

    def soft(self, x: Tensor) -> Tensor:
        u, low = self.seen(x), -1.0 if self.signed else 0.0
        fixed = u.detach() / self.end.detach()
        inside = (fixed >= low) & (fixed <= 1)
        missed = (self._projected(u.detach()) - u.detach()) / self.end.detach()
        return torch.where(inside, u + missed * self.end, fixed.clamp(low, 1).sign() * self.end)

    def levels(self) -> Tensor:
        unit = self.end.new_tensor(self.unit[1:])
        return self.end * (mirrored(unit) if self.signed else torch.cat([unit.new_zeros(1), unit]))

    def bounds(self) -> Tensor:
        unit = self.end.new_tensor(self.unit)
        bounds = self.end * (unit[1:] + unit[:-1]) / 2
        return both(bounds) if self.signed else bounds

    def side(self) -> dict[str, Tensor]:
        return {"end": self.end}

    def _projected(self, u: Tensor) -> Tensor:
        return self.levels().detach()[torch.bucketize(u.contiguous(), self.bounds().detach(), right=True)]

    def _error(self, u: Tensor, end: float) -> float:
        self.end.data.fill_(end)
        return float((self._projected(u) - u).square().sum())


def power_below(x: float) -> float:
    """The largest power of two that is not above x, within the range of float32; 1 for 0.

    >>> power_below(0.75), power_below(4.0)
    (0.5, 4.0)
    """
    return 2.0 ** max(-90, math.frexp(x)[1] - 1) if x > 0 else 1.0


def sums(bits: int) -> list[float]:
    """The additive powers of two of a magnitude of `bits` bits, ascending from 0 to 1.

    >>> sums(2)
    [0.0, 0.25, 0.5, 1.0]
    >>> [round(10 * level, 3) for level in sums(3)]
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0]
    """
    if bits <= 2:
        terms: list[list[float]] = [[0.0] + [2.0**-j for j in range(2**bits - 1)]]
    elif bits == 3:
        terms = [[0.0, 2**-1, 2**-2, 2**-4], [0.0, 2**-3]]
    else:
        n = bits // 2
        terms = [[0.0] + [2.0 ** -(i + j * n) for j in range(3)] for i in range(n)]
    found = sorted({sum(parts) for parts in itertools.product(*terms)})
    return [level / found[-1] for level in found]


schemes.add("inq", Scheme("inq", wide, INQ_WIDTHS, 5, skip=()))
schemes.add(
    "lognet",
    Scheme("lognet", wide, LOG_WIDTHS, 5, "lognet", lambda _, b: {"bits": b, "signed": False}, LOG_WIDTHS, 4, skip=("first",)),
)
schemes.add(
    "apot",
    Scheme(
        "apot", wide, APOT_WIDTHS[True], 4, "apot", lambda _, b: {"bits": b, "signed": False}, APOT_WIDTHS[False], 4,
        skip=("first", "last"),
    ),
)  # fmt: skip
