"""Which candidates are worth training: for every family the gentlest amount that is measured to meet the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from lilliput.core.method import Method
from lilliput.data import Task
from lilliput.errors import LilliputError
from lilliput.measure import profile
from lilliput.measure.accuracy import accuracy
from lilliput.quant import Quantize
from lilliput.recipe import Bench, Recipe, Student, look, run
from lilliput.search.budget import Budget
from lilliput.search.candidates import FAMILIES, Candidate, Family, distinct, zeros_for
from lilliput.search.gentle import IMAGES, MARGIN, file_bytes
from lilliput.search.remembered import Remembered

TRIES = 4  # measurements a family and finish
CLOSE = 0.92  # to the budget is near enough
LEAST = 0.08  # of the network stays; a family that must go below is left out
SECONDS = 1.0  # a measurement
VARIANTS = (0.75, 0.5, 0.3)  # amounts where no budget says how much must go
THINNER = (0.6, 0.35)  # shapes beside the whole network where only the file is limited


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
        self.int8 = self._integers()

    def plan(self) -> Planned:
        """Everything that is worth training, gentlest first: those that keep most multiply-adds."""
        found = [c for family in self.families for c in self._family(family)]
        if self.budget.size is not None and self._excess(rate := self._try(Candidate("as it is", (), "rate"))) <= 1:
            found.insert(0, rate)
        kept = {id(c): self._left(c) for c in found}
        ordered = sorted(distinct(found), key=lambda c: -kept[id(c)])
        return Planned(ordered, [c for c in (self.start, self.int8) if c is not None], self.dropped)

    def _integers(self) -> Candidate | None:
        """The network in integers, where that is something to build on here."""
        try:
            found = self._try(Candidate("as it is", (), "int8"))
        except LilliputError as error:
            self.dropped["int8"] = str(error)
            return None
        if found.ratio < 1 or self.budget.latency is None:
            return found
        self.dropped["int8"] = f"not faster than floats on this machine ({found.ratio:.2f}x)"
        self.say("int8 is not faster than floats here, so it is left out")
        return None

    def _family(self, family: Family) -> Iterator[Candidate]:
        """The candidates of one family: floats, or their form for the file where floats are too large for it; and integers."""
        if family.fixed:
            yield from self._fixed(family)
            return
        size, shapes = self.budget.size is not None, self.budget.latency is not None or self.budget.memory is not None
        if shapes:
            yield from self._gentlest(family, "rate" if size else "float")
        elif size:
            yield from self._variants(family, "rate", THINNER)
        else:
            yield from self._variants(family, "float", VARIANTS)
        if self.int8 and (shapes or size):
            yield from self._gentlest(family, "int8")
        elif self.int8:
            yield from self._variants(family, "int8", VARIANTS)

    def _fixed(self, family: Family) -> Iterator[Candidate]:
        """What cannot be made smaller: with each finish it meets the budget, or it does not."""
        for finish in ("rate" if self.budget.size is not None else "float", *(("int8",) if self.int8 else ())):
            try:
                found = self._measured(Candidate(family.name, family.steps(1.0), finish))
                if (over := self._excess(found)) <= 1:
                    yield self._told(found)
                else:
                    self._drop(family, finish, f"takes {over:.2f} of what the budget allows")
            except LilliputError as error:
                self._drop(family, finish, str(error))

    def _variants(self, family: Family, finish: str, amounts: Iterable[float]) -> Iterator[Candidate]:
        for amount in amounts if family in FAMILIES[:3] else ():
            try:
                yield self._try(Candidate(f"{family.name} {amount:g}", family.steps(amount), finish))
            except LilliputError as error:
                self._drop(family, finish, str(error))

    def _gentlest(self, family: Family, finish: str) -> Iterator[Candidate]:
        """The amount at which it just meets the budget: what is over it by a third keeps a third less next time."""
        low, high, best, reason = 0.0, 1.0, None, "no amount meets the budget"
        amount = self._first(finish)
        for _ in range(TRIES):
            try:
                tried = self._measured(Candidate(family.name, family.steps(round(amount, 3)), finish))
            except LilliputError as error:  # this family cannot go so far, or cannot shape this network at all
                low, reason, over = amount, str(error), 0.0
            else:
                over = self._excess(tried)
                best, low, high = (tried, amount, high) if over <= 1 else (best, low, amount)
            if CLOSE <= over <= 1:
                break
            wanted = amount / over if over else math.inf
            amount = wanted if low < wanted < high else (low + high) / 2
            if amount < LEAST:
                break
        if best is not None:
            yield self._told(best)
        else:
            self._drop(family, finish, reason)

    def _first(self, finish: str) -> float:
        """Where to begin: what may stay of the time, beside what integers save anyway."""
        if self.budget.latency is None:
            return 0.5
        share = MARGIN * self.budget.latency.of(self.start.ms) / self.start.ms
        return min(0.95, max(0.2, share / self.int8.ratio if finish == "int8" and self.int8 else share))

    def _drop(self, family: Family, finish: str, why: str) -> None:
        title = Candidate(family.name, (), finish).title
        self.dropped[title] = why
        self.say(f"{title}: left out. {why}")

    def _try(self, candidate: Candidate) -> Candidate:
        return self._told(self._measured(candidate))

    def _measured(self, candidate: Candidate, shaped: nn.Module | None = None) -> Candidate:
        """Time, bytes and memory, from the structure alone."""
        small = self.shaped(candidate) if shaped is None else shaped
        stored = Quantize()(small, self.look) if candidate.finish == "int8" else small
        times = self.clock.compare({"baseline": self.model, "candidate": stored}, seconds=SECONDS)
        ms, was = times["candidate"].median_ms, times["baseline"].median_ms
        size = self.budget.size
        weights = sum(p.numel() for p in small.parameters())
        return replace(
            candidate, ms=ms, ratio=ms / was, memory=profile(stored, self.look.example).peak_activation_bytes,
            bytes=file_bytes(stored),
            zeros=zeros_for(size.of(self.start.bytes), weights) if candidate.finish == "rate" and size is not None else 0.0,
        )  # fmt: skip

    def shaped(self, candidate: Candidate) -> nn.Module:
        """The network in a candidate's shape, norms as they were."""
        small = self.model
        for step in candidate.shape:
            if isinstance(step, Student):
                small = step(self.model, self.look.example, self.look.seed)
            elif isinstance(step, Method):
                small = step(small, self.look)
        return small

    def _told(self, candidate: Candidate) -> Candidate:
        """With the validation accuracy before any training, and a line for who watches."""
        small = run(self.model, Recipe(candidate.shape), self.bench).model  # from here on whoever trains it finds it done
        small = Quantize()(small, self.look) if candidate.finish == "int8" else small
        batches = islice(self.task.batches("val", 250, shuffle_seed=self.look.seed), IMAGES // 250)
        found = replace(candidate, accuracy=accuracy(small, batches, self.task.metric).value)
        how = ", ".join(s.text() for s in found.shape if isinstance(s, Method | Student)) or "nothing removed"
        self.say(
            f"{found.title}: {how}: "
            f"{found.ratio:.2f}x latency, {found.bytes / 1000:,.0f} kB, {100 * (found.accuracy or 0):.1f} % on validation"
        )
        return found

    def _excess(self, candidate: Candidate) -> float:
        """The worst of what it takes, as a share of what is allowed; bytes only where they do not wait for training."""
        c = candidate
        taken = self.budget.taken(vars(self.start), c.bytes, c.ms, c.ratio, c.memory)
        if "latency" in taken:
            taken["latency"] /= MARGIN
        if c.finish == "rate":
            taken.pop("size", None)
        return max(taken.values(), default=0.0)

    def _left(self, candidate: Candidate) -> int:
        return profile(self.shaped(candidate), self.look.example).macs


def epoch_seconds(model: nn.Module, task: Task, precision: str, batch: int = 128) -> float:
    """About how long an epoch of training takes with the network as its own teacher, from four batches."""
    x, y = next(iter(task.batches("train", min(batch, len(task.train)))))
    model.train()
    mixed: Any = torch.autocast(x.device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        with mixed:
            with torch.no_grad():
                model(x)
            task.loss(model(x), y).backward()
        times.append(time.perf_counter() - begun)
    return 1.1 * sorted(times)[1] * len(task.train) / len(x)
