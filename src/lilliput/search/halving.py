"""Successive halving: many candidates for an epoch or two, half of them for twice as long, and so on.

Jamieson and Talwalkar 2016, arXiv:1502.07943. Learning rates restart with every rung, each twice as long as the one before
(Loshchilov and Hutter 2017, arXiv:1608.03983), so that what a rung learned goes on in the next. The last rung takes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARE = 0.85  # of the hours are planned; the rest is for what takes longer than thought, or for the last rung
MOST = 60  # epochs of the last rung


@dataclass(frozen=True)
class Rung:
    """So many candidates train for so many more epochs."""

    entrants: int
    epochs: int


def rungs(candidates: int, seconds: float, epoch: float, judging: float = 0.0, most: int = 8) -> list[Rung]:
    """The rungs for so many candidates, where an epoch of one takes `epoch` seconds and there are `seconds` for all.

    `judging` is what it takes to see the worth of a trained candidate, once on every rung.

    As many start as leave at least an epoch for the first rung; what does not start is last in the order of candidates. Epochs
    that do not fill another round of all rungs go to the winner.

    >>> rungs(6, 3600, 60)
    [Rung(entrants=4, epochs=4), Rung(entrants=2, epochs=8), Rung(entrants=1, epochs=19)]
    """
    if candidates < 1:
        return []
    start = 1
    while 2 * start <= min(candidates, most):
        start *= 2
    while start > 1 and _first(start, seconds, epoch, judging) < 1:
        start //= 2
    first = min(max(1, _first(start, seconds, epoch, judging)), max(1, MOST // start))
    *others, last = (Rung(start >> k, first << k) for k in range(start.bit_length()))
    rest = int(_epochs(start, seconds, epoch, judging)) - first * start * start.bit_length()
    return [*others, Rung(1, min(MOST, last.epochs + max(0, rest)))]


def filling(ladder: Sequence[Rung], seconds: float, epoch: float) -> int:
    """The epochs of the last of several rungs that fill these seconds: no fewer than the one before has, no more than `MOST`.

    >>> filling([Rung(2, 4), Rung(1, 8)], 1500, 100), filling([Rung(2, 4), Rung(1, 8)], 50, 100)
    (15, 4)
    """
    return min(MOST, max(int(seconds / epoch), ladder[-2].epochs))


def _first(start: int, seconds: float, epoch: float, judging: float) -> int:
    """Epochs of the first rung: every rung trains as many in all."""
    return int(_epochs(start, seconds, epoch, judging) / (start.bit_length() * start))


def _epochs(start: int, seconds: float, epoch: float, judging: float) -> float:
    """Epochs of all rungs together; half as many candidates are judged on each rung as on the one before."""
    return (SHARE * seconds - judging * (2 * start - 1)) / epoch


def survivors(values: Mapping[int, float | None], count: int) -> list[int]:
    """The `count` best, in the order they came in; of equals the earlier, and never one that has no value.

    >>> survivors({0: 0.5, 1: 0.9, 2: None, 3: 0.9}, 2)
    [1, 3]
    """
    able = [(-value, number) for number, value in values.items() if value is not None]
    return sorted(number for _, number in sorted(able)[:count])


def due(ladder: Sequence[Rung], values: Sequence[Mapping[int, float | None]]) -> tuple[int, list[int]] | None:
    """The rung that is open and who enters it, or none where all is done; `values` of what is finished, by rung."""
    entrants = list(range(ladder[0].entrants)) if ladder else []
    for number, rung in enumerate(ladder):
        if number:
            entrants = survivors({c: values[number - 1][c] for c in entrants}, rung.entrants)
        if any(c not in values[number] for c in entrants):
            return number, entrants
    return None
