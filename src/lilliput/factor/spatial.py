"""A square kernel as a column and a row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lilliput.factor.chain import Chain, Mode, Ranks, form
from lilliput.factor.shape import Link, Shape
from lilliput.factor.spectra import energies, factors


@form
class Spatial(Chain):
    """A kh x kw convolution as kh x 1 to `rank` channels, then 1 x kw.

    W as the matrix (n·kw × c·kh) ≈ A·B,   ‖W − A·B‖² = Σ_{i > rank} σ_i²
    Costs rank·(c·kh + n·kw) multiply-adds a position instead of n·c·kh·kw.
    Jaderberg, Vedaldi, Zisserman 2014, arXiv:1405.3866, scheme 2; the closed form is that of Tai et al. 2016, arXiv:1511.06067.
    """

    name = "spatial"

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """The rank of the weight with columns on one side and rows on the other."""
        return (min(seen.outputs * seen.kernel[1], seen.inputs * seen.kernel[0]),)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """Vertical, then horizontal."""
        return [seen.tall("vertical", seen.inputs, ranks[0]), seen.wide("horizontal", ranks[0], seen.outputs)]

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """The squared singular values."""
        matrix = _sides(weight)
        return [Mode(energies(matrix), *matrix.shape)]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """The truncated decomposition, its singular values shared by both."""
        n, c, kh, kw = weight.shape
        rank = self.ranks_made[0]
        left, right = factors(_sides(weight), rank)
        return {
            "vertical": right.reshape(rank, c, kh),
            "horizontal": left.reshape(n, kw, rank).transpose(1, 2),
        }


def _sides(weight: Tensor) -> Tensor:
    """(n·kw, c·kh)."""
    n, c, kh, kw = weight.shape
    return weight.permute(0, 3, 1, 2).reshape(n * kw, c * kh)
