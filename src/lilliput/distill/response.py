"""Distillation from a teacher's outputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lilliput.config import Config, config
from lilliput.errors import ConfigError


class Distillation(Config):
    """A loss with a teacher in it, as a frozen value.

    Contract. Called with the student's outputs, the teacher's outputs (no gradient reaches them) and what the task's own
    loss says of the student, it returns the scalar to minimise.
    """

    def __call__(self, student: Tensor, teacher: Tensor, hard: Tensor) -> Tensor:
        """The loss of one batch."""
        raise NotImplementedError


@config("distill.hinton")
class Hinton(Distillation):
    """The student matches the teacher's softened class probabilities.

    L = (1 - a)·hard + a·T²·KL(softmax(t / T) ‖ softmax(s / T)), averaged over the batch
    ∂L/∂s = (1 - a)·∂hard/∂s + a·T·(softmax(s / T) - softmax(t / T)) / n
    `student`, `teacher` (n, classes) raw outputs; `hard` a scalar; the result in nats.
    Costs one forward of the teacher a step.
    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """

    temperature: float = 4.0
    alpha: float = 0.9

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if not self.temperature > 0:
            raise ConfigError(f"`temperature` (={self.temperature}) must be above 0")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"`alpha` (={self.alpha}) is the teacher's share, from 0 to 1")

    def __call__(self, student: Tensor, teacher: Tensor, hard: Tensor) -> Tensor:
        """The loss of one batch."""
        if student.shape != teacher.shape:
            raise ConfigError(
                f"the student gives {tuple(student.shape)} and the teacher {tuple(teacher.shape)}: they need the same classes"
            )
        soft = F.kl_div(
            F.log_softmax(student / self.temperature, 1),
            F.log_softmax(teacher / self.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * soft
