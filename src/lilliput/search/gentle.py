"""The gentlest recipe that is measured to meet a budget, found without a search by training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

from torch import nn

from lilliput.core.method import Method
from lilliput.distill import Hinton
from lilliput.errors import BudgetError, ConfigError, ModelError, WorkError
from lilliput.measure import Latency, profile
from lilliput.measure.accuracy import accuracy
from lilliput.prune import Channels
from lilliput.quant import Quantize
from lilliput.quant.rate import RateQuantize
from lilliput.recipe import Bench, Recipe, look, run
from lilliput.search.budget import MARGIN, Budget
from lilliput.search.candidates import INTACT, RATE, RATE_INT8, Candidate
from lilliput.search.finish import TEXT, Finisher
from lilliput.search.rate import pack
from lilliput.store import file_bytes
from lilliput.train import BatchNorm, Fit

SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
IMAGES = 2000  # of the validation split, that candidates are compared on


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
    """A candidate and what was measured of it, before any training; `rounded` where that is for the file."""

    shrink: Channels | None
    int8: bool
    ms: float
    ratio: float
    bytes: int
    meets: bool
    proxy: float | None = None
    memory: int = 0
    rounded: RateQuantize | None = None
    chosen: bool = False

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods of this candidate, in order."""
        integers = Quantize() if self.rounded is None else RATE_INT8.then[0]
        return tuple(m for m in (self.shrink, self.rounded, integers if self.int8 else None) if m is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"methods": [m.text() for m in self.methods], "ms": self.ms, "ratio": self.ratio, "bytes": self.bytes,
                "memory": self.memory, "meets": self.meets, "proxy_accuracy": self.proxy, "chosen": self.chosen}  # fmt: skip


@dataclass(frozen=True)
class Proposal:
    """The recipe chosen, and everything that was tried on the way."""

    recipe: Recipe
    tried: tuple[Shown, ...]
    reachable: bool
    front: tuple[dict[str, Any], ...] = ()


def propose(
    model: nn.Module, bench: Bench, budget: Budget, clock: Comparing, *, epochs: int, say: Callable[[str], None]
) -> Proposal:
    """The gentlest recipe of a few that is measured to meet the size, latency and memory budgets.

    First what needs no training: the network as it is, and in int8. If int8 meets the budgets (and keeps its accuracy to
    `max_drop` on the validation split), that is the recipe. Where only the file is too large, weights are rounded for just its
    size, and trained as they were rounded unless `max_drop` is kept without. Otherwise inner and all channels are thinned from
    wide to narrow, in int8 where that is faster on this machine, until the network, exported and timed against the uncompressed
    one in the same run, meets the budget, or meets all of it but the file and is rounded for that; where both ways lead there,
    the validation accuracy without training decides, after batch norm is estimated again. Nothing is chosen on the test split.
    """
    finder = _Finder(model, bench, budget, clock, say)
    tried = finder.search()
    able = [t for t in tried if t.meets]
    best = max(able, key=finder.worth) if able else min(tried, key=finder.excess)
    told = tuple(replace(t, chosen=t is best and t.meets) for t in tried)
    return Proposal(finder.recipe(best, epochs), told, bool(able))


class _Finder:
    """Measures candidates from the gentlest on."""

    def __init__(self, model: nn.Module, bench: Bench, budget: Budget, clock: Comparing, say: Callable[[str], None]) -> None:
        self.model, self.bench, self.budget, self.clock, self.say = model, bench, budget, clock, say
        self.task, self.look = bench.task, look(bench)
        self.start = {"bytes": file_bytes(model), "memory": profile(model, self.look.example).peak_activation_bytes}

    def search(self) -> list[Tried]:
        """What was tried, in order; those that meet the budget carry the accuracy they start from."""
        whole, int8 = self.measure(None, False), self.measure(None, True)
        if int8.meets or whole.meets:
            return [whole, int8]
        for each in (int8, whole) if int8.ms < whole.ms and self.intact(int8) else (whole, int8):
            if (rounded := self.rounded(each)) is not None:
                return [whole, int8, rounded]
        return [whole, int8, *self.thinned(int8.ms < whole.ms or self.budget.latency is None)]

    def intact(self, int8: Tried) -> bool:
        """Whether integers know nearly what floats know, so that rounding them for the file loses no more; asked for a file."""
        if self.size is None:
            return True
        found = self.accuracy(Quantize()(self.model, self.look)) if int8.proxy is None else int8.proxy
        return self.right - found <= INTACT

    def thinned(self, int8: bool) -> Iterable[Tried]:
        """For inner and for all channels, candidates down to the first that meets the budget, rounded or not."""
        if not int8:
            self.say("int8 is not faster than floats here, so it is left out")
        for scope in ("inner", "all"):
            for shrink in self.shrinks(scope):
                tried = self.measure(shrink, int8)
                yield tried
                if tried.meets:
                    break
                if (rounded := self.rounded(tried)) is not None:
                    yield rounded
                    break

    def rounded(self, tried: Tried) -> Tried | None:
        """The candidate rounded for a file of just the size, where its file is all that is too large; times and memory stay."""
        over = [name for name, share in self.taken(tried).items() if share > 1]
        if over != ["size"]:
            return None
        assert self.size is not None
        then, size = (RATE_INT8 if tried.int8 else RATE).then, self.size - (TEXT if tried.shrink else 0)
        try:
            found = pack(self.shaped(tried.shrink), self.task, size=size, seed=self.look.seed, then=then)
        except (ConfigError, WorkError) as error:
            self.say(f"rounded for the file: {error}")
            return None
        made = replace(tried, rounded=found.method, bytes=found.bytes, proxy=self.accuracy(found.model), meets=True)
        self._tell(made)
        return made

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
        small = self.shaped(shrink)
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

    def shaped(self, shrink: Channels | None) -> nn.Module:
        """The network with its channels thinned, in floats; whoever trains it finds it done."""
        return self.model if shrink is None else run(self.model, Recipe((shrink, BatchNorm())), self.bench).model

    def recipe(self, chosen: Tried, epochs: int) -> Recipe:
        """What makes a candidate, with the training that it wants."""
        fit = Fit(batch_size=min(Fit().batch_size, len(self.task.train)))
        shape = () if chosen.shrink is None else (chosen.shrink, BatchNorm())
        ends = tuple(m for m in chosen.methods if m is not chosen.shrink)
        if chosen.rounded is None:
            return Recipe((*shape, *((replace(fit, epochs=epochs, distill=Hinton()),) if shape else ()), *ends))
        if not shape and self.budget.max_drop is not None and self.keeps(chosen.proxy or 0.0):
            return Recipe(ends)
        self.say(f"training for {epochs} epochs, rounded for the file on the way")
        ending = Candidate("rounded", shape, (RATE_INT8 if chosen.int8 else RATE).name)
        finish = Finisher(self.model, self.bench, fit, self.size)
        for halfway in (True, False):  # training as it was rounded adds a little to a file
            try:
                return Recipe(finish(ending, [epochs], None, only=halfway))
            except BudgetError as error:
                self.say(f"rounded {'halfway' if halfway else 'after training'}: {error}")
        return Recipe((*shape, *ends))

    def _tell(self, tried: Tried) -> None:
        name = ", ".join(m.text() for m in tried.methods) or "as it is"
        fate = ""
        if tried.proxy is not None:
            state = "before training" if tried.shrink or tried.rounded else "without training"
            fate = f", {100 * tried.proxy:.1f} % on validation {state}"
            fate += ", meets the budget" if tried.meets else ", too much is lost"
        self.say(f"{name}: {tried.ratio:.2f}x latency, {tried.bytes / 1000:,.0f} kB{fate}")

    @property
    def size(self) -> float | None:
        """The bytes that a file may have."""
        return None if self.budget.size is None else self.budget.size.of(self.start["bytes"])

    def taken(self, tried: Tried) -> dict[str, float]:
        """Size, latency and memory as shares of what is aimed for, where they are limited."""
        return self.budget.taken(self.start, tried.bytes, tried.ms, tried.ratio, tried.memory, MARGIN)

    def excess(self, tried: Tried) -> float:
        """The worst of them; at most 1 meets the budget."""
        return max(self.taken(tried).values(), default=0.0)

    def keeps(self, found: float) -> bool:
        """Whether a network that will not be trained is accurate enough."""
        return self.budget.max_drop is None or self.budget.keeps(self.right, found)

    def worth(self, tried: Tried) -> float:
        """What is compared between candidates that meet the budget: accuracy, or speed where only accuracy is limited."""
        if self.budget.size is None and self.budget.latency is None and self.budget.memory is None:
            return -tried.ms
        return tried.proxy or 0.0

    @cached_property
    def right(self) -> float:
        """Validation accuracy of the uncompressed network, on the images candidates are seen on."""
        return self.accuracy(self.model)

    def accuracy(self, model: nn.Module) -> float:
        """Accuracy on up to `IMAGES` validation images."""
        batches = self.task.batches("val", 250, shuffle_seed=self.look.seed)
        return accuracy(model, islice(batches, IMAGES // 250), self.task.metric).value
