"""One choice for every layer, so that the whole network stays within a budget and as little as possible is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lilliput.registry import Registry

BINS = 1 << 14  # units that a budget is counted in


@dataclass(frozen=True)
class Choice:
    """What a layer could be: its cost in any unit, and what is lost."""

    cost: float
    error: float


Allocate = Callable[[Sequence[Sequence[Choice]], float], "list[int] | None"]
allocations: Registry[Allocate] = Registry("way to share a budget among layers")


def floor(layers: Sequence[Sequence[Choice]]) -> float:
    """The least that all layers can cost together."""
    return sum(min(c.cost for c in choices) for choices in layers)


@allocations.register("sum")
def least_sum(layers: Sequence[Sequence[Choice]], budget: float) -> list[int] | None:
    """The choices with the least sum of errors within the budget, by dynamic programming; None if nothing fits.

    best[b] = min over choices of error + best before at b − cost; costs are rounded up to 1/16384 of what can be spent, so the
    budget always holds. Takes layers · choices · 16384 additions.
    """
    low = [min(c.cost for c in choices) for choices in layers]
    room = budget - sum(low)
    if room < -1e-9 * max(1.0, abs(budget)):
        return None
    unit = max(room, 0.0) / BINS
    best = np.zeros(BINS + 1)
    picks, steps = [], []
    for choices, least in zip(layers, low, strict=True):
        new, pick = np.full(BINS + 1, np.inf), np.zeros(BINS + 1, dtype=np.int32)
        units = [_units(c.cost - least, unit) for c in choices]
        for number, (choice, step) in enumerate(zip(choices, units, strict=True)):
            if step <= BINS:
                reached = np.full(BINS + 1, np.inf)
                reached[step:] = best[: BINS + 1 - step] + choice.error
                better = reached < new
                new[better], pick[better] = reached[better], number
        best = new
        picks.append(pick)
        steps.append(units)
    return _walk_back(picks, steps)


def _units(extra: float, unit: float) -> int:
    """A cost in units, rounded up; what does not fit at all is one more than there are."""
    if extra <= 0:
        return 0
    return BINS + 1 if extra > unit * BINS * (1 + 1e-12) else min(BINS, math.ceil(extra / unit - 1e-9))


def _walk_back(picks: Sequence[np.ndarray], steps: Sequence[list[int]]) -> list[int]:
    """The choices that led to the whole budget, last layer first."""
    left, chosen = BINS, []
    for pick, units in zip(reversed(picks), reversed(steps), strict=True):
        number = int(pick[left])
        chosen.append(number)
        left -= units[number]
    return chosen[::-1]


@allocations.register("max")
def least_max(layers: Sequence[Sequence[Choice]], budget: float) -> list[int] | None:
    """The choices whose largest error is least: every layer as cheap as one common error allows. ALDS's rule.

    Liebenwein et al. 2021, arXiv:2107.11442.
    """
    limits = sorted({c.error for choices in layers for c in choices})
    return _first(limits, lambda limit: [_cheapest(choices, limit) for choices in layers], layers, budget)


@allocations.register("uniform")
def same_share(layers: Sequence[Sequence[Choice]], budget: float) -> list[int] | None:
    """Every layer the same share of its own cost: the best it can have for that."""
    whole = [max(c.cost for c in choices) for choices in layers]
    shares = [i / 1000 for i in range(1000, -1, -1)]
    return _first(shares, lambda s: [_best(c, s * w) for c, w in zip(layers, whole, strict=True)], layers, budget)


def _first(
    limits: Sequence[float], pick: Callable[[float], list[int]], layers: Sequence[Sequence[Choice]], budget: float
) -> list[int] | None:
    """The choices of the first limit that fits; costs fall along `limits`, so halving finds it."""
    low, high = 0, len(limits)
    while low < high:
        middle = (low + high) // 2
        fits = sum(c[i].cost for c, i in zip(layers, pick(limits[middle]), strict=True)) <= budget * (1 + 1e-12)
        low, high = (low, middle) if fits else (middle + 1, high)
    return pick(limits[low]) if low < len(limits) else None


def _cheapest(choices: Sequence[Choice], error: float) -> int:
    """The cheapest choice that loses no more; the whole layer loses nothing."""
    able = [i for i, c in enumerate(choices) if c.error <= error] or [min(range(len(choices)), key=lambda i: choices[i].error)]
    return min(able, key=lambda i: (choices[i].cost, choices[i].error))


def _best(choices: Sequence[Choice], cost: float) -> int:
    """The choice that loses least for that cost, or the cheapest."""
    able = [i for i, c in enumerate(choices) if c.cost <= cost] or [min(range(len(choices)), key=lambda i: choices[i].cost)]
    return min(able, key=lambda i: (choices[i].error, choices[i].cost))
