"""The numbers of a CP decomposition: alternating least squares, and a correction that keeps terms from cancelling.

Large terms of opposite sign fit well and train badly: the sum of squared term sizes is how strongly the output answers to
changes of the factors. Phan et al. 2020 minimise it while the error stays where it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 40
CORRECTIONS = 6
SLACK = 1.002  # how much larger than after the fit the error may be while terms are made smaller
Factors = tuple[Tensor, Tensor, Tensor, Tensor]  # outputs (n, r), inputs (c, r), rows (kh, r), columns (kw, r)


def fit(weight: Tensor, rank: int) -> Factors:
    """The factors of `rank` terms for a kernel (n, c, kh, kw). Deterministic: nothing is drawn."""
    factors, before = start(weight, rank)
    if before <= 1e-9 * float(weight.double().square().sum()):
        return even(factors)
    solver = _Solver(weight)
    for _ in range(SWEEPS):
        factors, now = solver.sweep(factors, None)
        if before - now < 1e-4 * before:
            break
        before = now
    bound = solver.error(factors) * SLACK
    for _ in range(CORRECTIONS):
        factors, _ = solver.sweep(factors, bound)
    return even(factors)


def rotated(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's slices (kh·kw, n, c) in the bases of its rows and columns that hold most energy first, and these bases."""
    rows, columns = (_basis(weight.movedim(d, 0).flatten(1)) for d in (2, 3))
    turned = torch.einsum("ncyx,yu,xv->uvnc", weight, rows, columns)
    return turned.flatten(0, 1), rows, columns


def start(weight: Tensor, rank: int) -> tuple[Factors, float]:
    """The `rank` strongest singular vectors among all slices, exact when they are all there, and the squared error."""
    slices, rows, columns = rotated(weight)
    u, s, v = torch.linalg.svd(slices, full_matrices=False)
    order = torch.argsort(s.flatten(), descending=True, stable=True)[:rank]
    place, term = order // s.shape[1], order % s.shape[1]
    size = s[place, term]
    y, x = rows[:, place // columns.shape[1]], columns[:, place % columns.shape[1]]
    left_out = float(s.double().square().sum() - size.double().square().sum()) if rank < s.numel() else 0.0
    return (u[place, :, term].T * size, v[place, term].T, y, x), left_out


def even(factors: Factors) -> Factors:
    """Every term's size shared equally by its four factors."""
    sizes = [f.norm(dim=0).clamp(min=torch.finfo(f.dtype).tiny) for f in factors]
    share = torch.stack(sizes).log().mean(0).exp()
    n, c, y, x = (f / size * share for f, size in zip(factors, sizes, strict=True))
    return n, c, y, x


def size(factors: Factors) -> float:
    """Σ_r ‖term r‖²: what the correction lowers."""
    norms = torch.stack([f.double().square().sum(0) for f in factors])
    return float(norms.prod(0).sum())


class _Solver:
    """One weight in the two layouts that its products need."""

    def __init__(self, weight: Tensor) -> None:
        self.n, self.c, self.kh, self.kw = weight.shape
        self.by_input = weight.permute(0, 2, 3, 1).reshape(-1, self.c)  # (n·k·k, c)
        self.by_output = weight.permute(1, 2, 3, 0).reshape(-1, self.n)  # (c·k·k, n)
        self.energy = float(weight.double().square().sum())

    def sweep(self, factors: Factors, bound: float | None) -> tuple[Factors, float]:
        """Every factor once: the best one, or with a `bound` the smallest whose squared error stays within it."""
        n, c, y, x = factors
        seen = (self.by_input @ c).view(self.n, self.kh * self.kw, -1)  # inputs summed away
        n, _ = self._solve((seen * _outer(y, x)).sum(1), (c, y, x), bound)
        left = torch.einsum("nr,nkr->kr", n, seen).view(self.kh, self.kw, -1)
        y, _ = self._solve(torch.einsum("yxr,xr->yr", left, x), (n, c, x), bound)
        x, _ = self._solve(torch.einsum("yxr,yr->xr", left, y), (n, c, y), bound)
        seen = (self.by_output @ n).view(self.c, self.kh * self.kw, -1)  # outputs summed away
        c, error = self._solve((seen * _outer(y, x)).sum(1), (n, y, x), bound)
        return (n, c, y, x), error

    def _solve(self, product: Tensor, others: tuple[Tensor, ...], bound: float | None) -> tuple[Tensor, float]:
        """The factor A that minimises ‖W − A·Zᵀ‖², or ‖A‖² within `bound`, for unit columns of the other factors.

        A(λ) = W·Z·(ZᵀZ + λ)⁻¹, and with a bound λ is as large as the bound allows.
        """
        scale = torch.stack([f.double().norm(dim=0) for f in others]).prod(0).clamp(min=1e-30)
        square = torch.ones(len(scale), len(scale), dtype=torch.double)
        for f in others:
            wide = f.double()
            square *= wide.T @ wide
        square /= scale[:, None] * scale
        wanted = product.double() / scale
        if bound is None:
            ridge = 1e-9 * len(square)
            root = torch.linalg.cholesky(square + ridge * torch.eye(len(square), dtype=torch.double))
            found = torch.cholesky_solve(wanted.T, root).T
        else:
            values, basis = torch.linalg.eigh(square)
            turned = wanted @ basis
            ridge = self._ridge(values.clamp(min=0), turned.square().sum(0), bound)
            found = (turned / (values.clamp(min=0) + ridge)) @ basis.T
        error = self.energy - 2 * float((found * wanted).sum()) + float(((found @ square) * found).sum())
        return (found / scale).to(product.dtype), max(0.0, error)

    def _ridge(self, values: Tensor, weights: Tensor, bound: float) -> float:
        """The largest λ whose error stays within the bound, by bisection on a logarithmic scale."""
        low, high = -9.0, 5.0  # powers of ten, relative to the largest eigenvalue
        top = float(values.max())
        for _ in range(40):
            middle = (low + high) / 2
            ridge = top * 10**middle
            error = self.energy - float((weights * (values + 2 * ridge) / (values + ridge) ** 2).sum())
            low, high = (middle, high) if error <= bound else (low, middle)
        return top * 10**low

    def error(self, factors: Factors) -> float:
        """‖W − Ŵ‖², from products alone."""
        n, c, y, x = factors
        seen = (self.by_input @ c).view(self.n, self.kh * self.kw, -1)
        cross = float((torch.einsum("nkr,kr->nr", seen, _outer(y, x)).double() * n.double()).sum())
        square = torch.ones(n.shape[1], n.shape[1], dtype=torch.double)
        for f in factors:
            square *= f.double().T @ f.double()
        return max(0.0, self.energy - 2 * cross + float(square.sum()))


def _outer(y: Tensor, x: Tensor) -> Tensor:
    """(kh·kw, r)."""
    return (y[:, None] * x).flatten(0, 1)


def _basis(unfolded: Tensor) -> Tensor:
    """Eigenvectors of the small side, strongest first."""
    wide = unfolded.double()
    _, vectors = torch.linalg.eigh(wide @ wide.T)
    return vectors.flip(1).to(unfolded.dtype)
