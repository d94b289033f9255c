"""The ways a search may take: what gives a network its shape, how its weights are stored, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lilliput.config import Config, from_json
from lilliput.core.method import Method
from lilliput.distill import Hinton
from lilliput.factor import Factorize
from lilliput.opening import open_model
from lilliput.prune import Channels, Layers, Weights, gradual
from lilliput.quant import Quantize
from lilliput.quant.hold import HoldBits
from lilliput.quant.rate import RateQuantize
from lilliput.quant.rate_penalty import RatePenalty
from lilliput.recipe import Bake, Student
from lilliput.supernet import Slim, Widths
from lilliput.train import BatchNorm, Fit
from lilliput.zoo.slimmable import Slimmable

PENALTY = 2.0  # the loss that a bit a weight is worth; a tenth of it changes nothing that counts
DENSEST = 0.25  # of the weights stay, where the family of zeros begins: with more of them no kernel gains
LEFT = 0.6  # of the first training, when the last weights leave
INTACT = 0.01  # of accuracy that integers may lose before they are trained, where they are all that is tried
SLOWER = 0.4  # of the learning rate of floats, for rounded weights: five epochs at all of it end with more loss than two


@dataclass(frozen=True)
class Finish:
    """What a network's weights end as: `rated`, rounded for the file and trained so, and the steps `then`, which need no
    training."""

    name: str
    rated: bool = False
    then: tuple[Method, ...] = ()


# Rounded weights have few levels, so eight bits with scales that take a few bits each in the file are enough for kernels.
FLOAT, INT8 = Finish("float"), Finish("int8", then=(Quantize(),))
RATE, RATE_INT8 = Finish("rate", True), Finish("rate in int8", True, (Quantize(weights="power"),))
FINISHES = {each.name: each for each in (FLOAT, INT8, RATE, RATE_INT8)}


@dataclass(frozen=True)
class Family:
    """One way to shape a network: its steps for an amount that stays, in (0, 1]; `fixed` where there is nothing to choose,
    `varied` where several amounts are worth trying if no budget names one, and `packed` where the layers stay as large as they
    are, and only kernels for zeros gain."""

    name: str
    steps: Callable[[float], tuple[Config, ...]]
    fixed: bool = False
    varied: bool = False
    packed: bool = False

    def without(self, layers: tuple[str, ...]) -> Family:
        """The family with these layers left as they are."""
        return replace(
            self, steps=lambda a: tuple(replace(s, skip=layers) if isinstance(s, Weights) else s for s in self.steps(a))
        )


def _global(multiple: int) -> Callable[[float], tuple[Config, ...]]:
    """All groups compared with each other, in widths that kernels compute without waste.

    A width between two multiples costs what the next one does, and with some kernels more (bench/channel_speed.py).
    """
    return lambda a: (Channels(macs=a, criterion="group_norm", allocate="global", multiple=multiple), BatchNorm())


FAMILIES = (
    Family("channels", _global(16), varied=True),
    Family("channels in eights", _global(8), varied=True),
    Family("channels by time", lambda a: (
        Channels(latency=a, criterion="group_norm", allocate="latency"), BatchNorm()), varied=True),
    Family("inner channels", lambda a: (Channels(keep=a, scope="inner", multiple=8), BatchNorm()), varied=True),
    Family("channels refitted", lambda a: (
        Channels(macs=a, criterion="hessian", allocate="global", per="macs", compensate=True, multiple=8), BatchNorm())),
    Family("factors", lambda a: (
        Factorize(method=("svd", "spatial", "tucker2"), macs=a, worth="loss", whiten=True, images=256), BatchNorm())),
    Family("blocks", lambda a: (Layers(macs=a, criterion="kl", images=64), BatchNorm())),
    Family("zeros", lambda a: (Weights(rate=round(1 - DENSEST * a, 4)), BatchNorm()), varied=True, packed=True),
)  # fmt: skip


def students(architecture: str) -> list[Family]:
    """Another network that learns from the given one, or every width of it where it is slimmable; each has one amount."""
    made, step, name = open_model(architecture), Student(architecture), f"student {architecture}"
    if isinstance(made, Slimmable):
        return [_only(f"{name} at {w:g}", step, Slim(w)) for w in made.widths]
    return [_only(name, step)]


def widths(model: nn.Module) -> list[Family]:
    """What a trained slimmable network holds: all of its widths but the widest."""
    found = model.widths[:-1] if isinstance(model, Slimmable) else ()
    return [_only(f"width {w:g}", Slim(w)) for w in found]


def _only(name: str, *steps: Config) -> Family:
    """A family of one amount."""
    return Family(name, lambda amount: steps, fixed=True)


@dataclass(frozen=True)
class Candidate:
    """One way through: the steps that shape the network, and what its weights end as.

    finish  float; int8 (`quant.quantize`, without training); rate: rounded for a file of the size asked for (`quant.rate`)
            after the first rung, and trained on as it was rounded; or rate in int8: small as that and fast as this
    ratio, ms, bytes, memory, macs, accuracy   as measured before any training; accuracy on validation, ratio of milliseconds,
            multiply-adds by weights that are not zero
    """

    name: str
    shape: tuple[Config, ...]
    finish: str
    ratio: float = 1.0
    ms: float = 0.0
    bytes: int = 0
    memory: int = 0
    macs: int = 0
    accuracy: float | None = None

    @property
    def end(self) -> Finish:
        """Its finish."""
        return FINISHES[self.finish]

    @property
    def title(self) -> str:
        """As tables call it."""
        return self.name if self.finish == "float" else f"{self.name}, {self.finish}"

    def steps(
        self, epochs: Sequence[int], fit: Fit, grid: RateQuantize | None = None, hold: HoldBits | None = None
    ) -> tuple[Config, ...]:
        """Shape and training, a fit for each of `epochs`; what comes after training is not among them.

        With a `grid` the weights are rounded by it after the first fit, and the others train what the file will `hold`.
        """
        first, *later = (self._fit(fit, n, hold if k else None) for k, n in enumerate(epochs))
        between = () if grid is None else (Bake(), replace(grid, norms="keep"))
        return (*self._begun(fit, first), *between, *later)

    @property
    def supernet(self) -> bool:
        """Whether it is a part of a network that is trained first, once for all of its widths."""
        return {Student, Slim} <= {type(step) for step in self.shape}

    def _begun(self, fit: Fit, first: Fit) -> tuple[Config, ...]:
        """The shape and its first training, in which weights leave one after the other; a supernet that the shape is taken from
        is trained before, for as long."""
        if self.supernet:
            together = replace(first, callbacks=(*fit.callbacks, Widths()))
            return (self.shape[0], together, *self.shape[1:], first)
        start = self.shape[0] if self.shape else None
        if isinstance(start, Weights):
            return tuple(gradual(start, first, every=1, until=LEFT))
        return (*self.shape, first)

    def _fit(self, fit: Fit, epochs: int, hold: HoldBits | None) -> Fit:
        """One training; that of rounded weights is slower, and brings its own penalty."""
        added = [hold] if hold else [RatePenalty(PENALTY)] if self.end.rated else []
        lr = round(SLOWER * fit.lr, 9) if hold else fit.lr
        return replace(fit, epochs=epochs, lr=lr, distill=fit.distill or Hinton(), callbacks=(*fit.callbacks, *added))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, which `from_json` reads back."""
        return {**vars(self), "shape": [step.to_json() for step in self.shape]}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Candidate:
        """The candidate that was written."""
        return Candidate(**{**value, "shape": tuple(from_json(step) for step in value["shape"])})


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Without those that repeat another's shape and finish."""
    found: dict[str, Candidate] = {}
    for each in candidates:
        found.setdefault(repr((each.shape, each.finish)), each)
    return list(found.values())
