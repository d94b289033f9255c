"""What a distillation is: a term that compares a student with its teacher, beside the task's own loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import Config
from lilliput.data.seeds import generator
from lilliput.distill.taps import Scene, Shape, Taps
from lilliput.errors import ConfigError, at


@dataclass(frozen=True)
class Seen:
    """What one network did with a batch: its outputs (n, classes), and its tapped features by site."""

    outputs: Tensor
    taps: dict[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One batch of a training.

    `hard` is the task's own loss of the student and `judge` computes it; `done` is the share of all steps behind.
    `places` says which images of the training split these are. `peer` are the teacher's outputs with their gradient,
    where the teacher learns too.
    """

    student: Seen
    teacher: Seen
    targets: Tensor
    hard: Tensor
    judge: Callable[[Tensor, Tensor], Tensor]
    done: float = 0.0
    step: int = 0
    places: Tensor | None = None
    peer: Tensor | None = None


class Distillation(Config):
    """A loss with a teacher in it, as a frozen value.

    L = hard · (the task's own loss) + weight · (this loss)

    Contract. `begin` makes the `nn.Module` that one training has: its `forward(turn)` is the teacher's part of the loss, a
    scalar with its weight; what it has of parameters is trained and thrown away, and follows from the seed. `share` is
    the weight of the task's own loss. No gradient reaches the teacher. A loss is a value and holds nothing that changes.
    """

    def __post_init__(self) -> None:
        """Lists become tuples, as they are when read from text."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

    def begin(self, scene: Scene) -> nn.Module:
        """The teacher's part of the loss in one training."""
        raise NotImplementedError

    def share(self) -> float:
        """How much the task's own loss counts."""
        raise NotImplementedError

    def reaches_outputs(self) -> bool:
        """Whether every layer up to the outputs gets a gradient."""
        return self.share() > 0

    def trains_teacher(self) -> bool:
        """Whether the teacher is a peer that learns, too."""
        return False

    def total(self, part: nn.Module, turn: Turn) -> Tensor:
        """The scalar to minimise; `part` is what `begin` made."""
        taught: Tensor = part(turn)
        return self.share() * turn.hard + taught if self.share() else taught


class Response(Distillation):
    """Compares outputs. Called with student (n, classes), teacher (n, classes), targets (n): the term without its weight."""

    weight: float
    hard: float

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        """The term of one batch."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)

    def share(self) -> float:
        """How much the task's own loss counts."""
        return self.hard

    def reaches_outputs(self) -> bool:
        """Always."""
        return True

    def begin(self, scene: Scene) -> nn.Module:
        """Nothing to prepare."""
        return ResponsePart(self)

    def part(self, turn: Turn) -> Tensor:
        """The weighted term."""
        return self.weight * self(turn.student.outputs, turn.teacher.outputs, turn.targets)


class ResponsePart(nn.Module):
    """A loss of outputs in one training."""

    def __init__(self, loss: Response) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, turn: Turn) -> Tensor:
        """The teacher's part of the loss."""
        return self.loss.part(turn)


class Feature(Distillation):
    """Compares features. Called with as many tapped features of the student as of the teacher: the term without its weight.

    `taps` names layers by pattern, for both networks alike or as {of the student: of the teacher}; they are paired in the
    order in which they run. `layer:in` is the input of a layer. Without `taps` the loss takes what its paper takes
    (`default`): the ends of all stages, of the middle or the last one, or the embedding in front of the classifier. A
    stage ends with the last layer of one size of image.
    """

    default: ClassVar[str] = "stages"
    taps: Taps
    weight: float
    hard: float

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        raise NotImplementedError

    def adapters(self, student: Sequence[Shape], teacher: Sequence[Shape], scene: Scene) -> nn.Module | None:
        """What is trained beside the student, from the shapes of the taps."""
        return None

    def term(self, student: Sequence[Tensor], teacher: Sequence[Tensor], adapters: Any, turn: Turn) -> Tensor:
        """The term of one batch in a training; `adapters` is what the method of that name made."""
        return self(student, teacher)

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)

    def share(self) -> float:
        """How much the task's own loss counts."""
        return self.hard

    def begin(self, scene: Scene) -> nn.Module:
        """Find the taps, and make adapters for their shapes."""
        with at(self.name):
            pairs = scene.pairs(self.taps, self.default)
            shapes = [scene.ours.shapes[s] for s, _ in pairs], [scene.theirs.shapes[t] for _, t in pairs]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator("adapters", self.text(), scene.seed))))
                return FeaturePart(self, pairs, self.adapters(*shapes, scene))


class FeaturePart(nn.Module):
    """A loss of features in one training: which taps it compares, and its adapters."""

    def __init__(self, loss: Feature, pairs: tuple[tuple[str, str], ...], adapters: nn.Module | None) -> None:
        super().__init__()
        self.loss, self.pairs, self.adapters = loss, pairs, adapters

    def forward(self, turn: Turn) -> Tensor:
        """The teacher's part of the loss."""
        ours, theirs = [turn.student.taps[s] for s, _ in self.pairs], [turn.teacher.taps[t] for _, t in self.pairs]
        with at(f"{self.loss.name}, {', '.join(f'{s} and {t}' if s != t else s for s, t in self.pairs)}"):
            return self.loss.weight * self.loss.term(ours, theirs, self.adapters, turn)


def check_weights(loss: Response | Feature) -> None:
    """Raise `ConfigError` where a weight is below 0."""
    if not (loss.weight >= 0 and loss.hard >= 0):
        raise ConfigError(f"`weight` (={loss.weight}) and `hard` (={loss.hard}) are from 0")


def check_temperature(temperature: float) -> None:
    """Raise `ConfigError` for a temperature that is not above 0."""
    if not temperature > 0:
        raise ConfigError(f"`temperature` (={temperature}) must be above 0")


def same_classes(student: Tensor, teacher: Tensor) -> None:
    """Raise `ConfigError` where outputs differ in shape."""
    if student.shape != teacher.shape:
        raise ConfigError(
            f"the student gives {tuple(student.shape)} and the teacher {tuple(teacher.shape)}: they need the same classes"
        )
