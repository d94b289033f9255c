"""The smallest file for a loss of accuracy, or the most accurate one for a size: the step of rounding, looked for."""

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

LOW, HIGH = -15.0, -4.0  # logarithms of the step, to base 2
FINEST, COARSEST = 2.0**LOW, 2.0**HIGH
HALVINGS = 9  # which leaves two percent of the step, or half a percent of the bytes
CLOSE, NARROW = 0.007, 0.03  # octaves of bytes that may be left over, and of steps that may lie between
SLOPE = -0.4  # octaves of bytes an octave of the step, until two steps say it


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
    say: Callable[[str], None] = lambda line: None,
) -> Packed:  # fmt: skip
    """Round the weights of a float network for a file, without training.

    With `size` (bytes of the file) as finely as fits; with `drop` alone (points of accuracy on the validation split) as
    coarsely as is allowed. `then` are methods that follow, such as integers for kernels; they are part of what is returned
    and of what is counted; `say` hears of every step that is tried. Raises `BudgetError` where nothing fits, and, with both,
    where what fits loses more.
    """
    if size is None and drop is None:
        raise ConfigError("rounding for a file needs a `size` or a `drop`")
    search = _Search(model, task, method or RateQuantize(), seed, architecture, tuple(then), say)
    before = search.right(model)
    if size is not None:
        step = search.fitting(size)
    else:
        step = search.coarsest(lambda rounded: 100 * (before - search.right(search.ended(rounded))) <= (drop or 0) + 1e-9)
    if step is None:
        wanted = f"`size` (={size:,.0f} bytes)" if size is not None else f"`drop` (={drop} points)"
        more = "more bytes" if size is not None else "a larger drop"
        raise BudgetError(
            f"no step from {FINEST:.2g} to {COARSEST:.2g} meets {wanted}; train it smaller first, or allow {more}"
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
        self, model: nn.Module, task: Task, method: RateQuantize, seed: int, architecture: str | None,
        then: tuple[Method, ...], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.say = say
        self.task, self.method, self.architecture, self.then = task, method, architecture, then
        self.look = look = Look(task.example(), task.drawn(), task.loss, seed)
        self.plan = perform(model, method.plan(model, look))
        sites = gridded(self.plan)
        if not sites:
            raise ConfigError("there is no layer whose weight could be rounded: all have maps already; bake the model first")
        self.seen = method.seen(self.plan, sites, look)
        self.sizes: dict[float, int] = {}  # bytes by the logarithm of the step; and those that what follows adds
        self.added: dict[float, int] = {}
        self.last: tuple[float, nn.Module] | None = None  # the step found is looked at, weighed with what follows, and returned

    def rounded(self, step: float) -> nn.Module:
        """The network at this step; the last one is kept."""
        if self.last is None or self.last[0] != step:
            after = perform(self.plan, [])
            self.method.round(after, self.seen, step)
            self.last = step, attach(after, recipe=self.recipe(step).text())
        return self.last[1]

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
        place = min(max(math.log2(self.method.step or FINEST), LOW), HIGH)
        more = self.more(place)
        while True:
            found = self.filling(size - more)
            if found is None or self.more(found) <= more:
                return None if found is None else _step(found)
            more = self.more(found)

    def filling(self, size: float) -> float | None:
        """The logarithm of the finest step whose file, without what follows, is at most so large.

        Bytes fall with the step about as a power does, so the secant through the nearest steps on both sides finds it.
        """
        if size <= 0:
            return None
        for _ in range(2 * HALVINGS):
            known = {place: math.log2(many / size) for place, many in self.sizes.items()}
            place = _next(known)
            if place is None or place in known:  # near enough, or an end of the range
                break
            self.sizes[place] = self.bytes(self.rounded(_step(place)))
            self.say(f"rounded in steps of {_step(place):.3g}: {self.sizes[place]:,} of {size:,.0f} bytes")
        return min((place for place, many in self.sizes.items() if many <= size), default=None)

    def more(self, place: float) -> int:
        """The bytes that what follows adds to the file of a step, whose own it notes."""
        if place not in self.added:
            rounded = self.rounded(_step(place))
            self.sizes[place] = self.bytes(rounded)
            self.added[place] = self.bytes(self.ended(rounded)) - self.sizes[place] if self.then else 0
        return self.added[place]

    def right(self, model: nn.Module) -> float:
        """Validation accuracy, as a share."""
        return accuracy(model, self.task.batches("val", 250), self.task.metric).value

    def bytes(self, model: nn.Module) -> int:
        """Of the whole file."""
        with tempfile.TemporaryDirectory() as folder:
            return save(model, Path(folder) / "packed.lil", architecture=self.architecture)

    def coarsest(self, holds: Callable[[nn.Module], bool]) -> float | None:
        """The coarsest step for which something holds, found by halving; none where it does not for the finest."""

        def found(step: float) -> bool:
            enough = holds(self.rounded(step))
            self.say(f"rounded in steps of {step:.3g}: {'enough is known' if enough else 'too much is lost'}")
            return enough

        good, bad = FINEST, COARSEST
        if not found(good):
            return None
        if found(bad):
            return bad
        for _ in range(HALVINGS):
            middle = _step(math.log2(good * bad) / 2)
            good, bad = (middle, bad) if found(middle) else (good, middle)
        return good


def _step(place: float) -> float:
    """The step of a place, in as many digits as one would write in a recipe.

    >>> _step(-9.49)
    0.001391
    """
    return float(f"{2.0**place:.4g}")


def _next(known: dict[float, float]) -> float | None:
    """The place to look at next, from the logarithms of bytes beside the size at others; none where one is near enough.

    >>> _next({-10.0: 0.2}), _next({-10.0: -0.001})
    (-9.49, None)
    """
    fits = min((place for place, over in known.items() if over <= 0), default=None)
    bursts = max((place for place, over in known.items() if over > 0), default=None)
    if fits is not None and (known[fits] >= -CLOSE or (bursts is not None and fits - bursts < NARROW)):
        return None
    if fits is None or bursts is None:
        nearest = next(place for place in (fits, bursts) if place is not None)
        return min(max(round(nearest + (-CLOSE / 2 - known[nearest]) / SLOPE, 2), LOW), HIGH)
    slope = (known[fits] - known[bursts]) / (fits - bursts)
    wanted = bursts + (-CLOSE / 2 - known[bursts]) / slope
    return wanted if bursts < wanted < fits else (bursts + fits) / 2
