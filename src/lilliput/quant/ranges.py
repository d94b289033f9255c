"""Ranges of activations: which interval a quantizer should cover, from what calibration images made of a tensor.

One function a rule, from `Seen` and the number of levels to (low, high). All rules read the same `Seen`, which one pass over
the images fills.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lilliput.errors import DataError
from lilliput.registry import Registry

BINS = 4096
Range = tuple[float, float]


@dataclass
class Seen:
    """What was seen of one tensor: extremes batch by batch, and a histogram of `BINS` bins over −reach..reach.

    `reach` is a power of two and doubles when a value lies outside (two bins become one), so one pass is enough.
    """

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS))
    reach: float = 0.0

    @property
    def low(self) -> float:
        """The least value."""
        return min(self.lows)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.highs)

    @property
    def edges(self) -> Tensor:
        """Where the bins begin and end, (BINS + 1,)."""
        return torch.linspace(-self.reach, self.reach, BINS + 1)

    def see(self, x: Tensor) -> None:
        """Take one batch in. Raises `DataError` for NaN and infinity."""
        low, high = (float(t) for t in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"calibration images make activations from `{low}` to `{high}`; the network or an image is broken")
        self.lows.append(low)
        self.highs.append(high)
        self._grow(max(-low, high))
        if self.reach:
            self.counts += torch.histc(x.float(), BINS, -self.reach, self.reach).cpu()

    def _grow(self, largest: float) -> None:
        if largest > 0 and not self.reach:
            self.reach = 2.0 ** math.ceil(math.log2(largest))
        while largest > self.reach:
            self.reach *= 2
            self.counts = torch.nn.functional.pad(self.counts.view(-1, 2).sum(1), (BINS // 4, BINS // 4))


ranges: Registry[Callable[[Seen, int], Range]] = Registry("range")


@ranges.register("minmax")
def minmax(seen: Seen, levels: int) -> Range:
    """Everything that was seen."""
    return seen.low, seen.high


@ranges.register("average")
def average(seen: Seen, levels: int, momentum: float = 0.9) -> Range:
    """The moving average of each batch's extremes. Jacob et al. 2018, arXiv:1712.05877, section 3.1."""
    low, high = seen.lows[0], seen.highs[0]
    for least, most in zip(seen.lows[1:], seen.highs[1:], strict=True):
        low, high = momentum * low + (1 - momentum) * least, momentum * high + (1 - momentum) * most
    return low, high


@ranges.register("percentile")
def percentile(seen: Seen, levels: int, share: float = 0.9999) -> Range:
    """All but the outermost 0.01 % of the values at each end. McKinstry et al. 2018, arXiv:1809.04191."""
    total = float(seen.counts.sum())
    if not total:
        return seen.low, seen.high
    below = seen.counts.double().cumsum(0) / total
    first, last = int((below <= 1 - share).sum()), int((below < share).sum())
    return max(seen.low, float(seen.edges[first])), min(seen.high, float(seen.edges[last + 1]))


@ranges.register("mse")
def mse(seen: Seen, levels: int) -> Range:
    """The interval with the least squared error of rounding and clipping, found by shrinking one end, then the other.

    Banner et al. 2019, arXiv:1810.05723, derive it for Gaussian and Laplace tensors; here the histogram decides.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    shrink = torch.linspace(0.2, 1.0, 81)
    for _ in range(2 if low < 0 < high else 1):
        if high > 0:
            low, high = _best(seen, levels, torch.full_like(shrink, low), high * shrink)
        if low < 0:
            low, high = _best(seen, levels, low * shrink, torch.full_like(shrink, high))
    return low, high


def _best(seen: Seen, levels: int, lows: Tensor, highs: Tensor) -> Range:
    """The interval with the least error among candidates, (k,) each."""
    used = seen.counts > 0
    x, counts = (seen.edges[:-1] + seen.edges[1:])[used] / 2, seen.counts[used]  # (bins,)
    step = ((highs - lows) / (levels - 1)).clamp(min=1e-30)[:, None]
    rounded = ((x - lows[:, None]) / step).round_().clamp_(0, levels - 1).mul_(step).add_(lows[:, None])  # (k, bins)
    best = int((rounded.sub_(x).square_() @ counts).argmin())
    return float(lows[best]), float(highs[best])


@ranges.register("kl")
def kl(seen: Seen, levels: int, step: int = 16) -> Range:
    """The interval −t..t, cut to what was seen, whose levels tell least else than the histogram of magnitudes.

    D(p‖q) = Σ p·ln(p/q) is least over t, with p the histogram up to t, what lies beyond put on its last bin, and q the same
    without that, evened out within each level. Zeros, which any grid holds, do not count. Where a tensor has a spike (the
    black of an image, the 6 of ReLU6), D is small at a t just behind it, however much lies beyond; so no more than
    1 / levels of the values is cut.
    Migacz 2017, "8-bit inference with TensorRT", NVIDIA GTC.
    """
    both = seen.low < 0 < seen.high
    counts = (seen.counts[BINS // 2 :] + seen.counts[: BINS // 2].flip(0)).double()
    counts[0] = counts[1]
    used, parts = int(counts.nonzero().max()) + 1 if bool(counts.any()) else 0, levels // 2 if both else levels
    if used <= parts:
        return seen.low, seen.high
    kept = counts.cumsum(0) / counts.sum()
    first = int((kept < 1 - 1 / levels).sum()) + 1  # the first stop that cuts no more
    stops = [*range(max(parts, first), used, step), used]
    losses = [_divergence(counts, stop, parts) for stop in stops]
    reach = seen.reach * stops[losses.index(min(losses))] / (BINS // 2)
    return max(seen.low, -reach), min(seen.high, reach)


def _divergence(counts: Tensor, stop: int, parts: int) -> float:
    """D(p‖q) in nats where the first `stop` bins are covered by `parts` levels."""
    inside = counts[:stop]
    whole = inside.clone()
    whole[-1] += counts[stop:].sum()
    level = torch.arange(stop) * parts // stop
    total = torch.zeros(parts, dtype=counts.dtype).index_add_(0, level, inside)
    filled = torch.zeros(parts, dtype=counts.dtype).index_add_(0, level, (inside > 0).to(counts.dtype))
    evened = (total / filled.clamp(min=1))[level] * (inside > 0)
    p, q = whole / whole.sum(), (evened / evened.sum().clamp(min=1e-30)).clamp(min=1e-9)
    return float((p * (p.clamp(min=1e-30) / q).log()).sum())
