"""What a channel is worth: each criterion is one function of one kind of evidence (prune/evidence).

`@criterion("l1", "weights")` says which evidence: what the function is called with, once for every layer that shows it,
or once for a whole group of coupled channels. It answers with a score a channel; larger is more worth keeping. Evidence
is the same for every kind of layer, so a criterion never asks what it is looking at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lilliput.registry import Registry

Score = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A scoring function, the evidence it `needs`, and how its scores are made comparable.

    `scale`: "layer" (divided by their mean over each layer, before layers are joined), "group" (divided by the mean over
    the group, after), or "none": they measure the same thing everywhere, as an effect on the loss does. `whole`: it is
    shown a group all at once, so that there are no scores of layers to join.
    """

    name: str
    function: Score
    needs: str
    scale: str
    whole: bool

    def __call__(self, shown: Any) -> Tensor:
        """Scores from what one layer, or a group, shows."""
        return self.function(shown)


criteria: Registry[Criterion] = Registry("pruning criterion")


def criterion(name: str, needs: str, scale: str = "layer", *, whole: bool = False) -> Callable[[Score], Score]:
    """Register a scoring function; `needs` is a kind of evidence."""

    def decorate(function: Score) -> Score:
        criteria.add(name, Criterion(name, function, needs, scale, whole))
        return function

    return decorate


@criterion("l1", "weights")
def l1(w: Tensor) -> Tensor:
    """Sum of absolute weights: s = Σ|w|.

    `w` (channels, rest) of a layer that makes the channels. Needs no data; one pass over the weights.
    Li et al. 2017, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710.
    """
    return w.abs().sum(1)


@criterion("l2", "weights")
def l2(w: Tensor) -> Tensor:
    """Euclidean norm of the weights: s = √Σw².

    `w` (channels, rest) of a layer that makes the channels. Needs no data; one pass over the weights.
    He et al. 2018, "Soft Filter Pruning", arXiv:1808.06866.
    """
    return w.square().sum(1).sqrt()


@criterion("group_norm", "energies", "group")
def group_norm(squares: Tensor) -> Tensor:
    """Squared norm of all weights that leave with a channel: s = Σw², over the layers that make, scale and read it.

    `squares` (channels, kernels), the squared norms of the kernels of any layer of the group. Needs no data; one pass over
    the weights.
    Fang et al. 2023, "DepGraph", arXiv:2301.12900, section 3.3, without its sparse training (see `prune.group_lasso`).
    """
    return squares.sum(1)


@criterion("fpgm", "weights")
def fpgm(w: Tensor) -> Tensor:
    """Distance to all other filters of the layer: s_c = Σ_d ‖w_c − w_d‖₂; what lies near the geometric median can go.

    `w` (channels, rest) of a layer that makes the channels. Needs no data; channels² · rest operations a layer.
    He et al. 2019, "Filter Pruning via Geometric Median", arXiv:1811.00250.
    """
    # exact differences: through products, the distance between equal filters is not zero
    return torch.cdist(w, w, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


@criterion("bn_scale", "scales", "none")
def bn_scale(gamma: Tensor) -> Tensor:
    """Size of the norm's scale: s = |γ|, compared across layers as it is.

    `gamma` (channels,) of a norm in the group. Needs no data, and tells most after training with `prune.slim`.
    Liu et al. 2017, "Network Slimming", arXiv:1708.06519.
    """
    return gamma.abs()


@criterion("random", "draws", "none", whole=True)
def random(draw: Tensor) -> Tensor:
    """A number drawn uniformly from [0, 1) by the look's seed: what every other criterion has to beat.

    `draw` (atoms,). Needs no data.
    Mittal et al. 2018, "Recovering from Random Pruning", arXiv:1801.10447.
    """
    return draw
