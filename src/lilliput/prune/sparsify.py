"""A penalty under which weights, or groups of them, shrink to nothing while a network trains."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.callback import Active, Callback
from lilliput.errors import ConfigError
from lilliput.prune.masks import hosts
from lilliput.prune.patterns import pattern


@config("prune.sparsify")
class Sparsify(Callback):
    """Add strength · Σ over groups of √size · ‖w_group‖₂ to the loss; with single weights that is the L1 norm.

    ∂/∂w = strength · √size · w / ‖w_group‖₂, and 0 where the group is zero: it draws every group to zero at the same
    speed. Gradient steps come near zero and do not stay there, so `prune.weights` with the same pattern comes after.

    strength   above 0; 1e-5 to 1e-4 for single weights
    pattern    weight (L1), or what goes together (group lasso): 1xN, kernel, position, filter (prune/patterns)
    skip       patterns of layers that are left alone
    Tibshirani 1996 (L1); Yuan and Lin 2006 (groups); Wen et al. 2016, arXiv:1608.03665, for filters and positions.
    """

    strength: float = 1e-5
    pattern: str = "weight"
    skip: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if not (self.strength > 0 and math.isfinite(self.strength)):
            raise ConfigError(f"`strength` (={self.strength}) is finite and above 0")
        if pattern(self.pattern).most:
            raise ConfigError(f"`pattern` (={self.pattern}) has no groups that shrink together")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Penalise the weights of this model."""
        self.check()
        layers = [layer for site, layer in hosts(model) if not any(fnmatchcase(site, p) for p in self.skip)]
        return _Penalty(self, layers)


class _Penalty(Active):
    def __init__(self, plan: Sparsify, layers: list[Any]) -> None:
        self.plan, self.layers = plan, layers

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The penalty of all layers."""
        terms = [penalty(layer.weight, self.plan.pattern) for layer in self.layers]
        return self.plan.strength * torch.stack(terms).sum() if terms else None


def penalty(weight: Tensor, name: str) -> Tensor:
    """Σ √size · ‖w_group‖₂."""
    grain = pattern(name)
    if not grain.over:
        return weight.abs().sum()
    squares = grain.pool(weight.square())
    norms = squares.clamp(min=torch.finfo(weight.dtype).tiny).sqrt()  # clamped, so that the gradient at zero is zero
    return math.sqrt(grain.size(weight.shape)) * norms.sum()
