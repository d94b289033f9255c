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
from lilliput.factor.spectra import CHUNK, energies, factors

ROUNDS, BITS = 8, 16


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
        work = matrix.clone()  # in turn what the pair is fitted to, what it leaves, and S
        for step in range(ROUNDS if count else 1):
            if step:
                torch.sub(matrix, work, out=work)
            left, right = factors(work, self.ranks_made[0])
            torch.addmm(matrix, left, right, alpha=-1, out=work)
            keep_largest(work.view(-1), count)
        return {"rest": work, "filters": right, "mix": left}

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


def keep_largest(values: Tensor, count: int) -> None:
    """Set all but the `count` largest of (n,) to zero, in place; among equals the first ones stay.

    >>> values = torch.tensor([1.0, -3.0, 2.0, -2.0])
    >>> keep_largest(values, 2)
    >>> values
    tensor([ 0., -3.,  2.,  0.])
    """
    if count == 0:
        values.zero_()
    if not 0 < count < len(values):
        return
    limit, room = _limit(values, count)
    for part in values.split(CHUNK):
        size = part.abs()
        equal = size == limit
        equal &= equal.cumsum(0) <= room
        room -= int(equal.sum())
        part.masked_fill_(~(equal | (size > limit)), 0)


def _limit(values: Tensor, count: int) -> tuple[Tensor, int]:
    """The size of the `count`-th largest, and how many of just that size are among them.

    Sizes are counted by their first bits, so that only those which begin like the one that is sought are sorted.
    """
    counts = torch.zeros(1 << BITS, dtype=torch.long)
    for part in values.split(CHUNK):
        counts += torch.bincount(_first_bits(part), minlength=1 << BITS)
    above = counts.flip(0).cumsum(0)
    place = int((above < count).sum())
    wanted = count - int(above[place - 1] if place else 0)
    alike = [part[_first_bits(part) == len(counts) - 1 - place] for part in values.split(CHUNK)]
    largest = torch.cat(alike).abs().sort(descending=True).values[:wanted]
    return largest[-1], int((largest == largest[-1]).sum())


def _first_bits(values: Tensor) -> Tensor:
    """Exponent and first digits of sizes, which are in the order of the sizes."""
    return values.abs().float().view(torch.int32) >> (31 - BITS)


def _held(density: float) -> float:
    """The share of the energy that the largest entries hold in normal noise: d + 2·t·φ(t), where P(|z| > t) = d."""
    if not 0 < density < 1:
        return float(density)
    t = float(-torch.special.ndtri(torch.tensor(density / 2, dtype=torch.double)))
    return density + 2 * t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
