"""The numbers of a CP decomposition: alternating least squares, and a correction that keeps terms from cancelling.

Large terms of opposite sign fit well and train badly: the sum of squared term sizes is how strongly the output answers to
changes of the factors. Phan et al. 2020 minimise it while the error stays where it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lilliput.factor.spectra import energies, factors, gram

SWEEPS = 40
CORRECTIONS = 6
SLACK = 1.002  # how much larger than after the fit the error may be while terms are made smaller
Factors = tuple[Tensor, Tensor, Tensor, Tensor]  # outputs (n, r), inputs (c, r), rows (kh, r), columns (kw, r)


def fit(weight: Tensor, rank: int) -> Factors:
    """The factors of `rank` terms for a kernel (n, c, kh, kw). Deterministic: nothing is drawn."""
    found, before = start(weight, rank)
    if before <= 1e-9 * energy(weight):
        return even(found)
    solver = _Solver(weight)
    for _ in range(SWEEPS):
        found, now = solver.sweep(found, None)
        if before - now < 1e-4 * before:
            break
        before = now
    bound = solver.error(found) * SLACK
    for _ in range(CORRECTIONS):
        found, _ = solver.sweep(found, bound)
    return even(found)


class Rotated:
    """A kernel's slices in the bases of its rows and columns that hold most energy first, made one at a time."""

    def __init__(self, weight: Tensor) -> None:
        n, c, kh, kw = weight.shape
        self.flat = weight.reshape(n, c, kh * kw)
        square = gram(self.flat.flatten(0, 1).T).view(kh, kw, kh, kw)
        self.rows = _basis(torch.einsum("yxvx->yv", square)).to(weight.dtype)
        self.columns = _basis(torch.einsum("yxyu->xu", square)).to(weight.dtype)

    def __len__(self) -> int:
        return self.flat.shape[2]

    def directions(self, number: int) -> tuple[Tensor, Tensor]:
        """The row and the column that belong to a slice."""
        y, x = divmod(number, len(self.columns))
        return self.rows[:, y], self.columns[:, x]

    def slice(self, number: int) -> Tensor:
        """(n, c)."""
        y, x = self.directions(number)
        return torch.matmul(self.flat, (y[:, None] * x).flatten())

    def spectra(self) -> Tensor:
        """Squared singular values of every slice, (kh·kw, min(n, c)) in doubles."""
        return torch.stack([energies(self.slice(number)) for number in range(len(self))])


def start(weight: Tensor, rank: int) -> tuple[Factors, float]:
    """The `rank` strongest singular vectors among all slices, exact when they are all there, and the squared error."""
    slices = Rotated(weight)
    spectra = slices.spectra()
    order = torch.argsort(spectra.flatten(), descending=True, stable=True)
    taken = torch.bincount(order[:rank] // spectra.shape[1], minlength=len(slices)).tolist()
    parts = []
    for number, count in enumerate(taken):
        if count:
            left, right = factors(slices.slice(number), count)
            parts.append((left, right.T, *(v[:, None].expand(-1, count) for v in slices.directions(number))))
    n, c, y, x = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return (n, c, y, x), float(spectra.flatten()[order[rank:]].sum())


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
    """One weight as slices (kh·kw, n, c), which both channel sides multiply without a further copy."""

    def __init__(self, weight: Tensor) -> None:
        self.kh, self.kw = weight.shape[2:]
        self.slices = weight.flatten(2).permute(2, 0, 1).contiguous()
        self.energy = energy(weight)

    def sweep(self, factors: Factors, bound: float | None) -> tuple[Factors, float]:
        """Every factor once: the best one, or with a `bound` the smallest whose squared error stays within it."""
        n, c, y, x = factors
        seen = _summed(self.slices, c)
        n, _ = self._solve(_gathered(seen, _outer(y, x)), (c, y, x), bound)
        left = torch.stack([(n * part).sum(0) for part in seen]).view(self.kh, self.kw, -1)
        y, _ = self._solve(torch.einsum("yxr,xr->yr", left, x), (n, c, x), bound)
        x, _ = self._solve(torch.einsum("yxr,yr->xr", left, y), (n, c, y), bound)
        del seen
        seen = _summed(self.slices.mT, n)
        c, error = self._solve(_gathered(seen, _outer(y, x)), (n, y, x), bound)
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
        cross = float((_gathered(_summed(self.slices, c), _outer(y, x)).double() * n.double()).sum())
        square = torch.ones(n.shape[1], n.shape[1], dtype=torch.double)
        for f in factors:
            square *= f.double().T @ f.double()
        return max(0.0, self.energy - 2 * cross + float(square.sum()))


def energy(weight: Tensor) -> float:
    """‖W‖², added up in doubles."""
    return float(gram(weight.reshape(1, -1)))


def _summed(slices: Tensor, factor: Tensor) -> Tensor:
    """Every slice times a factor, (slices, rows, r)."""
    made = factor.new_empty(len(slices), slices.shape[1], factor.shape[1])
    for part, row in zip(slices, made, strict=True):
        torch.mm(part, factor, out=row)
    return made


def _gathered(seen: Tensor, sizes: Tensor) -> Tensor:
    """Σ_k seen_k·sizes_k, (rows, r)."""
    total = torch.zeros_like(seen[0])
    for part, size in zip(seen, sizes, strict=True):
        total.addcmul_(part, size)
    return total


def _outer(y: Tensor, x: Tensor) -> Tensor:
    """(kh·kw, r)."""
    return (y[:, None] * x).flatten(0, 1)


def _basis(square: Tensor) -> Tensor:
    """Eigenvectors, strongest first."""
    return torch.linalg.eigh(square)[1].flip(1)
