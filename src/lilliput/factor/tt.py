"""A convolution as a tensor train over input channels, rows, columns and output channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lilliput.factor.chain import Chain, Mode, Ranks, form
from lilliput.factor.shape import Link, Shape
from lilliput.factor.spectra import energies, factors
from lilliput.factor.tucker import bases, core


@form
class TensorTrain(Chain):
    """A convolution as 1x1, kh x 1, 1 x kw and 1x1: one link for every core of the train.

    W[n, c, y, x] ≈ A[c]·B[y]·C[x]·D[n],   ranks r_in behind A, r_mid, r_out before D;   ‖W − Ŵ‖² ≤ Σ tails of unfoldings
    Costs c·r_in + r_in·r_mid·kh + r_mid·r_out·kw + r_out·n multiply-adds, where each link runs.
    Oseledets 2011; for convolutions Garipov et al. 2016, arXiv:1611.03214.
    """

    name = "tt"
    rank_names = ("rank_out", "rank_mid", "rank_in")

    @classmethod
    def refuses(cls, seen: Shape, **options: Any) -> str | None:
        """A train needs a kernel to pass through."""
        return "its kernel is 1x1, where two links do; take `svd`" if seen.area == 1 else None

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """The ranks of the three unfoldings."""
        n, c, (kh, kw) = seen.outputs, seen.inputs, seen.kernel
        return min(n, c * kh * kw), min(n * kw, c * kh), min(c, n * kh * kw)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """Reduce, vertical, horizontal, expand."""
        outer, middle, inner = ranks
        return [
            Link("reduce", seen.inputs, inner),
            seen.tall("vertical", inner, middle),
            seen.wide("horizontal", middle, outer),
            Link("expand", outer, seen.outputs),
        ]

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """The energies of the three unfoldings."""
        n, c, kh, kw = weight.shape
        sides = weight.permute(0, 3, 1, 2).reshape(n * kw, c * kh)
        return [Mode(energies(m), *m.shape) for m in (weight.flatten(1), sides, weight.transpose(0, 1).flatten(1))]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """Bases of both channel axes, then the core between them as a column and a row."""
        outer, middle, inner = self.ranks_made
        u, v = bases(weight, outer, inner)
        inside = core(weight, u, v)
        kh, kw = inside.shape[2:]
        sides = inside.permute(0, 3, 1, 2).reshape(outer * kw, inner * kh)
        kept = min(middle, *sides.shape)  # a core of small outer ranks has no larger one between
        left, right = (side.new_zeros(shape) for side, shape in ((sides, (outer * kw, middle)), (sides, (middle, inner * kh))))
        left[:, :kept], right[:kept] = factors(sides, kept)
        return {
            "reduce": v.T,
            "vertical": right.reshape(middle, inner, kh),
            "horizontal": left.reshape(outer, kw, middle).transpose(1, 2),
            "expand": u,
        }
