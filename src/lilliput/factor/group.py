"""A convolution whose filters see some of the channels, and a mixture that brings the groups together."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lilliput.factor.chain import Chain, Mode, Ranks, compose, form, spread
from lilliput.factor.shape import Link, Shape
from lilliput.factor.spectra import energies, factors, pooled


@form
class Group(Chain):
    """A convolution as a grouped one and a 1x1 convolution, itself grouped behind a channel shuffle if `shuffle` is set.

    Inputs fall into g groups; with `shuffle` outputs do too. Every block of W is a matrix of its own and keeps `rank`:
    W_hg (n/h × c/g·k·k) ≈ A_hg·B_hg,   ‖W − Ŵ‖² = Σ_blocks Σ_{i > rank} σ_i²
    Costs rank·h·c·k·k + rank·g·n multiply-adds a position, h being g with the shuffle and 1 without. One group is `svd`;
    without the shuffle these are the channel slices of ALDS.
    Peng et al. 2018, "Extreme network compression via filter group approximation", arXiv:1807.11254; Liebenwein et al. 2021,
    arXiv:2107.11442; the shuffle: Zhang et al. 2018, arXiv:1707.01083.
    """

    name = "group"
    options: ClassVar[dict[str, Any]] = {"groups": 2, "shuffle": False}

    @classmethod
    def refuses(cls, seen: Shape, **options: Any) -> str | None:
        """Channels that do not fall into that many groups."""
        groups = options["groups"]
        if type(groups) is not int or groups < 1:
            return f"`groups` (={groups}) must be at least 1"
        if seen.linear and groups > 1:
            return "it is a linear layer, which has no grouped form; take `svd`"
        if seen.inputs % groups:
            return f"its `{seen.inputs}` inputs do not fall into `{groups}` groups"
        if options["shuffle"] and seen.outputs % groups:
            return f"its `{seen.outputs}` outputs do not fall into `{groups}` groups"
        return None

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """The rank of one block."""
        outer = options["groups"] if options["shuffle"] else 1
        return (min(seen.outputs // outer, seen.inputs // options["groups"] * seen.area),)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """Grouped, then the mixture."""
        groups = options["groups"]
        outer = groups if options["shuffle"] else 1
        middle = groups * outer * ranks[0]
        return [
            seen.full("grouped", seen.inputs, middle, groups),
            Link("mix", middle, seen.outputs, groups=outer),
        ]

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """The energies of all blocks, summed."""
        matrices = _blocks(weight, options["groups"], options["groups"] if options["shuffle"] else 1)
        found = [m for row in matrices for m in row]
        return [Mode(pooled([energies(m) for m in found]), *found[0].shape)]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """Each block's best factors, put where grouped convolution and shuffle look for them."""
        groups, rank = self.chosen["groups"], self.ranks_made[0]
        rows = _blocks(weight, groups, groups if self.chosen["shuffle"] else 1)
        pairs = [[factors(block, rank) for block in row] for row in rows]
        grouped = [torch.cat([row[g][1] for row in pairs]) for g in range(groups)]  # (h·rank, c/g·k·k) each
        mixes = [torch.stack([left for left, _ in row], 2).flatten(1) for row in pairs]  # (n/h, rank·g): rank outermost
        if not self.chosen["shuffle"]:
            mixes = [torch.cat([left for left, _ in pairs[0]], 1)]  # without a shuffle the groups stay outermost
        return {"grouped": torch.cat(grouped), "mix": torch.cat(mixes)}

    def forward(self, x: Tensor) -> Tensor:
        """Grouped, shuffled, mixed."""
        seen = self.get_submodule("grouped")(x)
        if self.chosen["shuffle"]:
            seen = F.channel_shuffle(seen, self.chosen["groups"])
        return self.get_submodule("mix")(seen)  # type: ignore[no-any-return]

    def kernel(self) -> Tensor:
        """The dense weight, the shuffle followed."""
        first = spread(self.get_submodule("grouped"))
        if self.chosen["shuffle"]:
            first = first.unflatten(0, (self.chosen["groups"], -1)).transpose(0, 1).flatten(0, 1)
        return compose(spread(self.get_submodule("mix")), first)


def _blocks(weight: Tensor, groups: int, outer: int) -> list[list[Tensor]]:
    """Rows of blocks, (n / outer, c / groups · k · k) each."""
    return [[block.flatten(1) for block in row.chunk(groups, 1)] for row in weight.chunk(outer, 0)]
