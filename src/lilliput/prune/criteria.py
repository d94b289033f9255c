"""What a channel is worth. A criterion sees one layer as `channels × everything else` and returns a score a channel.

The core hands every kind of layer over in this one view, so a criterion never asks what it is looking at. Larger is
more worth keeping; the scale is free, because scores are divided by their mean over the layer before they are combined.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lilliput.registry import Registry

Criterion = Callable[[Tensor], Tensor]
criteria: Registry[Criterion] = Registry("pruning criterion")


@criteria.register("l1")
def l1(w: Tensor) -> Tensor:
    """Sum of absolute weights: s = Σ|w|.

    `w` (channels, rest) to (channels,). Needs no data.
    Li et al. 2017, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710.
    """
    return w.abs().sum(1)


@criteria.register("l2")
def l2(w: Tensor) -> Tensor:
    """Euclidean norm of the weights: s = √Σw².

    `w` (channels, rest) to (channels,). Needs no data.
    He et al. 2018, "Soft Filter Pruning", arXiv:1808.06866.
    """
    return w.square().sum(1).sqrt()
