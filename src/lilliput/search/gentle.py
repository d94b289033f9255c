"""The gentlest recipe that is measured to meet a budget, found without training anything."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from lilliput.config import Config
from lilliput.core.method import Look, Method
from lilliput.core.record import record
from lilliput.data import Task
from lilliput.distill import Hinton
from lilliput.errors import ConfigError, ModelError
from lilliput.measure import Latency, profile
from lilliput.measure.accuracy import accuracy
from lilliput.prune import Channels
from lilliput.quant import Quantize
from lilliput.recipe import Recipe
from lilliput.search.budget import Budget
from lilliput.store import save
from lilliput.train import BatchNorm, Fit, reestimate

SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
IMAGES = 2000  # of the validation split, that candidates are compared on
MARGIN = 0.95  # aim this far below a latency target, since a fresh measurement differs by a few percent


class Comparing(Protocol):
    """A clock that times several models against each other."""

    def compare(self, models: dict[str, nn.Module]) -> dict[str, Latency]:
        """Latencies measured alternately in one run."""
        ...


class Shown(Protocol):
    """A candidate that the report can show."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
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
    memory: int = 0

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods of this candidate, in order."""
        return tuple(m for m in (self.shrink, Quantize() if self.int8 else None) if m is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"methods": [m.text() for m in self.methods], "ms": self.ms, "ratio": self.ratio, "bytes": self.bytes,
                "memory": self.memory, "meets": self.meets, "proxy_accuracy": self.proxy}  # fmt: skip


@dataclass(frozen=True)
class Proposal:
    """The recipe chosen, and everything that was tried on the way."""

    recipe: Recipe
    tried: tuple[Shown, ...]
    reachable: bool
    front: tuple[dict[str, Any], ...] = ()


def propose(
    model: nn.Module, task: Task, look: Look, budget: Budget, clock: Comparing, *, epochs: int, say: Callable[[str], None]
) -> Proposal:
    """The gentlest recipe of this family that is measured to meet the size, latency and memory budgets.

    First what needs no training: the network as it is, and in int8. If int8 meets the budgets (and keeps its accuracy to
    `max_drop` on the validation split), that is the recipe. Otherwise inner and all channels are thinned from wide to narrow,
    in int8 where that is faster on this machine, until the network, exported and timed against the uncompressed one in the
    same run, meets the budget; where both ways lead there, the validation accuracy right after pruning and batch norm
    re-estimation decides. Nothing is chosen on the test split.
    """
    finder = _Finder(model, task, look, budget, clock, say)
    tried = finder.search()
    able = [t for t in tried if t.meets]
    if not able:
        nearest = min(tried, key=finder.excess)
        return Proposal(_recipe(nearest, epochs), tuple(tried), False)
    best = max(able, key=finder.worth)
    return Proposal(_recipe(best, epochs), tuple(tried), True)


def _recipe(chosen: Tried, epochs: int) -> Recipe:
    steps: list[Config] = []
    if chosen.shrink is not None:
        steps += [chosen.shrink, BatchNorm(), Fit(epochs=epochs, distill=Hinton())]
    if chosen.int8:
        steps.append(Quantize())
    return Recipe(tuple(steps))


def file_bytes(model: nn.Module) -> int:
    """What a network's `.lil` weighs; its tensors alone where nothing says how to build the network again."""
    if record(model).architecture is None:
        return sum(t.numel() * t.element_size() for t in model.state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        return save(model, Path(folder) / "model.lil")


class _Finder:
    """Measures candidates from the gentlest on."""

    def __init__(
        self, model: nn.Module, task: Task, look: Look, budget: Budget, clock: Comparing, say: Callable[[str], None]
    ) -> None:
        self.model, self.task, self.look, self.budget, self.clock, self.say = model, task, look, budget, clock, say
        self.bytes, self.memory = file_bytes(model), profile(model, look.example).peak_activation_bytes

    def search(self) -> list[Tried]:
        """What was tried, in order; those that meet the budget carry the accuracy they start from."""
        whole, int8 = self.measure(None, False), self.measure(None, True)
        if int8.meets or whole.meets:
            return [whole, int8]
        return [whole, int8, *self.thinned(int8.ms < whole.ms or self.budget.latency is None)]

    def thinned(self, int8: bool) -> Iterable[Tried]:
        """For inner and for all channels, candidates down to the first that meets the budget."""
        if not int8:
            self.say("int8 is not faster than floats here, so it is left out")
        for scope in ("inner", "all"):
            for shrink in self.shrinks(scope):
                tried = self.measure(shrink, int8)
                yield tried
                if tried.meets:
                    break

    def shrinks(self, scope: str) -> Iterable[Channels]:
        """Uniform widths from wide to narrow, in multiples that blocked kernels like where the layers allow it."""
        seen: set[str] = set()
        for share in SHARES:
            method = Channels(keep=share, scope=scope, multiple=8)
            try:
                plan = method.plan(self.model, self.look)
            except (ConfigError, ModelError):  # nothing can leave, or nothing at this share
                continue
            if (key := str(plan)) not in seen:
                seen.add(key)
                yield method

    def measure(self, shrink: Channels | None, int8: bool) -> Tried:
        """Time a candidate against the uncompressed network; if it is fast and small enough, see how accurate it is."""
        small = shrink(self.model, self.look) if shrink else self.model
        if shrink is not None:
            small = reestimate(small, self.task, BatchNorm())
        small = Quantize()(small, self.look) if int8 else small
        times = self.clock.compare({"baseline": self.model, "candidate": small})
        was, now = times["baseline"].median_ms, times["candidate"].median_ms
        alive = profile(small, self.look.example).peak_activation_bytes
        tried = Tried(shrink, int8, now, now / was, file_bytes(small), False, memory=alive)
        if self.excess(tried) <= 1:
            found = self.accuracy(small)
            tried = replace(tried, proxy=found, meets=shrink is not None or self.keeps(found))
        self._tell(tried)
        return tried

    def _tell(self, tried: Tried) -> None:
        name = ", ".join(m.text() for m in tried.methods) or "as it is"
        fate = ""
        if tried.proxy is not None:
            state = "before training" if tried.shrink else "without training"
            fate = f", {100 * tried.proxy:.1f} % on validation {state}"
            fate += ", meets the budget" if tried.meets else ", too much is lost"
        self.say(f"{name}: {tried.ratio:.2f}x latency, {tried.bytes / 1000:,.0f} kB{fate}")

    def excess(self, tried: Tried) -> float:
        """The worst of size, latency and memory as a share of what is allowed; at most 1 meets the budget."""
        shares = [0.0]
        if self.budget.latency is not None:
            shares.append(tried.ms / (self.budget.latency.of(tried.ms / tried.ratio) * MARGIN))
        if self.budget.size is not None:
            shares.append(tried.bytes / self.budget.size.of(self.bytes))
        if self.budget.memory is not None:
            shares.append(tried.memory / self.budget.memory.of(self.memory))
        return max(shares)

    def keeps(self, found: float) -> bool:
        """Whether a network that will not be trained is accurate enough."""
        return self.budget.max_drop is None or 100 * (self.start - found) <= self.budget.max_drop

    def worth(self, tried: Tried) -> float:
        """What is compared between candidates that meet the budget: accuracy, or speed where only accuracy is limited."""
        if self.budget.size is None and self.budget.latency is None and self.budget.memory is None:
            return -tried.ms
        return tried.proxy or 0.0

    @cached_property
    def start(self) -> float:
        """Validation accuracy of the uncompressed network, on the images candidates are seen on."""
        return self.accuracy(self.model)

    def accuracy(self, model: nn.Module) -> float:
        """Accuracy on up to `IMAGES` validation images."""
        batches = self.task.batches("val", 250, shuffle_seed=self.look.seed)
        return accuracy(model, islice(batches, IMAGES // 250), self.task.metric).value
