"""A network that channels may leave: which go at given widths, and what is left of its costs, counted exactly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from lilliput.core.channels import Channels, Group
from lilliput.core.copies import shell
from lilliput.core.edits import Resize
from lilliput.core.perform import perform
from lilliput.errors import ModelError
from lilliput.measure import Profile, profile
from lilliput.prune.slices import makes

Counts = tuple[int, ...]
"""How many atoms each group keeps."""


class Thinning:
    """The groups of a network with the worth of their atoms, (atoms,) a group; the network is not touched.

    Atoms leave in the order of their worth, so a number a group says all.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, found: Channels, groups: Sequence[Group], scores: Sequence[Tensor]
    ) -> None:
        self.model, self.example, self.found, self.groups = model, example[:1], found, tuple(groups)
        self.scores = tuple(s.double().cpu() for s in scores)
        self.orders = tuple(torch.argsort(s, descending=True, stable=True).tolist() for s in self.scores)
        self._known: dict[Counts, Profile] = {}

    @property
    def whole(self) -> Counts:
        """Every group as it is."""
        return tuple(len(group.atoms) for group in self.groups)

    def gone(self, counts: Counts) -> list[int]:
        """The atoms that leave."""
        triples = zip(self.groups, self.orders, counts, strict=True)
        return [group.atoms[i] for group, order, count in triples for i in order[count:]]

    def edits(self, counts: Counts) -> list[Resize]:
        """The edits that leave so many atoms."""
        gone = self.gone(counts)
        return self.found.remove(gone) if gone else []

    def performed(self, counts: Counts) -> nn.Module:
        """The network with so many atoms left."""
        return perform(self.model, self.edits(counts))

    def profile(self, counts: Counts) -> Profile:
        """What is left costs, from a run on shapes alone, or on numbers where the network looks at them."""
        if counts not in self._known:
            bare, example = self._shell
            self._known[counts] = profile(perform(bare, self.edits(counts), weights=False), example)
        return self._known[counts]

    def left(self, cost: str, counts: Counts) -> float:
        """The share of `macs`, `params`, `bytes`, or of the `keep` channels that is left."""
        if cost == "keep":
            return sum(counts) / max(sum(self.whole), 1)
        return float(getattr(self.profile(counts), cost) / max(getattr(self.profile(self.whole), cost), 1))

    def harms(self, group: int) -> list[float]:
        """What it harms to keep 0, 1, … atoms of a group: -log of the share of worth that is left, for each layer that
        makes these channels; infinite at 0."""
        worth = self.scores[group].clamp(min=0)
        worth = (worth if worth.sum() > 0 else torch.ones_like(worth))[self.orders[group]]
        shares = torch.cat([torch.zeros(1), worth.cumsum(0) / worth.sum()])
        makers = sum(makes(self.model, slot) for slot in self.groups[group].slots)
        harms: list[float] = (max(makers, 1) * -shares.clamp(max=1).log()).tolist()
        return harms

    @cached_property
    def _shell(self) -> tuple[nn.Module, Tensor]:
        bare, example = shell(self.model), self.example.to("meta")
        try:
            self._known[self.whole] = profile(bare, example)
        except (ModelError, NotImplementedError):  # what it does depends on numbers, so it has to see some
            bare, example = self.model, self.example.to(next(self.model.parameters(), self.example))
        return bare, example
