"""Distillation from a teacher's outputs: class probabilities, softened, taken apart, correlated, or exchanged."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.config import config
from lilliput.distill.contract import Distillation, Response, Turn, check_temperature, check_weights, same_classes
from lilliput.distill.taps import Scene
from lilliput.errors import ConfigError


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(t / T) ‖ softmax(s / T)) of outputs (n, classes), averaged over the batch, in nats."""
    ours, theirs = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@config("distill.hinton")
class Hinton(Distillation):
    """The student matches the teacher's softened class probabilities.

    L = (1 - a)·hard + a·T²·KL(softmax(t / T) ‖ softmax(s / T)), averaged over the batch
    ∂L/∂s = (1 - a)·∂hard/∂s + a·T·(softmax(s / T) - softmax(t / T)) / n
    `student`, `teacher` (n, classes) raw outputs; `hard` a scalar; the result in nats. With a = 1 no label is used.
    Costs one forward of the teacher a step.
    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """

    temperature: float = 4.0
    alpha: float = 0.9

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_temperature(self.temperature)
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"`alpha` (={self.alpha}) is the teacher's share, from 0 to 1")

    def __call__(self, student: Tensor, teacher: Tensor, hard: Tensor) -> Tensor:
        """The loss of one batch, the task's own loss `hard` included."""
        return (1 - self.alpha) * hard + self.soft(student, teacher)

    def soft(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The teacher's part, a·T²·KL."""
        same_classes(student, teacher)
        return self.alpha * self.temperature**2 * divergence(student, teacher, self.temperature)

    def share(self) -> float:
        """What the teacher leaves."""
        return 1 - self.alpha

    def reaches_outputs(self) -> bool:
        """Always."""
        return True

    def begin(self, scene: Scene) -> nn.Module:
        """Nothing to prepare."""
        return _Soft(self)


class _Soft(nn.Module):
    """Hinton's loss in one training."""

    def __init__(self, loss: Hinton) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, turn: Turn) -> Tensor:
        return self.loss.soft(turn.student.outputs, turn.teacher.outputs)


@config("distill.dkd")
class Dkd(Response):
    """Hinton's divergence taken apart: how sure the teacher is of the target, and how it ranks the other classes.

    L = T²·(a·KL(b_t ‖ b_s) + b·KL(q_t ‖ q_s)), averaged over the batch
    b = (p_y, 1 - p_y) with p = softmax(z / T);  q = softmax of z / T over the classes without the target y
    `student`, `teacher` (n, classes) raw outputs, `targets` (n); the result in nats. With b = 1 - p_y of the teacher and
    a = 1 it would be Hinton's; a constant b keeps what a sure teacher says of the other classes.
    Zhao, Cui, Song, Qiu, Liang 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679.
    """

    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    weight: float = 1.0
    hard: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)
        check_temperature(self.temperature)

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        """The term of one batch."""
        same_classes(student, teacher)
        target = F.one_hot(targets, student.shape[1]).bool()  # (n, classes)
        ours, theirs = student / self.temperature, teacher / self.temperature
        sure = _kl(self._binary(ours, target), self._binary(theirs, target))
        others = [F.log_softmax(z[~target].view(len(z), -1), 1) for z in (ours, theirs)]  # (n, classes - 1)
        return self.temperature**2 * (self.alpha * sure + self.beta * _kl(*others))

    @staticmethod
    def _binary(z: Tensor, target: Tensor) -> Tensor:
        """Logarithms of (p_y, 1 - p_y), (n, 2), from sums of exponentials so that no probability rounds to 1."""
        rest = torch.logsumexp(z.masked_fill(target, -torch.inf), 1)
        return F.log_softmax(torch.stack([z[target], rest], 1), 1)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


@config("distill.dist")
class Dist(Response):
    """The student's probabilities correlate with the teacher's, among classes and among images.

    L = T²·(b·mean over images of (1 - r(p_s[i, :], p_t[i, :])) + g·mean over classes of (1 - r(p_s[:, j], p_t[:, j])))
    p = softmax(z / T), r Pearson's correlation; `student`, `teacher` (n, classes) raw outputs; without unit.
    A much stronger teacher need not be copied, only agreed with.
    Huang, You, Wang, Qian, Xu 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536.
    """

    beta: float = 2.0
    gamma: float = 2.0
    temperature: float = 4.0
    weight: float = 1.0
    hard: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)
        check_temperature(self.temperature)

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        """The term of one batch."""
        same_classes(student, teacher)
        ours, theirs = (student / self.temperature).softmax(1), (teacher / self.temperature).softmax(1)
        among_classes, among_images = 1 - _pearson(ours, theirs), 1 - _pearson(ours.T, theirs.T)
        return self.temperature**2 * (self.beta * among_classes.mean() + self.gamma * among_images.mean())


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of each row of two matrices."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1, eps=1e-12)


@config("distill.standardized")
class Standardized(Distillation):
    """Another loss on outputs of mean 0 and deviation 1, so that a small student need not reach the teacher's magnitudes.

    z' = (z - mean(z)) / std(z) over the classes of each image, for student and teacher; the task's own loss sees z.
    For losses of outputs; temperatures around 2 and a weight of 9 are the paper's.
    Sun, Ren, Li, Wang, Cao 2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427.
    """

    loss: Distillation = Hinton(temperature=2.0)

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if not isinstance(self.loss, Hinton | Response):
            raise ConfigError(f"`loss` (={self.loss.name}) is a loss of a teacher's outputs: distill.hinton, dkd or dist")
        self.loss.check()

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
        """The loss inside, with its outputs standardised."""
        return _Standard(self.loss.begin(scene))


class _Standard(nn.Module):
    """Hands standardised outputs on."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, turn: Turn) -> Tensor:
        ours, theirs = (replace(seen, outputs=standardize(seen.outputs)) for seen in (turn.student, turn.teacher))
        taught: Tensor = self.part(replace(turn, student=ours, teacher=theirs))
        return taught


def standardize(outputs: Tensor) -> Tensor:
    """Outputs (n, classes) with mean 0 and deviation 1 in every row."""
    centred = outputs - outputs.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-7)


@config("distill.mutual")
class Mutual(Distillation):
    """Student and teacher learn at once, each from the labels and from the other: the teacher is a peer.

    L = hard·(H(s) + H(t)) + weight·T²·(KL(sg p_t ‖ p_s) + KL(sg p_s ‖ p_t));  p = softmax(z / T), H the task's loss,
    sg: no gradient. The peer starts as the teacher it is given, or from new weights (`fresh`), since two equal networks
    would stay equal; only the student is kept. Costs a second training.
    Zhang, Xiang, Hospedales, Lu 2018, "Deep Mutual Learning", arXiv:1706.00384.
    """

    temperature: float = 1.0
    fresh: bool = False
    weight: float = 1.0
    hard: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_temperature(self.temperature)
        if not (self.weight >= 0 and self.hard > 0):
            raise ConfigError(f"`weight` (={self.weight}) is from 0 and `hard` (={self.hard}) above 0: peers learn from labels")

    def share(self) -> float:
        """How much the task's own loss counts."""
        return self.hard

    def trains_teacher(self) -> bool:
        """That is the idea."""
        return True

    def begin(self, scene: Scene) -> nn.Module:
        """Draw the peer's weights anew where that is asked for."""
        if self.fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(scene.seed + 0x9EE7)
                for module in scene.teacher.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if callable(reset):
                        reset()
        return _Peers(self)


class _Peers(nn.Module):
    """Mutual learning in one training; the peer itself belongs to the lesson."""

    def __init__(self, loss: Mutual) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, turn: Turn) -> Tensor:
        loss, peer = self.loss, turn.peer
        if peer is None:
            raise ConfigError(f"{loss.name}: the teacher of this turn has no gradient, so it cannot learn")
        same_classes(turn.student.outputs, peer)
        ours = divergence(turn.student.outputs, peer.detach(), loss.temperature)
        theirs = divergence(peer, turn.student.outputs.detach(), loss.temperature)
        return loss.hard * turn.judge(peer, turn.targets) + loss.weight * loss.temperature**2 * (ours + theirs)
