"""The smallest file for a loss of accuracy, or the most accurate one for a size: the step of rounding, found by halving."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from lilliput.core.method import Look, Method
from lilliput.core.perform import perform
from lilliput.core.record import attach, record
from lilliput.data import Task
from lilliput.errors import BudgetError, ConfigError
from lilliput.measure.accuracy import accuracy
from lilliput.quant.rate import RateQuantize, gridded
from lilliput.recipe import Recipe
from lilliput.store import save

FINEST, COARSEST = 2.0**-15, 2.0**-4
HALVINGS = 9  # which leaves two percent of the step, or half a percent of the bytes


@dataclass(frozen=True)
class Packed:
    """A rounded network, the method that gives it again and the recipe with what follows it, the bytes of its file, and
    validation accuracy before and after."""

    model: nn.Module
    method: RateQuantize
    recipe: Recipe
    bytes: int
    before: float
    after: float

    @property
    def drop(self) -> float:
        """Points of validation accuracy lost."""
        return 100 * (self.before - self.after)


def pack(
    model: nn.Module, task: Task, *, size: float | None = None, drop: float | None = None, seed: int = 0,
    method: RateQuantize | None = None, architecture: str | None = None, then: Sequence[Method] = (),
) -> Packed:  # fmt: skip
    """Round the weights of a float network for a file, without training.

    With `size` (bytes of the file) as finely as fits; with `drop` alone (points of accuracy on the validation split) as
    coarsely as is allowed. `then` are methods that follow, such as integers for kernels; they are part of what is returned
    and of what is counted. Raises `BudgetError` where nothing fits, and, with both, where what fits loses more.
    """
    if size is None and drop is None:
        raise ConfigError("rounding for a file needs a `size` or a `drop`")
    search = _Search(model, task, method or RateQuantize(), seed, architecture, tuple(then))
    before = search.right(model)
    if size is not None:
        step = search.fitting(size)
    else:
        step = search.step(
            lambda rounded: 100 * (before - search.right(search.ended(rounded))) <= (drop or 0) + 1e-9, finest=False
        )
    if step is None:
        wanted = f"`size` (={size:,.0f} bytes)" if size is not None else f"`drop` (={drop} points)"
        raise BudgetError(
            f"no step from {FINEST:.2g} to {COARSEST:.2g} meets {wanted}; train it smaller first, or ask for less"
        )
    rounded = search.ended(search.rounded(step))
    recipe = search.recipe(step)
    found = Packed(rounded, recipe.steps[0], recipe, search.bytes(rounded), before, search.right(rounded))
    if drop is not None and found.drop > drop + 1e-9:
        raise BudgetError(f"the file of {found.bytes:,} bytes loses {found.drop:.2f} points, over the `drop` (={drop}) allowed")
    return found


class _Search:
    """One network with what is seen of it, rounded as often as is asked."""

    def __init__(
        self, model: nn.Module, task: Task, method: RateQuantize, seed: int, architecture: str | None, then: tuple[Method, ...]
    ) -> None:
        self.task, self.method, self.architecture, self.then = task, method, architecture, then
        self.look = look = Look(task.example(), task.drawn(), task.loss, seed)
        self.plan = perform(model, method.plan(model, look))
        sites = gridded(self.plan)
        if not sites:
            raise ConfigError("there is no layer whose weight could be rounded: all have maps already; bake the model first")
        self.seen = method.seen(self.plan, sites, look)

    def rounded(self, step: float) -> nn.Module:
        """The network at this step."""
        after = perform(self.plan, [])
        self.method.round(after, self.seen, step)
        return attach(after, recipe=self.recipe(step).text())

    def ended(self, rounded: nn.Module) -> nn.Module:
        """With what follows."""
        said = record(rounded).recipe
        for method in self.then:
            rounded = method(rounded, self.look)
        return attach(rounded, recipe=said)

    def recipe(self, step: float) -> Recipe:
        """What makes the network of a step again; a file holds its text."""
        return Recipe((replace(self.method, step=step), *self.then))

    def fitting(self, size: float) -> float | None:
        """The finest step whose file fits. What follows adds bytes that hardly depend on the step, so they are known early."""
        more = self.more(self.method.step)
        while True:
            left = size - more
            step = self.step(lambda rounded, left=left: self.bytes(rounded) <= left, finest=True)  # type: ignore[misc]
            if step is None or self.more(step) <= more:
                return step
            more = self.more(step)

    def more(self, step: float) -> int:
        """The bytes that what follows adds to the file of a step."""
        rounded = self.rounded(step)
        return self.bytes(self.ended(rounded)) - self.bytes(rounded) if self.then else 0

    def right(self, model: nn.Module) -> float:
        """Validation accuracy, as a share."""
        return accuracy(model, self.task.batches("val", 250)).value

    def bytes(self, model: nn.Module) -> int:
        """Of the whole file."""
        with tempfile.TemporaryDirectory() as folder:
            return save(model, Path(folder) / "packed.lil", architecture=self.architecture)

    def step(self, holds: Callable[[nn.Module], bool], finest: bool) -> float | None:
        """The finest step for which something holds, or the coarsest; none where it does not at the other end."""
        good, bad = (COARSEST, FINEST) if finest else (FINEST, COARSEST)
        if not holds(self.rounded(good)):
            return None
        if holds(self.rounded(bad)):
            return bad
        for _ in range(HALVINGS):
            middle = math.sqrt(good * bad)
            good, bad = (middle, bad) if holds(self.rounded(middle)) else (good, middle)
        return good
