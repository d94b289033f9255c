"""Losses and metrics of a task by name: functions of a network's outputs (n, classes) and the right classes (n)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from lilliput.registry import Registry

Score: TypeAlias = Callable[[Tensor, Tensor], Tensor]

AUX = 0.3
"""The weight of each auxiliary head's loss: Szegedy et al. 2014, arXiv:1409.4842, section 5."""

losses: Registry[Score] = Registry("loss of a task")
metrics: Registry[Score] = Registry("metric")


def heads(outputs: Any) -> tuple[Any, tuple[Any, ...]]:
    """A network's own outputs and those of its auxiliary heads, of a named tuple (main, aux) as GoogLeNet gives in training."""
    return (outputs.main, tuple(outputs.aux)) if hasattr(outputs, "aux") else (outputs, ())


@losses.register("cross_entropy")
def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over images of -log softmax(outputs)[target], a scalar."""
    return F.cross_entropy(outputs, targets)


@metrics.register("accuracy")
def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The fraction of images whose largest output is their class."""
    return (outputs.argmax(1) == targets).float().mean()


@metrics.register("top5")
def top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """The fraction of images whose class is among the five largest outputs."""
    best = outputs.topk(min(5, outputs.shape[1]), 1).indices  # (n, 5)
    return (best == targets[:, None]).any(1).float().mean()
