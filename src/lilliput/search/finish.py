"""A candidate trained for so long and finished for its file: trained with the numbers the file will hold, where it is small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from lilliput.config import Config
from lilliput.core.perform import bake
from lilliput.core.record import record
from lilliput.errors import BudgetError
from lilliput.quant import Fold
from lilliput.quant.held import held
from lilliput.quant.hold import WIDEST, HoldBits, coded
from lilliput.quant.rate import RateQuantize
from lilliput.recipe import Bake, Bench, Recipe, run
from lilliput.search.candidates import Candidate
from lilliput.search.rate import pack
from lilliput.store import file_bytes
from lilliput.train import Fit

Steps = tuple[Config, ...]
TEXT = 256  # bytes for what a file says of the steps after training
FINER = 0.5  # bytes a row, for steps that norms have moved
SLACK = 0.002  # of the file, for codes whose bytes are held no better
WIDER = 1.2  # steps of dead zone, for e times as many bytes as there may be: about what does
NUDGE = 0.004  # of a step at least


class Finisher:
    """Trains and finishes candidates for files of `size` bytes, where there is such a limit."""

    def __init__(self, model: nn.Module, bench: Bench, fit: Fit, size: float | None) -> None:
        self.model, self.bench, self.fit, self.size = model, bench, fit, size

    def __call__(self, candidate: Candidate, epochs: Sequence[int], grid: RateQuantize | None, only: bool) -> Steps:
        """All steps of a candidate that trains for so many epochs on each rung.

        `grid` is what rounded it on the first rung, and `only` where that is all there is: then half of its epochs follow
        rounding. Raises `BudgetError` where no file is small enough.
        """
        if not candidate.end.rated:
            return (*candidate.steps(epochs, self.fit), *candidate.end.then)
        epochs = halves(epochs[0]) if only else epochs
        if len(epochs) == 1:
            steps = candidate.steps(epochs, self.fit)
            return (*steps, Bake(), self.rounded(candidate, steps, RateQuantize(turns=only)), *candidate.end.then)
        if grid is None:
            grid = self.rounded(candidate, candidate.steps(epochs[:1], self.fit), RateQuantize(turns=False))
        hold = HoldBits(self.room(candidate, candidate.steps(epochs[:1], self.fit, grid)))
        return self.folded(candidate, candidate.steps(epochs, self.fit, grid, hold))

    def run(self, steps: Steps) -> nn.Module:
        """The network that these steps make."""
        return run(self.model, Recipe(steps), self.bench).model

    def rounded(self, candidate: Candidate, steps: Steps, method: RateQuantize) -> RateQuantize:
        """The method with the step that fits into the file."""
        assert self.size is not None
        trained = self.run(steps)
        try:
            return pack(
                bake(trained), self.bench.task, size=self.size - TEXT, seed=self.bench.seed, method=method,
                architecture=record(trained).architecture, then=candidate.end.then,
            ).method  # fmt: skip
        except BudgetError:
            raise BudgetError(f"no step rounds it for a file of the {self.size:,.0f} bytes asked for") from None

    def room(self, candidate: Candidate, steps: Steps) -> int:
        """The bytes that codes may take in the file, where all but them stays as it is before these weights are trained."""
        assert self.size is not None
        begun, whole = self.run(steps), file_bytes(self.run((*steps, Fold(), *candidate.end.then)))
        finer = FINER * sum(grid.rows for _, grid in held(begun))
        left = int(coded(begun) + (1 - SLACK) * self.size - TEXT - finer - whole)
        if left < 1:
            raise BudgetError(f"all but the codes of weights takes more than the {self.size:,.0f} bytes asked for")
        return left

    def folded(self, candidate: Candidate, steps: Steps) -> Steps:
        """The steps after training on a grid: codes stay, but for those that a wider dead zone must make zero for the file."""
        assert self.size is not None
        fold, zone = Fold(), float(held(self.run(steps))[0][1].zone)
        while (over := file_bytes(self.run((*steps, fold, *candidate.end.then))) / self.size) > 1:
            zone = round(zone + max(NUDGE, WIDER * math.log(over)), 4)
            if zone > WIDEST:
                raise BudgetError(
                    f"trained on the grid of its file, it takes {over:.2f} of the {self.size:,.0f} bytes asked for"
                )
            fold = replace(fold, zone=zone)
        return (*steps, fold, *candidate.end.then)


def halves(epochs: int) -> list[int]:
    """What is trained before rounding, and what after it.

    >>> halves(5), halves(1)
    ([3, 2], [1])
    """
    after = epochs // 2
    return [epochs - after, *([after] if after else [])]
