"""Budgets in the user's words, and the gentlest recipe that is measured to meet them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from lilliput.config import Config
from lilliput.core.method import Look, Method
from lilliput.core.perform import perform
from lilliput.data import Task
from lilliput.distill import Hinton
from lilliput.errors import ConfigError
from lilliput.measure import Latency, profile
from lilliput.measure.accuracy import accuracy
from lilliput.prune import Channels
from lilliput.quant import Quantize
from lilliput.recipe import Recipe
from lilliput.train import BatchNorm, Fit, reestimate

UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2}
SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
MARGIN = 0.95  # aim this far below a latency target, since a fresh measurement differs by a few percent


@dataclass(frozen=True)
class Limit:
    """An upper bound: absolute, or (`ratio`) relative to the uncompressed network."""

    value: float
    ratio: bool = False

    def of(self, baseline: float) -> float:
        """The bound as an absolute number."""
        return self.value * baseline if self.ratio else self.value


@dataclass(frozen=True)
class Budget:
    """What the compressed network may cost: bytes of its `.lil`, milliseconds, and points of test accuracy lost."""

    size: Limit | None = None
    latency: Limit | None = None
    max_drop: float | None = None

    @staticmethod
    def read(size: str | None = None, latency: str | None = None, max_drop: float | None = None) -> Budget:
        """Budgets as written on the command line.

        >>> Budget.read(size="0.5MB", latency="0.5x", max_drop=1)
        Budget(size=Limit(value=500000.0, ratio=False), latency=Limit(value=0.5, ratio=True), max_drop=1)
        """
        if max_drop is not None and max_drop < 0:
            raise ConfigError(f"`--max-drop` (={max_drop}) is in points of accuracy, from 0")
        return Budget(
            None if size is None else _limit("--size", size, UNITS, "0.5MB, 80kB or 0.25x"),
            None if latency is None else _limit("--latency", latency, {"ms": 1, "s": 1000, "us": 0.001}, "5ms or 0.5x"),
            max_drop,
        )

    def failures(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        """One line for every budget that `after` misses, with both values; both are rows of `metrics.json`."""
        missed = []
        if self.size is not None and after["file_bytes"] > (limit := self.size.of(before["file_bytes"])):
            missed.append(
                f"size: {after['file_bytes']:,} bytes, {after['file_bytes'] - limit:,.0f} over the {limit:,.0f} asked for"
            )
        if self.latency is not None:
            was, now = before["latency_ms"]["median"], after["latency_ms"]["median"]
            if now > (limit := self.latency.of(was)):
                missed.append(
                    f"latency: {now:.3f} ms ({now / was:.2f}x), {now - limit:.3f} ms over the {limit:.3f} ms asked for"
                )
        if self.max_drop is not None:
            drop = 100 * (before["accuracy"] - after["accuracy"])
            if drop > self.max_drop + 1e-9:
                missed.append(
                    f"accuracy: {drop:.2f} points lost on the test split, "
                    f"{drop - self.max_drop:.2f} more than the {self.max_drop:g} allowed"
                )
        return missed


def _limit(option: str, text: str, units: Mapping[str, float], example: str) -> Limit:
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    unit = found[2].lower() if found else "?"
    if found is None or float(found[1]) <= 0 or (unit != "x" and unit not in units):
        raise ConfigError(f"`{option} {text}` is not a budget; write it like {example}")
    return Limit(float(found[1]), True) if unit == "x" else Limit(float(found[1]) * units[unit])


class Comparing(Protocol):
    """A clock that times several models against each other."""

    def compare(self, models: dict[str, nn.Module]) -> dict[str, Latency]:
        """Latencies measured alternately in one run."""
        ...


@dataclass(frozen=True)
class Tried:
    """A candidate and what was measured of it, before any training."""

    shrink: Channels | None
    int8: bool
    ms: float
    ratio: float
    bytes: int
    meets: bool
    proxy: float | None = None

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods of this candidate, in order."""
        return tuple(m for m in (self.shrink, Quantize() if self.int8 else None) if m is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"methods": [m.text() for m in self.methods], "ms": self.ms, "ratio": self.ratio, "bytes": self.bytes,
                "meets": self.meets, "proxy_accuracy": self.proxy}  # fmt: skip


@dataclass(frozen=True)
class Proposal:
    """The recipe chosen, and everything that was tried on the way."""

    recipe: Recipe
    tried: tuple[Tried, ...]
    reachable: bool


def propose(
    model: nn.Module,
    task: Task,
    look: Look,
    budget: Budget,
    clock: Comparing,
    *,
    epochs: int,
    say: Callable[[str], None],
) -> Proposal:
    """The gentlest recipe of this family that is measured to meet the size and latency budgets.

    For inner and for all channels, in floats and in int8, widths shrink until the network, exported and timed against the
    uncompressed one in the same run, meets the budget. Where several ways lead there, the validation accuracy right after
    pruning and batch norm re-estimation decides. Training then belongs to the recipe. Nothing is chosen on the test split.
    """
    finder = _Finder(model, task, look, budget, clock, say)
    tried = finder.search()
    able = [t for t in tried if t.meets]
    if not able:
        best = min(tried, key=lambda t: finder.excess(t))
        return Proposal(_recipe(best, epochs), tuple(tried), False)
    scored = [finder.scored(t) for t in able] if len(able) > 1 else able
    best = max(scored, key=lambda t: (t.proxy or 0.0, -t.int8, -t.ms))
    others = [t for t in tried if t not in able]
    return Proposal(_recipe(best, epochs), (*others, *scored), True)


def _recipe(chosen: Tried, epochs: int) -> Recipe:
    steps: list[Config] = []
    if chosen.shrink is not None:
        steps += [chosen.shrink, BatchNorm(), Fit(epochs=epochs, distill=Hinton())]
    if chosen.int8:
        steps.append(Quantize())
    return Recipe(tuple(steps))


class _Finder:
    """Measures candidates from the gentlest on."""

    def __init__(
        self, model: nn.Module, task: Task, look: Look, budget: Budget, clock: Comparing, say: Callable[[str], None]
    ) -> None:
        self.model, self.task, self.look, self.budget, self.clock, self.say = model, task, look, budget, clock, say
        self.bytes = profile(model, look.example).bytes

    def search(self) -> list[Tried]:
        """The first candidate of each kind that meets the budget, and all that were tried before it."""
        tried: list[Tried] = []
        for int8 in (False, True):
            whole = self.measure(None, int8)
            tried.append(whole)
            if whole.meets:
                continue
            for scope in ("inner", "all"):
                for shrink in self.shrinks(scope):
                    tried.append(self.measure(shrink, int8))
                    if tried[-1].meets:
                        break
        return tried

    def shrinks(self, scope: str) -> Iterable[Channels]:
        """Uniform widths from wide to narrow, in multiples that blocked kernels like where the layers allow it."""
        seen: set[str] = set()
        for share in SHARES:
            method = Channels(keep=share, scope=scope, multiple=8)
            plan = method.plan(self.model, self.look)
            if plan and (key := str(plan)) not in seen:
                seen.add(key)
                yield method

    def measure(self, shrink: Channels | None, int8: bool) -> Tried:
        """Export a candidate and time it against the uncompressed network."""
        steps = [m for m in (shrink, Quantize() if int8 else None) if m is not None]
        small = self.model
        for method in steps:
            small = method(small, self.look)
        times = self.clock.compare({"baseline": self.model, "candidate": small})
        was, now = times["baseline"].median_ms, times["candidate"].median_ms
        size = profile(small, self.look.example).bytes
        tried = Tried(shrink, int8, now, now / was, size, False)
        tried = Tried(shrink, int8, now, now / was, size, self.excess(tried) <= 1)
        name = ", ".join(m.text() for m in tried.methods) or "unchanged"
        self.say(f"{name}: {tried.ratio:.2f}x latency, {size / 1000:,.0f} kB{', meets the budget' if tried.meets else ''}")
        return tried

    def excess(self, tried: Tried) -> float:
        """The worse of size and latency as a share of what is allowed; at most 1 meets the budget."""
        shares = [0.0]
        if self.budget.latency is not None:
            baseline = tried.ms / tried.ratio
            shares.append(tried.ms / (self.budget.latency.of(baseline) * MARGIN))
        if self.budget.size is not None:
            shares.append((tried.bytes + 4096) / self.budget.size.of(self.bytes))
        return max(shares)

    def scored(self, tried: Tried) -> Tried:
        """The candidate with its validation accuracy before any training."""
        small = self.model
        if tried.shrink is not None:
            small = reestimate(perform(self.model, tried.shrink.plan(self.model, self.look)), self.task, BatchNorm())
        found = accuracy(small, self.task.batches("val", 256), self.task.metric)
        self.say(f"{', '.join(m.text() for m in tried.methods) or 'unchanged'}: {100 * found.value:.1f} % before training")
        return Tried(tried.shrink, tried.int8, tried.ms, tried.ratio, tried.bytes, True, found.value)
