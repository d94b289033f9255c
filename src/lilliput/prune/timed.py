"""Widths by measured time: a table of layer times proposes, the whole network's time disposes.

Greedy, as in NetAdapt (Yang et al. 2018, arXiv:1804.03230), on a table instead of trials: again and again the group and the
width are taken whose leaving saves most time for the worth that is lost. Worth is kept as a product over layers, so that
no layer is thinned away alone. What is proposed is measured as a whole against the given network, and the aim corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from lilliput.errors import ConfigError
from lilliput.measure.shape_times import LayerShape
from lilliput.prune.layout import Layout, candidates
from lilliput.prune.spread import gentlest, spread, unreachable
from lilliput.prune.thinning import Counts, Thinning

TOLERANCE = 0.05
"""How far below a latency target a network may be measured before wider ones are tried."""
_ROUNDS = 8  # networks measured at most
_BY_MACS = 0.1  # how much a share of the multiply-adds counts beside a share of the time
_CLOSE = 1e-9


@runtime_checkable
class LayerClock(Protocol):
    """A clock that also knows single layers, as `lilliput.clock.Clock` does."""

    def __call__(self, model: nn.Module) -> float:
        """Milliseconds of a model."""
        ...

    def ratio(self, model: nn.Module, baseline: nn.Module) -> float:
        """The time of a model as a share of another's, measured in turns; the same answer each time."""
        ...

    def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
        """Milliseconds of layers by their shape."""
        ...


def by_time(
    thinning: Thinning, target: tuple[str, float], allocate: str, multiple: int, clock: Callable[[nn.Module], float]
) -> Counts:
    """Widths that meet a target on latency, or that meet another target and are chosen by time.

    Any function of models does for a latency target with `uniform` or `global` widths; `latency` needs a `LayerClock`.
    Raises `ConfigError` with the smallest share that can be reached for a target below it.
    """
    name, share = target
    if allocate != "latency":
        return _by_family(thinning, share, allocate, multiple, clock)
    if not isinstance(clock, LayerClock):
        raise ConfigError(
            "`allocate` (=latency) chooses by times of single layers, and this look's clock has none; "
            "give it a `lilliput.clock.Clock`"
        )
    walk = Walk(thinning, Layout(thinning, clock.layers), multiple)
    if name == "latency":
        return confirm(lambda aim: walk.widest(name, aim), walk.latency, lambda c: _measured(thinning, c, clock), share)
    return _counted(thinning, walk, name, share)


class Walk:
    """From the whole network down to the narrowest, always by the step that saves most time for what it harms."""

    def __init__(self, thinning: Thinning, layout: Layout, multiple: int) -> None:
        self.thinning, self.layout = thinning, layout
        self.candidates = [candidates(size, multiple) for size in thinning.whole]
        self.harms = [thinning.harms(g) for g in range(len(thinning.groups))]
        layout.prepare(self.candidates)
        self.start = layout.costs(thinning.whole)
        self.steps = self._down()

    def latency(self, counts: Counts) -> float:
        """The predicted share of the time."""
        return self.left("latency", counts)

    def left(self, name: str, counts: Counts) -> float:
        """The share of a cost that is left, by table and formulas."""
        if name == "keep":
            return self.thinning.left(name, counts)
        place = {"latency": 0, "macs": 1}.get(name, 2)
        return self.layout.costs(counts)[place] / self.start[place]

    def widest(self, name: str, aim: float) -> Counts:
        """The first step down that costs no more than a share, with whatever fits given back; else the last step."""
        for counts in self.steps:
            if self.left(name, counts) <= aim + _CLOSE:
                return self._up(counts, name, aim)
        return self.steps[-1]

    def _down(self) -> list[Counts]:
        counts, steps = self.thinning.whole, [self.thinning.whole]
        best: dict[int, tuple[float, int]] = {}
        stale = set(range(len(counts)))
        while True:
            best |= {g: self._best(counts, g) for g in stale}
            g = max(best, key=lambda each: best[each][0], default=0)
            if not best or best[g][0] <= 0:
                return steps
            counts = _with(counts, g, best[g][1])
            steps.append(counts)
            near = set(self.layout.touched[g])
            stale = {h for h, places in enumerate(self.layout.touched) if near.intersection(places)} | {g}

    def _best(self, counts: Counts, g: int) -> tuple[float, int]:
        """The narrower width of a group that saves most for what it harms, and how much that is; 0 if none saves."""
        found = (0.0, counts[g])
        for width in self.candidates[g]:
            if width < counts[g]:
                ms, macs = self._change(counts, g, width)
                rate = -(ms + _BY_MACS * macs) / max(self.harms[g][width] - self.harms[g][counts[g]], _CLOSE)
                found = max(found, (rate, width))
        return found

    def _change(self, counts: Counts, g: int, width: int) -> tuple[float, float]:
        """By how much a group's width changes time and multiply-adds, as shares of the whole network's."""
        now = self.layout.costs(counts, self.layout.touched[g])
        then = self.layout.costs(_with(counts, g, width), self.layout.touched[g])
        return (then[0] - now[0]) / self.start[0], (then[1] - now[1]) / max(self.start[1], 1.0)

    def _up(self, counts: Counts, name: str, aim: float) -> Counts:
        """Widen groups as long as the share is kept: always the width that heals most for its time."""
        while True:
            found: tuple[float, Counts] = (0.0, counts)
            for g, widths in enumerate(self.candidates):
                for width in widths:
                    wider = _with(counts, g, width)
                    if width > counts[g] and self.left(name, wider) <= aim + _CLOSE:
                        ms, _ = self._change(counts, g, width)
                        found = max(found, ((self.harms[g][counts[g]] - self.harms[g][width]) / max(ms, _CLOSE), wider))
            if found[1] == counts:
                return counts
            counts = found[1]


def confirm(
    solve: Callable[[float], Counts], predicted: Callable[[Counts], float], measured: Callable[[Counts], float], share: float
) -> Counts:
    """Widths measured to take at most `share` of the time, and at least that less `TOLERANCE` where such widths are found.

    `solve` gives widths for a predicted share. Prediction and measurement are taken to go together along a line between the
    nearest points known, the whole network's (1, 1) among them.
    """
    goal = share * (1 - TOLERANCE / 2)
    aim, points, seen = goal, [(1.0, 1.0)], {}
    low, high = 0.0, 1.0
    for _ in range(_ROUNDS):
        counts = solve(aim)
        if counts not in seen:
            seen[counts] = measured(counts)
            points.append((predicted(counts), seen[counts]))
        if share * (1 - TOLERANCE) <= seen[counts] <= share:
            return counts
        low, high = (max(low, aim), high) if seen[counts] <= share else (low, min(high, aim))
        aim = _corrected(points, goal)
        if not low < aim < high or solve(aim) in seen:  # what can be built has steps; look between them
            aim = (low + high) / 2
    fitting = [counts for counts, ratio in seen.items() if ratio <= share]
    if not fitting:
        raise ConfigError(unreachable("latency", share, min(seen.values())))
    return max(fitting, key=lambda counts: seen[counts])


def _corrected(points: Sequence[tuple[float, float]], goal: float) -> float:
    """The prediction that should measure as the goal."""
    above = min((p for p in points if p[1] > goal), key=lambda point: point[1])
    below = max((p for p in points if p[1] <= goal), key=lambda point: point[1], default=None)
    if below is None:
        above, below = (1.0, 1.0), min(points)
        if below[1] >= 1:  # no faster than the whole, and so no line to go by
            return below[0] * goal
    slope = (above[0] - below[0]) / (above[1] - below[1]) if above[1] != below[1] else 1.0
    return max(below[0] + (goal - below[1]) * slope, 0.0)


def _by_family(thinning: Thinning, share: float, allocate: str, multiple: int, clock: Callable[[nn.Module], float]) -> Counts:
    """A latency target with uniform or global widths: predicted by the table, or by multiply-adds where there is none."""
    family = spread(thinning, allocate, multiple)
    if isinstance(clock, LayerClock):
        layout = Layout(thinning, clock.layers)
        whole = layout.costs(thinning.whole)[0]

        def predicted(counts: Counts) -> float:
            return layout.costs(counts)[0] / whole

    else:

        def predicted(counts: Counts) -> float:
            return thinning.left("macs", counts)

    def solve(aim: float) -> Counts:
        least = family(0.0)
        return gentlest(family, predicted, aim, "latency") if predicted(least) <= aim else least

    return confirm(solve, predicted, lambda counts: _measured(thinning, counts, clock), share)


def _counted(thinning: Thinning, walk: Walk, name: str, share: float) -> Counts:
    """Widths chosen by time that meet a target on what can be counted; formulas propose, the profile decides."""
    aim = share
    for _ in range(_ROUNDS):
        counts = walk.widest(name, aim)
        left = thinning.left(name, counts)
        if left <= share:
            return counts
        if counts == walk.steps[-1]:
            break
        aim *= share / left * (1 - 1e-3)
    raise ConfigError(unreachable(name, share, thinning.left(name, walk.steps[-1])))


def _measured(thinning: Thinning, counts: Counts, clock: Callable[[nn.Module], float]) -> float:
    """The time of the thinned network as a share of the given one's."""
    thinned = thinning.performed(counts)
    if isinstance(clock, LayerClock):
        return clock.ratio(thinned, thinning.model)
    return clock(thinned) / clock(thinning.model)


def _with(counts: Counts, g: int, width: int) -> Counts:
    return (*counts[:g], width, *counts[g + 1 :])
