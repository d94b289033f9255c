"""Criteria that ask the loss: how it changes, to first and second order, when a channel goes. No scale is free here: the
scores of all layers are changes of one loss, so `global` compares them as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lilliput.prune.criteria import criterion

BATCH = 32
"""Images over which `taylor` averages a gradient before it is squared."""


@criterion("taylor", "gates", "none", whole=True)
def taylor(slope: Tensor) -> Tensor:
    """First-order change of the loss, squared: s = mean over minibatches of (∂L/∂z)², with L the minibatch's mean loss.

    `slope` (images, atoms) is ∂L/∂z by the gate z of a channel (prune/gates), which equals Σ w·∂L/∂w over the weights that
    read it. One forward and backward an image.
    Molchanov et al. 2019, "Importance Estimation", arXiv:1906.10771.
    """
    return torch.stack([batch.mean(0).square() for batch in slope.split(BATCH)]).mean(0)


@criterion("fisher", "gates", "none", whole=True)
def fisher(slope: Tensor) -> Tensor:
    """Fisher information of the gate that coupled layers share: s = ½·mean over images of (∂L/∂z)².

    `slope` (images, atoms) sums over all layers that read the channel before it is squared. The second-order change of the
    loss, if the network is trained to an optimum. One forward and backward an image. `per="memory"` is the paper's choice.
    Liu et al. 2021, "Group Fisher Pruning", arXiv:2108.00708.
    """
    return slope.double().square().mean(0) / 2


@criterion("hessian", "curvature", "none", whole=True)
def hessian(bend: Tensor) -> Tensor:
    """Second-order change of the loss: s = ½·∂²L/∂z², the saliency of Optimal Brain Damage with a channel's gate as the
    parameter.

    `bend` (images, atoms) estimates the diagonal of the Hessian in the Gauss-Newton form that the paper takes too. Labels
    hardly matter to it, so confident networks still tell channels apart. One forward and backward an image.
    LeCun, Denker & Solla 1990, "Optimal Brain Damage".
    """
    return bend.double().mean(0) / 2
