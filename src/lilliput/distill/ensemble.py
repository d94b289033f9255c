"""Several teachers as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lilliput.errors import ConfigError


class Ensemble(nn.Module):
    """Several teachers as one: a network whose softened probabilities are their mean.

    z = mean of z_k                                  without a temperature: the geometric mean of probabilities, for any T
    z = T·log(mean of softmax(z_k / T))              with a temperature T: the arithmetic mean, at that T
    Taps of member k are `k.layer`, and are always to be named. Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """

    def __init__(self, teachers: Sequence[nn.Module], temperature: float | None = None) -> None:
        super().__init__()
        if not teachers or (temperature is not None and not temperature > 0):
            raise ConfigError(f"`teachers` (={len(teachers)} of them) are one or more, `temperature` (={temperature}) above 0")
        self.names = [str(number) for number in range(len(teachers))]
        for name, teacher in zip(self.names, teachers, strict=True):
            self.add_module(name, teacher)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, classes)."""
        outputs = [self.get_submodule(name)(x) for name in self.names]  # one that is given twice counts twice
        for other in outputs[1:]:
            if other.shape != outputs[0].shape:
                raise ConfigError(
                    f"teachers give {tuple(outputs[0].shape)} and {tuple(other.shape)}: they need the same classes"
                )
        together = torch.stack(outputs)  # (teachers, n, classes)
        if self.temperature is None:
            return together.mean(0)
        probable = (together / self.temperature).log_softmax(2).logsumexp(0)
        return self.temperature * probable  # up to a constant, which softmax does not see
