"""The plainest decomposition: fewer filters, then a mixture of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lilliput.factor.chain import Chain, Mode, Ranks, form
from lilliput.factor.shape import Link, Shape
from lilliput.factor.spectra import energies, factors


@form
class SVD(Chain):
    """A layer as `rank` filters of the whole kernel and a 1x1 convolution that mixes them; a linear layer as two.

    W (n × c·k·k) ≈ A·B,   ‖W − A·B‖² = Σ_{i > rank} σ_i²
    Costs rank·(c·k·k + n) multiply-adds a position instead of n·c·k·k.
    Denton et al. 2014, arXiv:1404.0736; Zhang et al. 2015, arXiv:1505.06798.
    """

    name = "svd"

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """The rank of the weight as a matrix."""
        return (min(seen.outputs, seen.inputs * seen.area),)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """Filters, then the mixture."""
        return [seen.full("filters", seen.inputs, ranks[0]), Link("mix", ranks[0], seen.outputs)]

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """The squared singular values."""
        matrix = weight.flatten(1)
        return [Mode(energies(matrix), *matrix.shape)]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """The truncated decomposition, its singular values shared by both."""
        left, right = factors(weight.flatten(1), self.ranks_made[0])
        return {"filters": right, "mix": left}
