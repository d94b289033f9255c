"""Which candidates are worth training: for every family the gentlest amount that is measured to meet the budget."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from lilliput.core.method import Method
from lilliput.errors import BudgetError, ConfigError, DataError, EditError, ExportError, ModelError, TrainError, WorkError
from lilliput.kernels import worth
from lilliput.measure import profile
from lilliput.measure.accuracy import accuracy
from lilliput.recipe import Bench, Recipe, Student, look, run
from lilliput.search.budget import MARGIN, Budget
from lilliput.search.candidates import FAMILIES, FLOAT, INT8, INTACT, RATE, RATE_INT8, Candidate, Family, Finish, distinct
from lilliput.search.remembered import Remembered
from lilliput.store import file_bytes
from lilliput.supernet import Slim
from lilliput.train import Fit, fabric_of

# What says something about a candidate (`DataError`: rounding finds numbers that are none); a full disk or a damaged file does
# not, and ends the search until it is called again.
VERDICTS = (BudgetError, ConfigError, DataError, EditError, ExportError, ModelError, TrainError)
TRIES = 4  # measurements a family and finish
CLOSE = 0.92  # to the budget is near enough
AIM = (CLOSE + 1) / 2
LEAST = 0.08  # of the network stays; a family that must go below is left out
SECONDS = 1.0  # a measurement
VARIANTS = (0.75, 0.5, 0.3)  # amounts where no budget says how much must go
THINNER = (0.6, 0.35)  # shapes beside the whole network where only the file, so finished, asks for less


@dataclass(frozen=True)
class Planned:
    """Candidates in the order in which they are to be tried, what is known of the network as it is, and what was left out."""

    candidates: list[Candidate]
    whole: list[Candidate]
    dropped: dict[str, str]


class Planner:
    """Measures shapes without training them."""

    def __init__(
        self, model: nn.Module, bench: Bench, budget: Budget, clock: Remembered, say: Callable[[str], None],
        families: tuple[Family, ...] = FAMILIES,
    ) -> None:  # fmt: skip
        self.model, self.bench, self.budget, self.clock, self.say = model, bench, budget, clock, say
        self.task, self.look = bench.task, look(bench)
        self.families, self.dropped = families, dict[str, str]()
        self.start = self._told(self._measured(Candidate("as it is", (), "float"), model))
        self.slow: Candidate | None = None  # the network in integers, where they are slower than floats
        self.int8 = self._integers()
        self.ends = self._ends()

    def plan(self) -> Planned:
        """Everything that is worth training, gentlest first: those that keep most multiply-adds."""
        found = [c for family in self.families for c in self._family(family)]
        if self.budget.size is not None:
            whole = [self._try(Candidate("as it is", (), end.name)) for end in self.ends]
            found = [*(c for c in whole if self._excess(c) <= 1), *found]
        ordered = sorted(distinct(found), key=lambda c: -c.macs)
        return Planned(ordered, [c for c in (self.start, self.int8 or self.slow) if c is not None], self.dropped)

    def _integers(self) -> Candidate | None:
        """The network in integers, where that is something to build on here."""
        try:
            found = self._try(Candidate("as it is", (), "int8"))
        except VERDICTS as error:
            self.dropped["int8"] = str(error)
            return None
        if found.ratio < 1 or self.budget.latency is None:
            return found
        self.slow = found
        self.say("int8 is not faster than floats here, so it is left out")
        return None

    def _ends(self) -> tuple[Finish, ...]:
        """The finishes that are worth training for: floats and integers, or their forms for the file where it is limited.

        Where the file is limited they are equally small, so one is enough if it is the file alone that is: the faster; or if
        integers are fast enough as they are, and know what floats know, which would have to shrink.
        """
        floats, integers = (FLOAT, INT8) if self.budget.size is None else (RATE, RATE_INT8)
        if not self.int8:
            return (floats,)
        if self.budget.size is None:
            return floats, integers
        if not self._shapes:
            return (integers if self.int8.ratio < 1 else floats,)
        if not self._whole(integers) or self._whole(floats) or self._lost(self.int8) > INTACT:
            return floats, integers
        self._drop("as it is", floats, "floats would have to shrink to be as fast as integers are without")
        return (integers,)

    def _lost(self, candidate: Candidate) -> float:
        """Accuracy that it lost without training, on validation."""
        return (self.start.accuracy or 0.0) - (candidate.accuracy or 0.0)

    @property
    def _shapes(self) -> bool:
        """Whether the budget limits what a network's shape decides."""
        return self.budget.latency is not None or self.budget.memory is not None

    def _family(self, family: Family) -> Iterator[Candidate]:
        """The candidates of one family, with each finish."""
        ends = self.ends
        if family.packed:
            try:
                ends, family = (FLOAT,), self._paying(family)
            except (*VERDICTS, WorkError) as error:
                return self._drop(family.name, self.ends[0], str(error))
        for end in ends:
            if family.fixed:
                yield from self._fixed(family, end)
            elif self.budget.size is not None and self._whole(end):
                yield from self._variants(family, end, THINNER)
            elif self._shapes:
                yield from self._gentlest(family, end)
            else:
                yield from self._variants(family, end, VARIANTS)

    def _paying(self, family: Family) -> Family:
        """The family kept to the layers that packing makes faster on this machine, in floats; raises `ConfigError` for none."""
        if FLOAT not in self.ends:
            raise ConfigError("rounding for the file makes zeros of its own, for which no kernel gains in integers")
        thin = Candidate(family.name, family.steps(self._first(FLOAT)), FLOAT.name)
        found = worth(self.shaped(thin), self.look.example)
        slow = [each for each in found if not each.pays]
        if len(slow) == len(found):
            raise ConfigError(f"no kernel for zeros gains here ({slow[0]})" if slow else "no layer has weights to spare")
        return family.without(tuple(each.layer for each in slow))

    def _whole(self, end: Finish) -> bool:
        """Whether the whole network, so finished, is fast enough already: a shape just as fast would be nearly the same."""
        known = self.int8 if end.then else self.start
        return known is not None and self._excess(replace(known, finish=end.name)) <= 1

    def _fixed(self, family: Family, end: Finish) -> Iterator[Candidate]:
        """What cannot be made smaller: it meets the budget, or it does not."""
        try:
            found = self._measured(Candidate(family.name, family.steps(1.0), end.name))
            if (over := self._excess(found)) <= 1:
                yield self._told(found)
            else:
                self._drop(family.name, end, f"takes {over:.2f} of what the budget allows")
        except VERDICTS as error:
            self._drop(family.name, end, str(error))

    def _variants(self, family: Family, end: Finish, amounts: tuple[float, ...]) -> Iterator[Candidate]:
        for amount in amounts if family.varied else amounts[:1]:
            name = f"{family.name} {amount:g}"
            try:
                found = self._try(Candidate(name, family.steps(amount), end.name))
            except VERDICTS as error:
                self._drop(name, end, str(error))
            else:
                if (over := self._excess(found)) <= 1:
                    yield found
                else:
                    self._drop(name, end, f"takes {over:.2f} of what the budget allows")

    def _gentlest(self, family: Family, end: Finish) -> Iterator[Candidate]:
        """The amount at which it just meets the budget, if one of a few that are measured is near enough below it."""
        low, high, best, reason = 0.0, 1.0, None, "no amount meets the budget"
        amount, known = self._first(end), list[tuple[float, float]]()
        for _ in range(TRIES):
            try:
                tried = self._measured(Candidate(family.name, family.steps(round(amount, 3)), end.name))
            except VERDICTS as error:  # this family cannot go so far, or cannot shape this network at all
                low, reason, over = amount, str(error), 0.0
            else:
                over = self._excess(tried)
                known.append((amount, over))
                best, low, high = (tried, amount, high) if over <= 1 else (best, low, amount)
            if CLOSE <= over <= 1:
                break
            wanted = aimed(known) if over else math.inf
            amount = wanted if low < wanted < high else (low + high) / 2
            if amount < LEAST:
                break
        if best is not None:
            yield self._told(best)
        else:
            self._drop(family.name, end, reason)

    def _first(self, end: Finish) -> float:
        """Where to begin: what may stay of the time, beside what integers save anyway."""
        if self.budget.latency is None:
            return 0.5
        share = MARGIN * self.budget.latency.of(self.start.ms) / self.start.ms
        return min(0.95, max(0.2, share / self.int8.ratio if end.then and self.int8 else share))

    def _drop(self, name: str, end: Finish, why: str) -> None:
        title = Candidate(name, (), end.name).title
        self.dropped[title] = why
        self.say(f"{title}: left out. {why}")

    def _try(self, candidate: Candidate) -> Candidate:
        return self._told(self._measured(candidate))

    def _measured(self, candidate: Candidate, shaped: nn.Module | None = None) -> Candidate:
        """Time, bytes and memory, from the structure alone."""
        small = self.shaped(candidate) if shaped is None else shaped
        stored = self._ended(small, candidate.end)
        times = self.clock.compare({"baseline": self.model, "candidate": stored}, seconds=SECONDS)
        ms, was = times["candidate"].median_ms, times["baseline"].median_ms
        macs = profile(small, self.look.example).effective_macs  # of the shape: what integers round to zero is no shape
        memory = profile(stored, self.look.example).peak_activation_bytes
        return replace(candidate, ms=ms, ratio=ms / was, memory=memory, macs=macs, bytes=file_bytes(stored))

    def shaped(self, candidate: Candidate) -> nn.Module:
        """The network in a candidate's shape, norms as they were."""
        small = self.model
        for step in candidate.shape:
            if isinstance(step, Student):
                small = step(self.model, self.look.example, self.look.seed)
            elif isinstance(step, Slim):
                small = step(small)
            elif isinstance(step, Method):
                small = step(small, self.look)
        return small

    def _ended(self, small: nn.Module, end: Finish) -> nn.Module:
        """With what comes after training and needs none; rounding for the file changes neither times nor memory."""
        for method in end.then:
            small = method(small, self.look)
        return small

    def _told(self, candidate: Candidate) -> Candidate:
        """With the validation accuracy before any training, of the whole split as after it, and a line for who watches."""
        small = run(self.model, Recipe(candidate.shape), self.bench).model  # from here on whoever trains it finds it done
        small = self._ended(small, candidate.end)
        found = replace(candidate, accuracy=accuracy(small, self.task.batches("val", 250), self.task.metric).value)
        how = ", ".join(s.text() for s in found.shape if isinstance(s, Method | Student | Slim)) or "nothing removed"
        self.say(
            f"{found.title}: {how}: "
            f"{found.ratio:.2f}x latency, {found.bytes / 1000:,.0f} kB, {100 * (found.accuracy or 0):.1f} % on validation"
        )
        return found

    def _excess(self, candidate: Candidate) -> float:
        """The worst of what it takes, as a share of what is allowed; bytes only where they do not wait for training."""
        c = candidate
        taken = self.budget.taken(vars(self.start), c.bytes, c.ms, c.ratio, c.memory, MARGIN)
        if c.end.rated:
            taken.pop("size", None)
        return max(taken.values(), default=0.0)


def aimed(known: list[tuple[float, float]]) -> float:
    """The amount to try next, from amounts and the shares of a budget that they took: by the line through the last two, since
    part of a time stays whatever leaves; from one alone as if nothing stayed.

    >>> round(aimed([(0.6, 1.2)]), 6), round(aimed([(0.9, 1.1), (0.5, 0.9)]), 6)
    (0.48, 0.62)
    """
    amount, over = known[-1]
    if len(known) > 1:
        was, took = known[-2]
        if (over - took) * (amount - was) > 0:
            return amount + (AIM - over) * (amount - was) / (over - took)
    return amount * AIM / over


def epoch_seconds(model: nn.Module, teacher: nn.Module, bench: Bench, fit: Fit) -> float:
    """About how long an epoch of a network and its teacher takes, from four batches where they will be trained."""
    task, fabric = bench.task, fabric_of(replace(bench.machine, devices=1), fit.precision)
    x, y = next(iter(task.batches("train", fit.batch_size, device=fabric.device)))
    model, teacher = copy.deepcopy(model).train().to(fabric.device), copy.deepcopy(teacher).eval().to(fabric.device)
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        with fabric.autocast():
            with torch.no_grad():
                teacher(x)
            task.loss(model(x), y).backward()
        float(next(p.grad for p in model.parameters() if p.grad is not None).sum())  # an accelerator works on until it is asked
        times.append(time.perf_counter() - begun)
    return 1.1 * sorted(times)[1] * len(task.train) / len(x) / bench.machine.devices
