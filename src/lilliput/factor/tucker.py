"""Fewer channels in, fewer channels out, and a small core between: Tucker decomposition over the two channel axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lilliput.factor.chain import Chain, Mode, Ranks, form
from lilliput.factor.shape import Link, Shape
from lilliput.factor.spectra import CHUNK, energies, gram, leading

SWEEPS = 6


@form
class Tucker2(Chain):
    """A convolution as 1x1 to `rank_in` channels, the whole kernel to `rank_out`, and 1x1 to all outputs.

    W ≈ U·core·V over outputs and inputs, by higher-order orthogonal iteration;   ‖W − Ŵ‖² ≤ Σ_tails of both unfoldings
    Costs c·r_in (input positions) + r_in·r_out·k·k + r_out·n multiply-adds.
    Kim et al. 2016, arXiv:1511.06530; De Lathauwer, De Moor, Vandewalle 2000.
    """

    name = "tucker2"
    rank_names = ("rank_out", "rank_in")

    @classmethod
    def refuses(cls, seen: Shape, **options: Any) -> str | None:
        """A 1x1 kernel has no core to keep."""
        return "its kernel is 1x1, where two links do; take `svd`" if seen.area == 1 else None

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """The ranks of both unfoldings."""
        return min(seen.outputs, seen.inputs * seen.area), min(seen.inputs, seen.outputs * seen.area)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """Reduce, core, expand."""
        outer, inner = ranks
        return [Link("reduce", seen.inputs, inner), seen.full("core", inner, outer), Link("expand", outer, seen.outputs)]

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """The energies of the unfoldings over outputs and over inputs."""
        unfolded = (weight.flatten(1), weight.transpose(0, 1).flatten(1))
        return [Mode(energies(m), *m.shape) for m in unfolded]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """Both bases, improved in turn, and the core they leave."""
        outer, inner = self.ranks_made
        u, v = bases(weight, outer, inner)
        return {"reduce": v.T, "core": core(weight, u, v), "expand": u}


def bases(weight: Tensor, outer: int, inner: int) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of outputs (n, outer) and inputs (c, inner) that keep as much of the weight as they can, in doubles."""
    v, kept = leading(_over_inputs(weight), inner)
    if inner == weight.shape[1]:
        return leading(gram(weight.flatten(1)), outer)[0], v
    total, before = float(kept.sum()), -1.0
    for _ in range(SWEEPS):
        seen = torch.matmul(v.T.to(weight.dtype), weight.flatten(2))  # (n, inner, k·k)
        u, _ = leading(gram(seen.flatten(1)), outer)
        if outer == len(weight):
            break
        seen = (u.T.to(weight.dtype) @ weight.flatten(1)).view(outer, *weight.shape[1:])
        v, kept = leading(_over_inputs(seen), inner)
        now = float(kept[:inner].sum())
        if now - before < 1e-5 * total:
            break
        before = now
    return u, v


def core(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """What the bases leave of a weight, (outer, inner, kh, kw)."""
    seen = (u.T.to(weight.dtype) @ weight.flatten(1)).view(-1, *weight.shape[1:])
    return torch.matmul(v.T.to(weight.dtype), seen.flatten(2)).unflatten(2, weight.shape[2:])


def _over_inputs(weight: Tensor) -> Tensor:
    """The Gram matrix of the unfolding over inputs, (c, c) in doubles, some filters at a time."""
    total = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.double)
    for part in weight.split(max(1, CHUNK // weight[0].numel())):
        total += gram(part.transpose(0, 1).flatten(1))
    return total
