"""Best approximations of matrices, from the Gram matrix of their smaller side in double precision.

A weight of n x c·k·k needs n² doubles this way instead of a decomposition of the whole, and both factors of full rank still
multiply to the weight up to rounding: one of them is orthogonal, and the other is the projection onto it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements turned into doubles at a time
LARGE, ROUNDS = 1024, 6  # from this side on subspaces are iterated, and how often


def gram(rows: Tensor) -> Tensor:
    """m·mᵀ of (n, k), (n, n) in doubles."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.double)
    for part in rows.split(max(1, CHUNK // max(1, len(rows))), dim=1):
        wide = part.to("cpu", torch.double)
        total.addmm_(wide, wide.T)
    return total


def leading(square: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first eigenvectors (n, rank) of a symmetric matrix and all its eigenvalues, largest first, none negative."""
    values, vectors = torch.linalg.eigh(square)
    return signed(vectors.flip(1)[:, :rank]), values.flip(0).clamp(min=0)


def signed(vectors: Tensor) -> Tensor:
    """Columns whose largest element is positive, so that numbers do not depend on which library was asked."""
    peak = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(peak < 0, -1.0, 1.0)


def energies(matrix: Tensor) -> Tensor:
    """The squared singular values of a matrix, largest first, in doubles."""
    smaller = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(gram(smaller)).flip(0).clamp(min=0)


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best left (n, rank) and right (rank, k) with left·right ≈ matrix, of equal scale, in the matrix's type.

    ‖m − left·right‖² = Σ_{i > rank} σ_i²     (Eckart and Young 1936)
    """
    if matrix.shape[0] > matrix.shape[1]:
        left, right = factors(matrix.T, rank)
        return right.T, left.T
    basis, values = _strongest(matrix, rank)
    scale = balance(values[:rank])
    right = project(basis / scale, matrix)
    return (basis * scale).to(matrix.dtype), right


def _strongest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first left singular vectors (n, rank) in doubles and their squared singular values.

    From the Gram matrix; where that is large and the rank is not, by subspace iteration, which needs a fifth of the memory
    and ends within half a percent of the least error even where no singular value stands out.
    """
    side = len(matrix)
    if side <= LARGE or rank > side // 2:
        return leading(gram(matrix), rank)
    draw = torch.Generator().manual_seed(0)
    block = torch.randn(side, rank + max(16, rank // 4), generator=draw, dtype=torch.double)
    for _ in range(ROUNDS):
        block, _ = torch.linalg.qr(_answered(matrix, block))
    small = block.T @ _answered(matrix, block)
    turn, values = leading((small + small.T) / 2, rank)
    return signed(block @ turn), values


def _answered(matrix: Tensor, block: Tensor) -> Tensor:
    """m·mᵀ·block in doubles, some columns of m at a time."""
    made = torch.zeros_like(block)
    for part in matrix.split(max(1, CHUNK // len(matrix)), dim=1):
        wide = part.to("cpu", torch.double)
        made.addmm_(wide, wide.T @ block)
    return made


def balance(values: Tensor) -> Tensor:
    """√σ from σ²: what the orthogonal factor is multiplied with, so that both factors train alike; 1 where σ is nothing."""
    noise = values.max().clamp(min=torch.finfo(torch.double).tiny) * 1e-12 if len(values) else values.new_ones(())
    return torch.where(values > noise, values.clamp(min=0) ** 0.25, 1.0)


def project(basis: Tensor, matrix: Tensor) -> Tensor:
    """basisᵀ·matrix, (rank, k), of the matrix's type, without a copy of the matrix in doubles."""
    parts = matrix.split(max(1, CHUNK // max(1, len(matrix))), dim=1)
    return torch.cat([(basis.T @ part.to("cpu", torch.double)).to(matrix.dtype) for part in parts], 1)


def tail(values: Tensor, rank: int) -> float:
    """The share of the energy behind the first `rank` values; 0 where there is none at all."""
    total = float(values.sum())
    return max(0.0, float(values[rank:].sum())) / total if total > 0 else 0.0


def reaching(values: Tensor, energy: float) -> int:
    """The smallest rank, at least 1, that keeps this share of the energy.

    >>> reaching(torch.tensor([9.0, 0.9, 0.1]), 0.95)
    2
    """
    if energy >= 1:
        return len(values)
    kept = torch.cumsum(values, 0) / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return min(len(values), 1 + int((kept < energy - 1e-12).sum()))


def pooled(spectra: Sequence[Tensor]) -> Tensor:
    """The spectrum of blocks that all keep the same rank: energies summed by position."""
    return torch.stack(list(spectra)).sum(0)
