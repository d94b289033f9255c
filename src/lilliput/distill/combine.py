"""Several losses at once, and losses that come and go during a training."""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.config import config
from lilliput.distill.contract import Distillation, Turn
from lilliput.distill.response import Hinton
from lilliput.distill.taps import Scene
from lilliput.errors import ConfigError, at


@config("distill.sum")
class Sum(Distillation):
    """Several losses, each with a weight of its own.

    L = hard·(the task's own loss) + Σ w_i·(the teacher's part of loss i)
    The task's own loss enters once, with `hard`; what a member says of it does not count. `weights` are 1 by default and
    multiply the weight that a member has anyway. All members share one forward of the teacher.
    """

    losses: tuple[Distillation, ...] = (Hinton(),)
    weights: tuple[float, ...] = ()
    hard: float = 1.0

    def __post_init__(self) -> None:
        """Losses and weights as they are when read from text."""
        object.__setattr__(self, "losses", tuple(self.losses))
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if not self.losses or (self.weights and len(self.weights) != len(self.losses)):
            raise ConfigError(f"`losses` (={len(self.losses)} of them) and `weights` (={len(self.weights)}): one weight each")
        if not (self.hard >= 0 and all(w >= 0 for w in self.weights)):
            raise ConfigError(f"`weights` (={list(self.weights)}) and `hard` (={self.hard}) are from 0")
        for loss in self.losses:
            with at(loss.name):
                loss.check()

    def share(self) -> float:
        """How much the task's own loss counts."""
        return self.hard

    def reaches_outputs(self) -> bool:
        """As any of the members."""
        return self.hard > 0 or any(loss.reaches_outputs() for loss in self.losses)

    def trains_teacher(self) -> bool:
        """As any of the members."""
        return any(loss.trains_teacher() for loss in self.losses)

    def begin(self, scene: Scene) -> nn.Module:
        """Every member."""
        return _Weighted([loss.begin(scene) for loss in self.losses], self.weights or (1.0,) * len(self.losses))


class _Weighted(nn.Module):
    """The members of a sum in one training."""

    def __init__(self, parts: list[nn.Module], weights: tuple[float, ...]) -> None:
        super().__init__()
        self.parts, self.weights = nn.ModuleList(parts), weights

    def forward(self, turn: Turn) -> Tensor:
        terms: list[Tensor] = [w * part(turn) for w, part in zip(self.weights, self.parts, strict=True)]
        return sum(terms[1:], terms[0])


@config("distill.scheduled")
class Scheduled(Distillation):
    """A loss whose weight changes during the training.

    weight(done) runs linearly between `points` (share of all steps done, factor), flat before the first and behind the
    last: `[[0, 0], [0.1, 1]]` is a warm-up, `[[0.5, 1], [1, 0]]` lets go of the teacher in the second half. The
    task's own loss keeps its share.
    """

    loss: Distillation = Hinton()
    points: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.1, 1.0))

    def __post_init__(self) -> None:
        """Points as they are when read from text."""
        object.__setattr__(self, "points", tuple((float(place), float(factor)) for place, factor in self.points))

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        places = [place for place, _ in self.points]
        if not places or places != sorted(set(places)) or not all(0 <= p <= 1 and f >= 0 for p, f in self.points):
            raise ConfigError(
                f"`points` (={[list(p) for p in self.points]}): shares from 0 to 1 that ascend, each with a factor from 0"
            )
        self.loss.check()

    def factor(self, done: float) -> float:
        """The factor when the share `done` of all steps is behind."""
        before = [p for p in self.points if p[0] <= done]
        after = [p for p in self.points if p[0] > done]
        if not before or not after:
            return (before[-1] if before else after[0])[1]
        (x0, y0), (x1, y1) = before[-1], after[0]
        return y0 + (y1 - y0) * (done - x0) / (x1 - x0)

    def share(self) -> float:
        """That of the loss inside."""
        return self.loss.share()

    def reaches_outputs(self) -> bool:
        """As the loss inside."""
        return self.loss.reaches_outputs()

    def trains_teacher(self) -> bool:
        """As the loss inside."""
        return self.loss.trains_teacher()

    def begin(self, scene: Scene) -> nn.Module:
        """The loss inside, with its weight."""
        return _Scaled(self, self.loss.begin(scene))


class _Scaled(nn.Module):
    """A scheduled loss in one training."""

    def __init__(self, schedule: Scheduled, part: nn.Module) -> None:
        super().__init__()
        self.schedule, self.part = schedule, part

    def forward(self, turn: Turn) -> Tensor:
        taught: Tensor = self.part(turn)
        return self.schedule.factor(turn.done) * taught
