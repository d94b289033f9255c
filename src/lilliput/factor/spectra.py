"""Best approximations of matrices, from the Gram matrix of their smaller side in double precision.

A weight of n x c·k·k needs n² doubles this way instead of a decomposition of the whole, and both factors of full rank still
multiply to the weight up to rounding: one of them is orthogonal, and the other is the projection onto it. Where the smaller
side is so large that n² doubles would outweigh the weight itself, subspaces are iterated in the weight's own precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements turned into doubles at a time
LARGE = 1024  # from this side on subspaces are iterated
PIECE, ROUNDS = 128, 8  # singular vectors sought at a time, and how often the matrix is gone through, there and back


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
    return signed(vectors[:, len(values) - rank :].flip(1)), values.flip(0).clamp(min=0)


def signed(vectors: Tensor) -> Tensor:
    """Columns whose largest element is positive, so that numbers do not depend on which library was asked."""
    return vectors * _signs(vectors)


def _signs(vectors: Tensor) -> Tensor:
    """The sign of every column's largest element."""
    peak = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return torch.where(peak < 0, -1.0, 1.0).to(vectors.dtype)


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
    if len(matrix) > LARGE and rank <= len(matrix) // 2:
        return _iterated(matrix, rank)
    basis, values = leading(gram(matrix), rank)
    scale = balance(values[:rank])
    right = project(basis / scale, matrix)
    return (basis * scale).to(matrix.dtype), right


def _iterated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The same by subspace iteration, some singular vectors at a time: little more is held than what is returned.

    It ends within a quarter of a percent of the least error even where no singular value stands out. Columns are made
    orthogonal after every product, there and back, so that single precision loses no singular value above its rounding;
    what a piece adds is fitted to what the pieces before it leave, so no piece can make the error larger.
    Halko, Martinsson, Tropp 2011, "Finding structure with randomness", SIAM Review 53, algorithm 4.4.
    """
    held = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    left, right = held.new_empty(len(held), rank), held.new_empty(rank, held.shape[1])
    values = torch.empty(rank, dtype=torch.double)
    draw = torch.Generator().manual_seed(0)
    for at in range(0, rank, PIECE):
        to = min(at + PIECE, rank)
        left[:, at:to], right[at:to], values[at:to] = _piece(held, left[:, :at], right[:at], to - at, draw)
    scale = balance(values).to(held.dtype)
    return left.mul_(scale).to(matrix.dtype), right.div_(scale[:, None]).to(matrix.dtype)


def _piece(matrix: Tensor, left: Tensor, right: Tensor, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The next singular vectors behind those in `left`, what they see of matrix − left·right, and its energies."""
    block = torch.randn(len(matrix), count + max(16, count // 4), generator=draw, dtype=matrix.dtype)
    for _ in range(ROUNDS):
        block = matrix.T @ block
        block = torch.linalg.qr(block)[0]
        block = matrix @ block
        block.addmm_(left, left.T @ block, alpha=-1)
        block = torch.linalg.qr(block)[0]
        block.addmm_(left, left.T @ block, alpha=-1)  # again, or what is left of large values grows under small ones
    seen = (block.T @ matrix).addmm_(block.T @ left, right, alpha=-1)
    turn, values = leading(gram(seen), count)
    basis = block @ turn.to(block.dtype)
    sign = _signs(basis)
    return basis.mul_(sign), (turn.to(block.dtype) * sign).T @ seen, values[:count]


def balance(values: Tensor) -> Tensor:
    """√σ from σ²: what the orthogonal factor is multiplied with, so that both factors train alike; 1 where σ is nothing."""
    noise = values.max().clamp(min=torch.finfo(torch.double).tiny) * 1e-12 if len(values) else values.new_ones(())
    return torch.where(values > noise, values.clamp(min=0) ** 0.25, 1.0)


def project(basis: Tensor, matrix: Tensor) -> Tensor:
    """basisᵀ·matrix, (rank, k), of the matrix's type, without a copy of the matrix in doubles."""
    made = matrix.new_empty(basis.shape[1], matrix.shape[1])
    step = max(1, CHUNK // max(1, len(matrix)))
    for at in range(0, matrix.shape[1], step):
        made[:, at : at + step] = basis.T @ matrix[:, at : at + step].to("cpu", torch.double)
    return made


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
