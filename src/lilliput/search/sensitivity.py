"""What every layer bears: one layer is compressed at a time, by one method, and the network is asked what it still knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from torch import nn

from lilliput.core.channels import channels
from lilliput.core.method import Look, Method
from lilliput.data import Task
from lilliput.errors import LilliputError, UnknownName
from lilliput.factor import Factorize
from lilliput.measure.accuracy import accuracy
from lilliput.prune import Channels, Weights
from lilliput.quant import Quantize

AMOUNTS = (0.25, 0.5, 0.75)
WIDTHS = {0.75: 8, 0.8125: 6, 0.875: 4, 0.90625: 3, 0.9375: 2}  # bits that are left, by the share of 32 that leaves


@dataclass(frozen=True)
class Point:
    """Validation accuracy of the network where `layer` alone gave up the share `amount` by a method.

    Of channels, weights and ranks the share that left; of bits the share of 32.
    """

    layer: str
    method: str
    amount: float
    accuracy: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


Way = Callable[[str, float], Method]
WAYS: dict[str, tuple[Way, tuple[float, ...]]] = {
    "channels": (lambda group, a: Channels(keep={group: round(1 - a, 6)}, criterion="group_norm"), AMOUNTS),
    "weights": (lambda layer, a: Weights(rate={layer: a}), (0.5, 0.75, 0.9)),
    "ranks": (lambda layer, a: Factorize(rank={layer: round(1 - a, 6)}), AMOUNTS),
    "bits": (lambda layer, a: Quantize(bits=32, activations=32, widths={layer: WIDTHS[a]}), tuple(WIDTHS)),
}


def sensitivity(
    model: nn.Module, task: Task, look: Look, methods: Sequence[str] = ("channels", "weights", "bits"), images: int = 500
) -> Iterator[Point]:
    """Points as they are found: for every method, layer by layer (of channels group by group), from little to much.

    Without training, and without new batch norm statistics, on the same `images` of the validation split. Costs one pass over
    them a point. A layer that a method cannot change has no points. Raises `UnknownName` for a method that is none.
    """
    for name in methods:
        if name not in WAYS:
            raise UnknownName("method to be sensitive to", name, WAYS)
    for name in methods:
        way, amounts = WAYS[name]
        for layer in _places(model, look, name):
            yield from _curve(model, task, look, (name, layer), [(a, way(layer, a)) for a in amounts], images)


def at_most(model: nn.Module, look: Look, methods: Sequence[str]) -> int:
    """How many points there are at most: curves end early where a layer has no more to give."""
    return sum(len(_places(model, look, name)) * len(WAYS[name][1]) for name in methods if name in WAYS)


def _curve(
    model: nn.Module, task: Task, look: Look, place: tuple[str, str], steps: list[tuple[float, Method]], images: int
) -> Iterator[Point]:
    name, layer = place
    for amount, method in steps:
        try:
            small = method(model, look)
        except LilliputError:  # nothing of this layer can leave, or not so much: its curve ends here
            return
        batches = islice(task.batches("val", 250, shuffle_seed=look.seed), max(1, images // 250))
        yield Point(layer, name, amount, accuracy(small, batches, task.metric).value)


def _places(model: nn.Module, look: Look, name: str) -> list[str]:
    if name == "channels":
        return [group.name for group in channels(model, look.example).groups]
    return [site for site, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
