r"""What the papers promise: the cost of each kind of layer as a formula, in parameters and in multiply-adds.

c₁ and c₂ are input and output channels, k the kernel's side, h·w the output's pixels. Biases are left out.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple


class Cost(NamedTuple):
    """Parameters and multiply-adds; costs add up."""

    params: int
    macs: int

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.params + other.params, self.macs + other.macs)


def convolution(c1: int, c2: int, k: int, h: int, w: int, *, groups: int = 1) -> Cost:
    r"""A k x k convolution in g groups.

    params = k²·c₁·c₂/g,   MACs = h·w·params
    The groups divide both by g: Krizhevsky et al. 2012; Xie et al. 2017, arXiv:1611.05431.

    >>> convolution(64, 128, 3, 14, 14)
    Cost(params=73728, macs=14450688)
    >>> convolution(64, 128, 3, 14, 14).macs // convolution(64, 128, 3, 14, 14, groups=8).macs
    8
    """
    params = k * k * (c1 // groups) * c2
    return Cost(params, h * w * params)


def depthwise(c1: int, k: int, h: int, w: int, *, multiplier: int = 1) -> Cost:
    r"""A k x k convolution of each channel alone, with m outputs a channel.

    params = k²·c₁·m,   MACs = h·w·params.   Chollet 2017, arXiv:1610.02357.

    >>> depthwise(64, 3, 14, 14)
    Cost(params=576, macs=112896)
    """
    return convolution(c1, c1 * multiplier, k, h, w, groups=c1)


def separable(c1: int, c2: int, k: int, h: int, w: int) -> Cost:
    r"""A depthwise k x k convolution, then a 1x1 convolution.

    params = k²·c₁ + c₁·c₂,   MACs = h·w·params.   Howard et al. 2017, arXiv:1704.04861, section 3.1.

    >>> separable(64, 128, 3, 14, 14)
    Cost(params=8768, macs=1718528)
    """
    return depthwise(c1, k, h, w) + convolution(c1, c2, 1, h, w)


def separable_ratio(c2: int, k: int) -> Fraction:
    r"""What a separable convolution costs of the standard one: 1/c₂ + 1/k².

    Howard et al. 2017, arXiv:1704.04861, section 3.1. Holds for parameters and for MACs, at equal output size.

    >>> separable_ratio(128, 3)
    Fraction(137, 1152)
    """
    return Fraction(1, c2) + Fraction(1, k * k)


def separable_gain_limit(k: int) -> int:
    r"""How many times cheaper a separable convolution gets at most, as c₂ grows: k².

    >>> separable_gain_limit(3)
    9
    """
    return k * k


def with_multipliers(c1: int, c2: int, k: int, size: int, *, width: float = 1.0, resolution: float = 1.0) -> Cost:
    r"""A separable layer with a width multiplier α and a resolution multiplier ρ.

    MACs = k²·αc₁·ρ²hw + αc₁·αc₂·ρ²hw.   Howard et al. 2017, arXiv:1704.04861, sections 3.3 and 3.4.
    Channels and pixels are rounded to the nearest whole number, as they must be in a network.

    >>> with_multipliers(64, 128, 3, 14, width=0.5).macs / with_multipliers(64, 128, 3, 14).macs
    0.266...
    """
    pixels = round(resolution * size)
    return separable(round(width * c1), round(width * c2), k, pixels, pixels)


def width_effect(width: float) -> float:
    r"""By what a width multiplier α multiplies the cost of layers between layers it also narrows: α².

    Exact for dense and 1x1 convolutions; a depthwise one, and a first layer, only scale by α.

    >>> width_effect(0.5)
    0.25
    """
    return width * width


def resolution_effect(resolution: float) -> float:
    r"""By what a resolution multiplier ρ multiplies the MACs of every convolution: ρ². Parameters stay.

    >>> resolution_effect(0.5)
    0.25
    """
    return resolution * resolution


def grouped_with_shuffle(c: int, bottleneck: int, h: int, w: int, *, groups: int) -> Cost:
    r"""A ShuffleNet unit of stride 1: grouped 1x1, depthwise 3x3, grouped 1x1; the shuffle itself is free.

    MACs = h·w·(2·c·m/g + 9·m), where a ResNet unit has h·w·(2·c·m + 9·m²) and ResNeXt h·w·(2·c·m + 9·m²/g).
    Zhang et al. 2018, arXiv:1707.01083, section 3.2.

    >>> grouped_with_shuffle(240, 60, 28, 28, groups=3)
    Cost(params=10140, macs=7949760)
    """
    outer = convolution(c, bottleneck, 1, h, w, groups=groups) + convolution(bottleneck, c, 1, h, w, groups=groups)
    return outer + depthwise(bottleneck, 3, h, w)


def inverted_residual(c1: int, c2: int, k: int, h: int, w: int, *, expansion: int) -> Cost:
    r"""Expand t times by 1x1, depthwise k x k, project by 1x1, all at stride 1.

    MACs = h·w·c₁·t·(c₁ + k² + c₂).   Sandler et al. 2018, arXiv:1801.04381, section 3.3.

    >>> inverted_residual(24, 24, 3, 56, 56, expansion=6)
    Cost(params=8208, macs=25740288)
    """
    hidden = c1 * expansion
    return convolution(c1, hidden, 1, h, w) + depthwise(hidden, k, h, w) + convolution(hidden, c2, 1, h, w)


def spatial_pair(c1: int, c2: int, k: int, h: int, w: int, *, middle: int | None = None) -> Cost:
    r"""A k x 1 convolution to `middle` channels (c₂ unless given), then 1 x k, at stride 1.

    params = k·c₁·r + k·r·c₂,   MACs = h·w·params; with c₁ = r = c₂ that is 2/k of the full kernel.
    Jaderberg et al. 2014, arXiv:1405.3866; Szegedy et al. 2016, arXiv:1512.00567, section 3.2.

    >>> spatial_pair(64, 64, 3, 14, 14).macs / convolution(64, 64, 3, 14, 14).macs
    0.666...
    """
    rank = c2 if middle is None else middle
    params = k * c1 * rank + k * rank * c2
    return Cost(params, h * w * params)


def low_rank(n: int, m: int, rank: int) -> Cost:
    r"""An m x n matrix as a product of m x r and r x n: r·(m + n) instead of m·n.

    Denton et al. 2014, arXiv:1404.0736.

    >>> low_rank(1000, 1000, 100)
    Cost(params=200000, macs=200000)
    """
    return Cost(rank * (n + m), rank * (n + m))


def break_even_rank(n: int, m: int) -> Fraction:
    r"""The rank below which a product of two matrices is cheaper than the matrix: m·n / (m + n).

    >>> break_even_rank(1000, 1000)
    Fraction(500, 1)
    """
    return Fraction(n * m, n + m)


def tucker2(c1: int, c2: int, k: int, h: int, w: int, *, ranks: tuple[int, int]) -> Cost:
    r"""1x1 to r₁ channels, k x k to r₂, 1x1 to c₂, at stride 1.

    params = c₁·r₁ + k²·r₁·r₂ + r₂·c₂,   MACs = h·w·params.   Kim et al. 2016, arXiv:1511.06530.

    >>> tucker2(64, 64, 3, 14, 14, ranks=(16, 16))
    Cost(params=4352, macs=852992)
    """
    first, second = ranks
    inner = convolution(first, second, k, h, w)
    return convolution(c1, first, 1, h, w) + inner + convolution(second, c2, 1, h, w)


def cp(c1: int, c2: int, k: int, h: int, w: int, *, rank: int) -> Cost:
    r"""1x1 to r channels, depthwise k x 1, depthwise 1 x k, 1x1 to c₂, at stride 1.

    params = r·(c₁ + 2k + c₂),   MACs = h·w·params.   Lebedev et al. 2015, arXiv:1412.6553.

    >>> cp(64, 64, 3, 14, 14, rank=16)
    Cost(params=2144, macs=420224)
    """
    params = rank * (c1 + 2 * k + c2)
    return Cost(params, h * w * params)


def shift(c1: int, c2: int, h: int, w: int) -> Cost:
    r"""A shift of each channel, which costs nothing, then a 1x1 convolution: c₁·c₂ parameters, h·w·c₁·c₂ MACs.

    Wu et al. 2017, arXiv:1711.08141.

    >>> shift(64, 64, 14, 14)
    Cost(params=4096, macs=802816)
    """
    return convolution(c1, c2, 1, h, w)


def squeeze_excite(c: int, *, reduction: int) -> Cost:
    r"""Two linear layers on the pooled channels: 2·c²/r parameters and MACs.   Hu et al. 2018, arXiv:1709.01507.

    >>> squeeze_excite(256, reduction=16)
    Cost(params=8192, macs=8192)
    """
    return low_rank(c, c, c // reduction)


def ghost(c1: int, c2: int, k: int, h: int, w: int, *, ratio: int = 2, cheap: int = 3) -> Cost:
    r"""A k x k convolution to c₂/s channels, and s - 1 depthwise d x d copies of each.

    MACs = h·w·(c₂/s)·(k²·c₁ + (s-1)·d²): about s times fewer than the full convolution.
    Han et al. 2020, arXiv:1911.11907, section 3.1.

    >>> ghost(64, 128, 3, 14, 14)
    Cost(params=37440, macs=7338240)
    """
    own = c2 // ratio
    return convolution(c1, own, k, h, w) + depthwise(own, cheap, h, w, multiplier=ratio - 1)


def memory_access(c1: int, c2: int, h: int, w: int, *, groups: int = 1) -> int:
    r"""Elements a 1x1 convolution reads and writes: h·w·(c₁ + c₂) + c₁·c₂/g.

    Least, for given MACs, at c₁ = c₂; grows with g.   Ma et al. 2018, arXiv:1807.11164, guidelines 1 and 2.

    >>> memory_access(128, 128, 56, 56) < memory_access(64, 256, 56, 56)
    True
    """
    return h * w * (c1 + c2) + c1 * c2 // groups
