"""Shares of channels, spread over the groups of a network by one number, and the gentlest that meets a target."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lilliput.errors import ConfigError
from lilliput.prune.thinning import Counts, Thinning

FLOOR = 0.1
"""By `global`, no group falls below this share of its channels."""
NEAR = 0.001
"""How far below a target counts are near enough."""
NOUNS = {"keep": "channels", "macs": "multiply-adds", "params": "parameters", "bytes": "bytes", "latency": "latency"}


def spread(thinning: Thinning, allocate: str, multiple: int) -> Callable[[float], Counts]:
    """From a share of all channels to the widths of groups; never narrower at a larger share."""
    sizes = thinning.whole
    if allocate == "uniform" or not sizes:
        return lambda share: tuple(rounded(share, size, multiple) for size in sizes)
    every = torch.cat(list(thinning.scores))

    def over(share: float) -> Counts:
        cut = torch.quantile(every, 1 - share) if share < 1 else every.min()
        shares = [max(FLOOR, float((s >= cut).double().mean())) for s in thinning.scores]
        return tuple(rounded(own, size, multiple) for own, size in zip(shares, sizes, strict=True))

    return over


def gentlest(family: Callable[[float], Counts], cost: Callable[[Counts], float], share: float, name: str) -> Counts:
    """The widest widths of a family that cost no more than a share, to a thousandth of the whole.

    Where the next wider ones would cost too much, the first groups of the network may have these, and the others not.
    Raises `ConfigError` with the smallest share that can be reached.
    """
    low, high = family(0.0), family(1.0)
    if cost(low) > share:
        raise ConfigError(unreachable(name, share, cost(low)))
    if cost(high) <= share:
        return high
    below, above = 0.0, 1.0
    while above - below > 1e-4 and share - cost(low) > NEAR:
        middle = (below + above) / 2
        if cost(family(middle)) <= share:
            below, low = middle, family(middle)
        else:
            above, high = middle, family(middle)
    return low if share - cost(low) <= NEAR else _between(low, high, lambda counts: cost(counts) <= share)


def _between(low: Counts, high: Counts, fits: Callable[[Counts], bool]) -> Counts:
    """The most groups, from the first, that can have the wider of two widths."""
    below, above = 0, len(low)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits((*high[:middle], *low[middle:])) else (below, middle)
    return (*high[:below], *low[below:])


def unreachable(name: str, share: float, least: float) -> str:
    """The message for a target below what can be reached."""
    return (
        f"`{name}` (={share:g}) is out of reach: with as few channels as may be left, {least:.4f} of the {NOUNS[name]} stays. "
        f"Ask for {_up(least)} or more, or let more layers shrink (`scope`, `skip`, `multiple`)."
    )


def rounded(share: float, size: int, multiple: int) -> int:
    """A share of a width as a multiple, at least one of them, at most all.

    >>> rounded(0.7, 16, 1), rounded(0.7, 16, 8), rounded(0.01, 16, 8), rounded(0.95, 13, 8)
    (11, 8, 8, 13)
    """
    if share >= 1:
        return size
    return min(max(1, round(share * size / multiple)) * multiple, size)


def _up(share: float) -> str:
    """A share rounded up to four digits, so that asking for it works."""
    return f"{min(1.0, -(-share * 1e4 // 1) / 1e4):g}"
