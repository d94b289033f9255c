"""A convolution as a sum of rank-one kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lilliput.factor.als import Rotated, fit
from lilliput.factor.chain import Chain, Mode, Ranks, form
from lilliput.factor.shape import Link, Shape
from lilliput.factor.spectra import energies
from lilliput.factor.vbmf import vbmf_rank


@form
class CP(Chain):
    """A convolution as 1x1, depthwise kh x 1, depthwise 1 x kw and 1x1.

    W[n, c, y, x] ≈ Σ_r N[n, r]·C[c, r]·Y[y, r]·X[x, r], by alternating least squares from the strongest singular vectors of the
    kernel's slices, then the correction that keeps the error and lowers the size of the terms, so that they do not cancel and
    training stays stable (factor/als).
    Costs rank·(c + kh + kw + n) multiply-adds, where each link runs.
    Lebedev et al. 2015, arXiv:1412.6553; Phan et al. 2020, arXiv:2008.05441.
    """

    name = "cp"

    @classmethod
    def refuses(cls, seen: Shape, **options: Any) -> str | None:
        """A 1x1 kernel is a matrix, whose terms are singular vectors."""
        return "its kernel is 1x1, where two links do; take `svd`" if seen.area == 1 else None

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """Every position of the kernel as a matrix of its own."""
        return (seen.area * min(seen.inputs, seen.outputs),)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """Reduce, vertical, horizontal, expand."""
        r = ranks[0]
        return [
            Link("reduce", seen.inputs, r),
            seen.tall("vertical", r, r, groups=r),
            seen.wide("horizontal", r, r, groups=r),
            Link("expand", r, seen.outputs),
        ]

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """Energies of the terms the fit starts from: no rank does worse than they say."""
        found = Rotated(weight).spectra().flatten()
        return [Mode(found.sort(descending=True).values, weight.shape[0] * weight.shape[1], weight[0, 0].numel())]

    @classmethod
    def standing_out(cls, weight: Tensor, modes: Sequence[Mode], **options: Any) -> list[int]:
        """The larger of both channel unfoldings' ranks."""
        unfolded = (weight.flatten(1), weight.transpose(0, 1).flatten(1))
        return [max(vbmf_rank(energies(m), *m.shape) for m in unfolded)]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """The four factors, equally large in every term."""
        n, c, y, x = fit(weight, self.ranks_made[0])
        return {"reduce": c.T, "vertical": y.T[:, None, :, None], "horizontal": x.T[:, None, None, :], "expand": n}
