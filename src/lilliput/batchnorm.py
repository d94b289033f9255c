"""Statistics of batch norms, estimated anew."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lilliput.config import Config, config
from lilliput.data import Task
from lilliput.errors import ConfigError


@config("batchnorm")
class BatchNorm(Config):
    """Estimate the running mean and variance of every batch norm anew, over `images` training images.

    After channels leave or weights change, the stored statistics belong to another network. Each layer gets the plain
    average of its batch statistics. Costs one forward an image. Nothing else changes.
    """

    images: int = 2048
    batch_size: int = 128

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if self.images < self.batch_size or self.batch_size < 2:
            raise ConfigError(
                f"`images` (={self.images}) is at least one `batch_size` (={self.batch_size}), and that at least 2"
            )


def reestimate(model: nn.Module, task: Task, step: BatchNorm) -> nn.Module:
    """A copy of `model` with batch norm statistics estimated anew, as `step` says."""
    step.check()
    new = copy.deepcopy(model)
    norms = [m for m in new.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    new.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
        norm.train()
    with torch.no_grad():
        for x, _ in task.calibration(step.images, step.batch_size):
            new(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return new.train(model.training)
