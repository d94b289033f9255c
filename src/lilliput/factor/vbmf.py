"""How many singular values stand out of noise: the global analytic solution of variational Bayesian matrix factorization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRID, ROUNDS = 200, 4


def vbmf_rank(energies: Tensor, rows: int, columns: int) -> int:
    """The number of squared singular values above the noise of an (rows, columns) matrix; at least 1.

    A value counts if σ² > M·v·(1 + τ)·(1 + α/τ), L ≤ M being the sides, α = L/M, τ = 2.5129·√α and v the noise variance that
    minimises the free energy. That function of v has several minima, so it is searched over a grid that is refined around
    the lowest point, never by descent from one side; where everything looks like noise the answer is 1, not 0.
    Nakajima, Sugiyama, Babacan, Tomioka 2013, "Global analytic solution of fully-observed variational Bayesian matrix
    factorization", JMLR 14, theorem 2 and corollary 1.

    >>> vbmf_rank(torch.tensor([900.0, 400.0, 1.2, 1.1, 1.0, 0.9]), 6, 60)
    2
    """
    small, large = sorted((rows, columns))
    values = energies.double()[:small].clamp(min=0)
    if float(values.sum()) <= 0:
        return 1
    alpha = small / large
    tau = 2.5129 * math.sqrt(alpha)
    edge = (1 + tau) * (1 + alpha / tau)
    noise = _noise(values, small, large, alpha, edge)
    return max(1, int((values > large * noise * edge).sum()))


def _noise(values: Tensor, small: int, large: int, alpha: float, edge: float) -> float:
    """The noise variance at the lowest free energy between the bounds of the theorem."""
    top = min(math.ceil(small / (1 + alpha)) - 1, len(values) - 1)
    rest = values[top:]
    high = float(values.sum()) / (small * large)
    low = max(float(values[min(top, len(values) - 1)]) / (large * edge), float(rest.mean()) / large)
    low, high = math.log(max(low, high * 1e-12)), math.log(high)
    best = high
    for _ in range(ROUNDS):
        places = torch.linspace(min(low, high), max(low, high), GRID, dtype=torch.double)
        at = int(_free_energy(values, places.exp(), small, large, alpha, edge).argmin())
        best = float(places[at])
        low, high = float(places[max(0, at - 1)]), float(places[min(GRID - 1, at + 1)])
    return math.exp(best)


def _free_energy(values: Tensor, noise: Tensor, small: int, large: int, alpha: float, edge: float) -> Tensor:
    """The free energy of each noise variance, up to a constant (equation 42 and below)."""
    x = (values[None, :] / (large * noise[:, None])).clamp(min=1e-300)  # (variances, values)
    gap = x - (1 + alpha)
    tau = ((gap + (gap**2 - 4 * alpha).clamp(min=0).sqrt()) / 2).clamp(min=1e-300)
    above = x - tau + torch.log((tau + 1) / x) + alpha * torch.log(tau / alpha + 1)
    return torch.where(x > edge, above, x - x.log()).sum(1) + (small - len(values)) * noise.log()
