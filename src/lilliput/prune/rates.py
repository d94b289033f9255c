"""How much each layer loses, so that nobody sets rates by hand. One function is one way to share a rate among layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lilliput.registry import Registry

GRID = (0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99)
_UNITS = 2000


@dataclass(frozen=True)
class Part:
    """A layer as rates see it: the scores of its groups of weights, how many weights a group has, and its shape.

    `power`: the scores grow with this power of the weight.
    """

    site: str
    scores: Tensor
    size: int
    shape: tuple[int, ...]
    power: int = 2

    @property
    def weights(self) -> int:
        """How many weights the layer has."""
        return self.size * len(self.scores)


class Trial(Protocol):
    """What it costs to prune one layer alone."""

    def __call__(self, part: Part, groups: int) -> float:
        """The rise of the loss when the layer loses its `groups` least groups."""
        ...


Share = Callable[[Sequence[Part], float, Trial], list[int]]
shares: Registry[Share] = Registry("way to share a rate among layers")


def groups_lost(how: str, parts: Sequence[Part], rate: float, trial: Trial) -> list[int]:
    """How many groups each layer loses so that the share `rate` of all weights goes; each keeps one group at least.

    `trial` is called only by what measures.
    """
    lost = shares[how](parts, rate, trial) if parts and rate else [0] * len(parts)
    return [max(0, min(count, len(part.scores) - 1)) for count, part in zip(lost, parts, strict=True)]


@shares.register("uniform")
def uniform(parts: Sequence[Part], rate: float, trial: Trial) -> list[int]:
    """Every layer the same share."""
    return [round(rate * len(part.scores)) for part in parts]


@shares.register("global")
def anywhere(parts: Sequence[Part], rate: float, trial: Trial) -> list[int]:
    """The least weights of the whole network: one threshold on the mean score of a group."""
    return _threshold(parts, [part.scores.double() / part.size for part in parts], rate)


@shares.register("erk")
def erk(parts: Sequence[Part], rate: float, trial: Trial) -> list[int]:
    """Erdős-Rényi with kernels: the density of a layer is ε·(in + out + kh + kw) / (in·out·kh·kw), at most 1.

    Small layers keep more. Mocanu et al. 2018, arXiv:1707.04780; Evci et al. 2020, "RigL", arXiv:1911.11134.
    """
    weights = torch.tensor([part.weights for part in parts], dtype=torch.double)
    raw = torch.tensor([sum(part.shape) / part.weights for part in parts], dtype=torch.double)
    full = torch.zeros(len(parts), dtype=torch.bool)
    while True:
        left = (1 - rate) * weights.sum() - weights[full].sum()
        density = torch.where(full, torch.ones(()).double(), raw * left / (raw * weights)[~full].sum())
        if not bool((density > 1).any()):
            return [round((1 - float(d)) * len(part.scores)) for d, part in zip(density, parts, strict=True)]
        full |= density > 1


@shares.register("lamp")
def lamp(parts: Sequence[Part], rate: float, trial: Trial) -> list[int]:
    """One threshold on layer-adaptive scores: w² over the sum of w'² of the layer's weights that are not smaller.

    Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.
    """
    return _threshold(parts, [_lamp(part.scores.double() ** (2 / part.power)) for part in parts], rate)


@shares.register("sensitivity")
def sensitivity(parts: Sequence[Part], rate: float, trial: Trial) -> list[int]:
    """Measured: the loss with each layer alone pruned to each rate of `GRID`, then the cheapest choice that adds up.

    The choice is a knapsack, solved by dynamic programming under the assumption that rises of the loss add up.
    Costs thirteen evaluations a layer. He et al. 2018, arXiv:1802.03494, and Han et al. 2015 set such rates by hand.
    """
    options = [sorted({min(round(r * len(p.scores)), len(p.scores) - 1) for r in GRID}) for p in parts]
    rises = [_rising([trial(part, n) for n in each]) for part, each in zip(parts, options, strict=True)]
    whole = sum(part.weights for part in parts)
    target = min(rate * whole, sum(n[-1] * part.size for n, part in zip(options, parts, strict=True)))
    chosen = _knapsack([[n * p.size / target for n in each] for each, p in zip(options, parts, strict=True)], rises)
    return _give_back(parts, options, rises, chosen, target)


def _threshold(parts: Sequence[Part], scores: Sequence[Tensor], rate: float) -> list[int]:
    """The groups of the lowest scores anywhere, until the share `rate` of all weights is gone; no layer loses its best."""
    owner = torch.cat([torch.full((len(s),), i) for i, s in enumerate(scores)])
    size = torch.tensor([part.size for part in parts])[owner]
    spared = torch.cat([torch.nn.functional.one_hot(s.argmax(), len(s)).bool() for s in scores])
    order = torch.argsort(torch.cat(list(scores)), stable=True)
    order = order[~spared[order]]
    gone = order[size[order].cumsum(0) <= round(rate * int(size.sum()))]
    return torch.bincount(owner[gone], minlength=len(parts)).tolist()  # type: ignore[no-any-return]


def _lamp(squares: Tensor) -> Tensor:
    order = torch.argsort(squares, stable=True)
    rest = squares[order].flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares[order] / rest.clamp(min=torch.finfo(torch.double).tiny)
    return scores


def _rising(values: Sequence[float]) -> list[float]:
    """The rise over the first value, never falling: pruning more is not believed to cost less."""
    return (torch.tensor(values, dtype=torch.double) - values[0]).cummax(0).values.tolist()  # type: ignore[no-any-return]


def _knapsack(gains: Sequence[Sequence[float]], costs: Sequence[Sequence[float]]) -> list[int]:
    """One option a layer so that the gains reach 1 (or come as near as they can) at the least cost."""
    best = torch.full((_UNITS + 1,), float("inf"), dtype=torch.double)
    best[0] = 0
    steps = []
    for gain, cost in zip(gains, costs, strict=True):
        moves = [_advance(best, min(_UNITS, int(g * _UNITS))) for g in gain]
        best, pick = torch.stack([moved + c for (moved, _), c in zip(moves, cost, strict=True)]).min(0)
        steps.append((pick, torch.stack([came for _, came in moves])))
    place = int(torch.isfinite(best).nonzero().max())
    chosen = []
    for pick, came in reversed(steps):
        chosen.append(int(pick[place]))
        place = int(came[chosen[-1], place])
    return chosen[::-1]


def _advance(best: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """The cost of each total once `units` are added, and which total that was before; the last stands for all above it."""
    came = torch.arange(_UNITS + 1) - units
    moved = torch.where(came >= 0, best[came.clamp(min=0)], float("inf"))
    came[_UNITS] = _UNITS - units + int(best[_UNITS - units :].argmin())
    moved[_UNITS] = best[came[_UNITS]]
    return moved, came


def _give_back(
    parts: Sequence[Part], options: Sequence[list[int]], rises: Sequence[list[float]], chosen: Sequence[int], target: float
) -> list[int]:
    """The groups lost, less what the choice removes beyond the target, where the last step cost the most a weight."""
    lost = [each[k] for each, k in zip(options, chosen, strict=True)]
    surplus = sum(n * part.size for n, part in zip(lost, parts, strict=True)) - target
    steps = [
        ((rise[k] - rise[k - 1]) / ((each[k] - each[k - 1]) * part.size), i, each[k] - each[k - 1])
        for i, (part, each, rise, k) in enumerate(zip(parts, options, rises, chosen, strict=True))
        if k
    ]
    for _, i, most in sorted(steps, reverse=True):
        back = min(most, int(surplus // parts[i].size))
        lost[i] -= back
        surplus -= back * parts[i].size
    return lost
