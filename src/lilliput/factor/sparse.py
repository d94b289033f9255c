"""Low rank and sparse: what a few filters do not explain is often a few large weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lilliput.core.edits import Edit, Map
from lilliput.core.maps import WEIGHT_AXIS, Mapping, maps, take
from lilliput.factor.chain import Chain, Mode, Ranks, form, spread
from lilliput.factor.shape import Link, Pair, Shape, macs
from lilliput.factor.spectra import energies, factors

ROUNDS = 8


@form
class LowRankSparse(Chain):
    """A layer as the pair of `svd` plus a convolution that has all but a share of its weights at zero.

    W ≈ A·B + S,   S the `density`·n·c·k·k largest entries of W − A·B; both are fitted in turn.
    Costs rank·(c·k·k + n) + density·n·c·k·k effective multiply-adds a position; a runtime without sparse kernels runs S whole.
    The map `support` keeps the zeros of S where they are while it is trained.
    Zhou and Tao 2011, "GoDec"; in networks Yu et al. 2017, "On compressing deep models by low rank and sparse decomposition".
    """

    name = "low_rank_sparse"
    options: ClassVar[dict[str, Any]] = {"density": 0.05}
    whitens = False

    @classmethod
    def refuses(cls, seen: Shape, **options: Any) -> str | None:
        """A share that is none."""
        density = options["density"]
        fits = isinstance(density, int | float) and not isinstance(density, bool) and 0 <= density <= 1
        return None if fits else f"`density` (={density}) is the share of weights that stays, from 0 to 1"

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """The rank of the weight as a matrix."""
        return (min(seen.outputs, seen.inputs * seen.area),)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """The remainder, then the pair, whose last link has the bias."""
        filters = seen.full("filters", seen.inputs, ranks[0])
        return [seen.full("rest", seen.inputs, seen.outputs), filters, Link("mix", ranks[0], seen.outputs)]

    @classmethod
    def price(cls, seen: Shape, ranks: Ranks, sizes: Sequence[Pair], **options: Any) -> tuple[int, int]:
        """Effective multiply-adds and weights: the zeros are not counted."""
        rest, *two = cls.links(seen, ranks, **options)
        return (
            macs(two, sizes) + math.ceil(options["density"] * macs([rest], sizes)),
            sum(link.params for link in two) + math.ceil(options["density"] * rest.params),
        )

    @classmethod
    def edits(cls, site: str, spec: dict[str, Any]) -> list[Edit]:
        """The swap, and the map that holds the zeros."""
        return [*super().edits(site, spec), Map(f"{site}.rest", "weight", "support")]

    @classmethod
    def modes(cls, weight: Tensor, density: float = 0.0, **options: Any) -> list[Mode]:
        """The squared singular values; of what the rank leaves, the largest entries take what they hold in normal noise."""
        found = energies(weight.flatten(1))
        share = _held(density)
        left = found * (1 - share)
        left[0] = found[0] + share * found[1:].sum()
        return [Mode(left, weight.shape[0], weight[0].numel())]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """The pair from the weight without S, then S from the weight without the pair."""
        matrix = weight.flatten(1)
        count = round(self.chosen["density"] * matrix.numel())
        rest = torch.zeros_like(matrix)
        for _ in range(ROUNDS if count else 1):
            left, right = factors(matrix - rest, self.ranks_made[0])
            rest = largest(matrix - left @ right, count)
        return {"rest": rest, "filters": right, "mix": left}

    def forward(self, x: Tensor) -> Tensor:
        """The pair and the remainder, added."""
        pair: Tensor = self.get_submodule("mix")(self.get_submodule("filters")(x))
        return pair + self.beside(x)

    def beside(self, x: Tensor) -> Tensor:
        """What the remainder adds."""
        return self.get_submodule("rest")(x)  # type: ignore[no-any-return]

    def kernel(self) -> Tensor:
        """The dense weight."""
        rest, filters, mix = (spread(child) for child in self.chain)
        return torch.einsum("nryx,rcvu->ncvu", mix, filters) + rest


@maps.register("support")
class Support(Mapping):
    """Weights that are zero when the map is put in place stay zero.

    s(w) = w·[w₀ ≠ 0],   ∂s/∂w = [w₀ ≠ 0]. Costs one bit a weight in memory, and nothing once baked.
    """

    name = "support"
    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    @classmethod
    def like(cls, tensor: Tensor, **spec: Any) -> Support:
        """Everything kept, until `absorb` has seen the zeros."""
        if spec:
            raise TypeError(f"unexpected {', '.join(spec)}")
        return cls(torch.ones_like(tensor, dtype=torch.bool))

    def absorb(self, tensor: Tensor) -> None:
        """Remember where the tensor is zero."""
        self.kept.copy_(tensor != 0)

    def forward(self, w: Tensor) -> Tensor:
        """The weight with its zeros."""
        return w * self.kept

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        """Follow the host."""
        self.kept = take(self.kept, dim if dim is not None else WEIGHT_AXIS[axis], keep)


def largest(matrix: Tensor, count: int) -> Tensor:
    """The matrix with all but its `count` largest entries at zero."""
    flat = matrix.flatten()
    index = flat.abs().topk(count).indices
    return torch.zeros_like(flat).index_copy_(0, index, flat[index]).view_as(matrix)


def _held(density: float) -> float:
    """The share of the energy that the largest entries hold in normal noise: d + 2·t·φ(t), where P(|z| > t) = d."""
    if not 0 < density < 1:
        return float(density)
    t = float(-torch.special.ndtri(torch.tensor(density / 2, dtype=torch.double)))
    return density + 2 * t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
