"""Ranks of one layer: given, by energy, by the noise in the spectrum, and the ladder that budgets choose from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lilliput.factor.chain import Chain, Mode, Ranks
from lilliput.factor.sites import Site
from lilliput.factor.spectra import reaching, tail

RUNGS = 48  # of the ladder of one layer and form
FULL, VBMF = "full", "vbmf"
Rank = int | float | str | Sequence[int]


@dataclass(frozen=True)
class Rung:
    """A layer in one form at one rank: its cost, and the share of the weight's energy that it loses (at most)."""

    form: type[Chain]
    ranks: Ranks
    options: dict[str, Any]
    error: float
    macs: int
    params: int


class Offer:
    """One form for one layer: what its ranks keep and cost. `weight` is (n, c, kh, kw), whitened or not."""

    def __init__(self, site: Site, form: type[Chain], options: dict[str, Any], weight: Tensor, multiple: int = 1) -> None:
        self.site, self.form, self.options, self.multiple, self.weight = site, form, options, multiple, weight
        self.largest = form.largest(site.seen, **options)

    @cached_property
    def modes(self) -> list[Mode]:
        """What the ranks keep; computed where something asks, since given ranks need no spectrum."""
        return self.form.modes(self.weight, **self.options)

    def rung(self, ranks: Ranks) -> Rung:
        """This form at these ranks, with what it loses."""
        return replace(self.priced(ranks), error=self._error(ranks))

    def _error(self, ranks: Ranks) -> float:
        return min(1.0, sum(tail(m.energies, r) for m, r in zip(self.modes, ranks, strict=True)))

    def priced(self, ranks: Ranks) -> Rung:
        """This form at these ranks, with nothing said of what it loses."""
        macs, params = self.form.price(self.site.seen, ranks, self.site.sizes, **self.options)
        return Rung(self.form, ranks, self.options, math.nan, macs, params)

    def given(self, rank: Rank) -> Rung:
        """A number, a share of the largest, "full", "vbmf", or one number for each rank of the form."""
        if rank == VBMF:
            return self.vbmf(1.0)
        if rank == FULL:
            return self.priced(self.largest)
        if isinstance(rank, float):
            return self.priced(self.rounded([rank * most for most in self.largest]))
        if isinstance(rank, int):
            rank = (rank,) * len(self.largest)
        assert not isinstance(rank, str)
        return self.priced(self.form.ranks(self.site.seen, tuple(rank), **self.options))

    def energy(self, share: float) -> Rung:
        """The smallest ranks that keep this share of the energy in each mode."""
        return self.rung(self.rounded([reaching(m.energies, share) for m in self.modes], up=True))

    def within(self, error: float) -> Rung:
        """The smallest ranks whose relative error ‖W − Ŵ‖ / ‖W‖ is at most `error`."""
        return self.energy(1 - error**2 / len(self.modes))

    def vbmf(self, strength: float) -> Rung:
        """The ranks that stand out of the noise; at a `strength` below 1 only that part of the way from the largest to them."""
        found = self.form.standing_out(self.weight, self.modes, **self.options)
        return self.rung(self.rounded([most - strength * (most - r) for most, r in zip(self.largest, found, strict=True)]))

    def ladder(self) -> list[Rung]:
        """Ranks from small to large, and with several modes those that keep about the same in each; cheaper ones only."""
        steps: list[Ranks]
        if len(self.modes) == 1:
            steps = [self.rounded([most]) for most in _spaced(self.largest[0])]
        else:
            lost = torch.logspace(-3, -0.01, RUNGS).tolist()
            steps = [self.rounded([reaching(m.energies, 1 - e) for m in self.modes]) for e in lost]
        return [self.rung(ranks) for ranks in sorted(set(steps))]

    def rounded(self, wanted: Sequence[float], up: bool = False) -> Ranks:
        """Whole ranks in multiples, between 1 and the largest."""
        m = self.multiple
        whole = [m * max(1, int(-(-(w - 1e-9) // m)) if up else round(w / m)) for w in wanted]
        return tuple(min(r, most) for r, most in zip(whole, self.largest, strict=True))


def _spaced(most: int) -> list[int]:
    """Up to `RUNGS` ranks from 1 to the largest, dense where they are small."""
    if most <= RUNGS:
        return list(range(1, most + 1))
    return sorted({max(1, round(most * (i / RUNGS) ** 1.5)) for i in range(1, RUNGS + 1)})
